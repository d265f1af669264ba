"""Samples the next tokens of a batch in one operation on the device, whatever its rows' settings."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import torch
from torch import Tensor

from rsd_core import Sampling

LEAST = 1e-30
"""Minimum temperature and top-p: in fp32, smaller ones would be zero, or logits divided by them infinite."""


def choose(logits: Tensor, samplings: Sequence[Sampling], uniforms: Sequence[float]) -> Tensor:
    """Choose a token for each row of logits [rows, vocabulary]; returns [rows, 1] on the device.

    Temperature 0 chooses the largest. Otherwise the row's own random number in [0, 1) is looked up in its cumulative
    distribution, so that a row's token does not depend on the rest of the batch.
    """
    best = logits.max(-1, keepdim=True).indices  # in bf16 on a CPU several times as fast as argmax
    sampled = [i for i, sampling in enumerate(samplings) if sampling.temperature > 0]
    for nucleus in (False, True) if sampled else ():
        rows = [i for i in sampled if (samplings[i].top_p < 1) is nucleus]
        if rows:
            best[rows] = _sampled(logits[rows], [samplings[i] for i in rows], [uniforms[i] for i in rows], nucleus)
    return best


def distributions(logits: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """The distributions from which `choose` samples, for each row of logits [rows, vocabulary], in fp32.

    At temperature 0 all mass is on the largest.
    """
    numbers = _tensor(samplings, [0.0] * len(samplings), logits.device)
    weights, order = _weights(logits, samplings, numbers, any(s.top_p < 1 for s in samplings))
    if order is not None:
        weights = torch.empty_like(weights).scatter_(-1, order, weights)
    greedy = [i for i, sampling in enumerate(samplings) if sampling.temperature == 0]
    if greedy:
        best = logits[greedy].max(-1, keepdim=True).indices
        weights[greedy] = torch.zeros_like(weights[greedy]).scatter_(-1, best, 1.0)
    return weights / weights.sum(-1, keepdim=True)


def _tensor(samplings: Sequence[Sampling], uniforms: Sequence[float], device: torch.device) -> Tensor:
    """Temperature, top-p and random number of each row, as [3, rows, 1]."""
    # Without a nucleus the limit is infinite: rounded sums of probabilities may reach 1 before the last token.
    nuclei = [max(s.top_p, LEAST) if s.top_p < 1 else inf for s in samplings]
    bounded = [[max(s.temperature, LEAST), p, u] for s, p, u in zip(samplings, nuclei, uniforms, strict=True)]
    # Explicitly in fp32: transformers changes the process's default while loading a model in another thread.
    return torch.tensor(bounded, dtype=torch.float32).to(device).T.unsqueeze(-1)


def _weights(
    logits: Tensor, samplings: Sequence[Sampling], numbers: Tensor, nucleus: bool
) -> tuple[Tensor, Tensor | None]:
    """Unnormalised probabilities, and their ids if they are sorted.

    In transformers' order (`GenerationMixin._get_logits_processor`): temperature, top-k, top-p.
    """
    temperature, top_p, _ = numbers
    weights = torch.softmax(_of_top_k(logits.float() / temperature, samplings), dim=-1)
    if not nucleus:
        return weights, None
    weights, order = weights.sort(dim=-1, descending=True, stable=True)
    weights[weights.cumsum(-1) - weights >= top_p] = 0  # keep the smallest set of tokens whose mass reaches top_p
    return weights, order


def _of_top_k(scaled: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """Mask logits below a row's k-th largest; as in transformers, ties are kept."""
    most = scaled.shape[-1]
    rows = {i: s.top_k for i, s in enumerate(samplings) if 0 < s.top_k < most}
    if not rows:
        return scaled
    last = torch.tensor([[rows.get(i, most) - 1] for i in range(len(samplings))], device=scaled.device)
    largest = scaled.topk(max(rows.values()), dim=-1).values
    least = largest.gather(-1, last.clamp(max=largest.shape[-1] - 1)).masked_fill_(last == most - 1, -torch.inf)
    return scaled.masked_fill(scaled < least, -torch.inf)


def _sampled(logits: Tensor, samplings: Sequence[Sampling], uniforms: Sequence[float], nucleus: bool) -> Tensor:
    numbers = _tensor(samplings, uniforms, logits.device)
    weights, order = _weights(logits, samplings, numbers, nucleus)
    uniform = numbers[2]
    cumulative = weights.cumsum(-1)
    total = cumulative[:, -1:]
    # Strictly below the total, whatever the rounding, so that a token with zero weight is never chosen.
    point = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    index = torch.searchsorted(cumulative, point, right=True)
    return index if order is None else order.gather(-1, index)
