"""Entropy-aware speculative decoding: rejects tokens on which two unsure models agree."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from rsd_integrations.speculation.relaxation import entropy, of_tokens
from rsd_integrations.speculation.rules import AcceptanceRule, Exact, Judged, Verdicts, draw


class EntropyAware(AcceptanceRule):
    """Entropy-aware speculative decoding (EASD, arXiv 2512.23765): a token that both models doubt is resampled.

    A token x that the exact rule accepts is rejected if both models are unsure, H(q) ≥ `draft_entropy` and H(p) ≥
    `target_entropy` in nats, and their doubts agree: |top n of q ∩ top n of p| / n ≥ `overlap`. The correction is then
    sampled from p without x. The paper's limits come from a calibration set and are not published: these are ours.

    p and q are the distributions after temperature, top-k and top-p; tokens with zero probability are in no top n. If
    nothing is sampled (greedy decoding, n-grams), q is sure and the rule would be the exact one, so it is refused; if a
    limit of entropy is infinite, it is the exact one.
    """

    kind: Literal["easd"] = "easd"
    lossless: ClassVar[bool] = False
    needs_draws: ClassVar[bool] = True
    draft_entropy: Annotated[float, Field(ge=0)] = 1.5
    """Entropy in nats from which the drafter is unsure; inf disables the rule."""
    target_entropy: Annotated[float, Field(ge=0)] = 1.5
    """Entropy in nats from which the target is unsure."""
    n: Annotated[int, Field(ge=1)] = 5
    """Number of likeliest tokens to compare."""
    overlap: Annotated[float, Field(ge=0, le=1)] = 0.8
    """Minimum share of them that both models have."""

    def judge(self, judged: Judged) -> Verdicts:
        exact = Exact().judge(judged)
        p, q = judged.target, judged.draft
        if q is None:
            return Verdicts(exact.accepted, exact.corrections, torch.zeros_like(exact.accepted))
        unsure = (entropy(q) >= self.draft_entropy) & (entropy(p) >= self.target_entropy)
        agreed = (self._top(p) & self._top(q)).sum(1) >= self.overlap * self.n
        others = of_tokens(p, judged.tokens) < p.sum(1)  # otherwise nothing is left to sample
        doubted = exact.accepted & unsure & agreed & others
        rest = p.scatter(1, judged.tokens[:, None], 0.0)
        corrections = torch.where(doubted, draw(rest, judged.uniforms[:, 1]), exact.corrections)
        return Verdicts(exact.accepted & ~doubted, corrections, doubted)

    def _top(self, probabilities: Tensor) -> Tensor:
        """Whether each token is among the n likeliest, bool [n, vocabulary]."""
        best = probabilities.topk(min(self.n, probabilities.shape[1]), dim=1)
        return torch.zeros_like(probabilities, dtype=torch.bool).scatter_(1, best.indices, best.values > 0)
