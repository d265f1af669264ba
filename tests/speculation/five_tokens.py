"""A world of five tokens, whose models are matrices: the next token's distribution by the last token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy import stats
from torch import Tensor

from rsd_integrations.speculation.rules import Judged, draw

SIZE = 5


def truncated(p: Tensor, temperature: float = 1.0, top_k: int = SIZE, top_p: float = 1.0) -> Tensor:
    """Distributions [n, 5] after temperature, then top-k, then top-p."""
    p = (p.log() / temperature).softmax(-1)
    ordered, order = p.sort(dim=-1, descending=True, stable=True)
    ordered[:, top_k:] = 0
    ordered /= ordered.sum(-1, keepdim=True)
    ordered[ordered.cumsum(-1) - ordered >= top_p] = 0
    kept = torch.zeros_like(p).scatter_(-1, order, ordered)
    return kept / kept.sum(-1, keepdim=True)


def model(seed: int, sharpness: float = 1.5) -> Tensor:
    """Transition matrix [5, 5]: a row for each last token."""
    return (torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(seed)) * sharpness).softmax(-1)


def judged(
    logits: Tensor,
    tokens: Tensor,
    uniforms: Tensor,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    draft: Tensor | None = None,
    chains: Sequence[range] = (),
) -> Judged:
    """What a rule is given; at temperature 0 the target has its most likely token alone."""
    p = logits.softmax(-1)
    if temperature:
        p = truncated(p, temperature, top_p=top_p)
    else:
        p = torch.zeros_like(p).scatter_(1, logits.argmax(1, keepdim=True), 1.0)
    own = draw(p, uniforms[:, 1])
    return Judged(logits, p, draft, tokens, own, uniforms, chains or [range(len(tokens))])


def random_judged(seed: int, n: int = 60, *, greedy: bool = False, drawn: bool = True, length: int = 6) -> Judged:
    """Proposals of a random draft model in chains of some length."""
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, SIZE, generator=random) * 1.5
    q = (logits + torch.randn(n, SIZE, generator=random)).softmax(-1)
    uniforms = torch.rand(n, 3, generator=random)
    tokens = q.argmax(1) if greedy else draw(q, uniforms[:, 2])
    chains = [range(start, min(n, start + length)) for start in range(0, n, length)]
    draft = q if drawn and not greedy else None
    return judged(logits, tokens, uniforms[:, :2], temperature=0.0 if greedy else 1.0, draft=draft, chains=chains)


def rows(whole: Judged, places: range) -> Judged:
    """Some of the places, in one chain."""
    draft = None if whole.draft is None else whole.draft[places.start : places.stop]
    logits, target, tokens, own, uniforms = (
        part[places.start : places.stop]
        for part in (whole.logits, whole.target, whole.tokens, whole.own, whole.uniforms)
    )
    return Judged(logits, target, draft, tokens, own, uniforms, [range(len(places))])


def p_value(found: Tensor, expected: Tensor) -> float:
    """Of the chi-square test that counts come from a law; outcomes that are expected fewer than five times are put
    together, and one that cannot happen makes it 0."""
    found, expected = found.double().flatten(), expected.double().flatten()
    expected = expected / expected.sum() * found.sum()
    if found[expected == 0].sum() > 0:
        return 0.0
    found, expected = found[expected > 0], expected[expected > 0]
    rare = expected < 5
    if rare.any():
        found = torch.cat([found[~rare], found[rare].sum()[None]])
        expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
    return float(stats.chisquare(found.numpy(), expected.numpy()).pvalue)


def pairs_law(p: Tensor, start: int) -> Tensor:
    """The joint law [5, 5] of the next two tokens of a model."""
    return p[start][:, None] * p


def released_tree(p: Tensor, drafts: Sequence[int], random: torch.Generator) -> int:
    """A token as the released code of ADED emits it (github.com/liuxukun2000/Adaptix at 241dad8), as it was read.

    Each drafted path, here of one token, draws a token of its own from p; the first path that draws its own token goes
    on, and where there is none, a token is drawn once more.
    """
    *own, other = draw(p.expand(len(drafts) + 1, -1), torch.rand(len(drafts) + 1, generator=random)).tolist()
    return next((draft for draft, drawn in zip(drafts, own, strict=True) if draft == drawn), other)
