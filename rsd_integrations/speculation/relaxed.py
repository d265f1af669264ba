"""Relaxed acceptance, as engines use it while a model thinks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from rsd_integrations.speculation.relaxation import Relaxation, doubts, of_tokens
from rsd_integrations.speculation.rules import AcceptanceRule, Exact, Judged


class Relaxed(Relaxation):
    """Relaxed acceptance: a token x is kept that is among the target's k most likely, and not far behind the first.

    x is kept where fewer than k tokens are likelier and p(x) ≥ ratio · max p. Engines do so within thoughts (vLLM pull
    request 45229 with k = 3 and ratio 0.5; TensorRT-LLM's `relaxed_topk`, with a difference in place of the ratio).
    Under greedy decoding p is the softmax of the logits, at temperature 1. With k = 0 the rule is the exact one.
    """

    kind: Literal["relaxed"] = "relaxed"
    k: Annotated[int, Field(ge=0)] = 3
    """How many of the likeliest tokens may be kept; 0 switches the rule off."""
    ratio: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Least probability, as a share of the likeliest token's."""
    thoughts_only: bool = False
    """Whether answers are left to the exact rule, as engines do."""

    def within(self, *, thought: bool) -> AcceptanceRule:
        return self if thought or not self.thoughts_only else Exact()

    def rescues(self, judged: Judged, accepted: Tensor) -> Tensor:  # noqa: ARG002 - of each token alone
        p = doubts(judged)
        own = of_tokens(p, judged.tokens)
        likelier = (p > own[:, None]).sum(1)
        return (likelier < self.k) & (own > 0) & (own >= self.ratio * p.amax(1))
