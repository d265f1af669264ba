"""One level of speculative beam sampling: which drafted beams the target keeps, and how many to expect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rsd_integrations.speculation.rules import draw


def joint(weights: Tensor, following: Tensor, top_p: float = 1.0, top_k: int = 0) -> Tensor:
    """The joint distribution of a beam and its next token, [beams, vocabulary], from which beam sampling draws.

    Args:
        weights: Weights of the beams [beams], ≥ 0, not all 0.
        following: Distributions of their next tokens [beams, vocabulary], after temperature.
        top_p: Mass of the smallest set of (beam, token) pairs to keep, of the joint distribution.
        top_k: Number of likeliest (beam, token) pairs to keep before that, plus ties with the last; 0 for all.
    """
    together = weights[:, None] * following
    if 0 < top_k < together.numel():
        together = together.masked_fill(together < together.flatten().topk(top_k).values[-1], 0.0)
    together = together / together.sum()
    if top_p < 1:
        shares, order = together.flatten().sort(descending=True, stable=True)
        shares[shares.cumsum(0) - shares >= top_p] = 0
        together = torch.zeros_like(shares).scatter_(0, order, shares / shares.sum()).view_as(together)
    return together


def residual(p: Tensor, q: Tensor) -> Tensor:
    """max(0, p - q), normalised; p if nothing is left."""
    rest = (p - q).clamp_(min=0)
    total = rest.sum()
    return rest / total if total > 0 else p


def acceptances(p: Tensor, q: Tensor, tries: int) -> list[float]:
    """The distribution of the number of accepted drafts: probabilities of 0, 1, …, `tries`.

    Drafts are sampled from q independently. The first one is tried against p, one after i rejections against the
    residual after subtracting q i times, and after an acceptance p is restored. With α_i the probability that the i-th
    try since then is accepted, given that those before were not, and β_i = α_i Π_{j<i} (1 - α_j):

        P(m, 0) = Π_{j≤m} (1 - α_j),   P(m, k) = Σ_{i≤m} β_i P(m - i, k - 1)

    (DSBD, arXiv 2409.16560, section 4. Its released code subtracts q twice for each rejection, and so expects too few.)

    Args:
        p: The target's joint distribution, any shape.
        q: The drafter's, of the same shape.
        tries: m.
    """
    none, first, current = [1.0], [0.0], p
    for _ in range(tries):
        alpha = min(1.0, float(torch.minimum(current, q).sum()))
        first.append(alpha * none[-1])
        none.append((1 - alpha) * none[-1])
        current = residual(current, q)
    chances = [none]
    for k in range(1, tries + 1):
        before = chances[-1]
        chances.append(
            [sum(first[i] * before[m - i] for i in range(1, m + 1)) if m >= k else 0.0 for m in range(tries + 1)]
        )
    return [of_k[tries] for of_k in chances]


def width(p: Tensor, q: Tensor, tries: int, most: int, confidence: float) -> int:
    """The number of beams to request: the largest that is accepted with a probability of at least `confidence`.

    Args:
        p: The target's joint distribution.
        q: The drafter's joint distribution.
        tries: Number of drafts.
        most: Maximum result, at least 1; the minimum is 1.
        confidence: In (0, 1].
    """
    chances = acceptances(p, q, tries)
    return max([1, *(k for k in range(2, min(most, tries) + 1) if sum(chances[k:]) >= confidence)])


@dataclass(frozen=True, slots=True)
class Kept:
    """The target's decision on one level of drafts."""

    accepted: list[int]
    """Indices of the accepted drafts, in order."""
    rest: Tensor
    """The distribution of one more beam, so that it is distributed like an accepted one: p minus the rejected tries."""


def keep(p: Tensor, q: Tensor, drafts: Sequence[tuple[int, int]], uniforms: Sequence[float], wanted: int) -> Kept:
    """Try drafts one after another until enough of them are accepted.

    Every accepted draft, and a sample from `rest`, is distributed as p, independently of the others: a try after
    rejections is made against what they left of p.

    Args:
        p: The target's joint distribution [beams, vocabulary], 0 for beams that it did not keep.
        q: The drafter's, from which each draft was sampled.
        drafts: (beam, token) of each.
        uniforms: A number in [0, 1) for each.
        wanted: Maximum number to accept.
    """
    accepted, current = list[int](), p
    for i, (place, uniform) in enumerate(zip(drafts, uniforms, strict=True)):
        if len(accepted) == wanted:
            break
        if uniform * float(q[place]) < float(current[place]):
            accepted.append(i)
            current = p
        else:
            current = residual(current, q)
    return Kept(accepted, current)


def draw_beams(p: Tensor, uniforms: Sequence[float]) -> list[tuple[int, int]]:
    """Sample (beam, token) for each number in [0, 1) from a joint distribution [beams, vocabulary]."""
    if not uniforms:
        return []
    numbers = torch.tensor(uniforms, dtype=p.dtype, device=p.device)
    places = draw(p.flatten().expand(len(numbers), -1), numbers)
    return [divmod(place, p.shape[1]) for place in places.tolist()]
