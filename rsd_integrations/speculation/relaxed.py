"""Relaxed acceptance, which engines use while a model thinks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from rsd_integrations.speculation.relaxation import Relaxation, doubts, of_tokens
from rsd_integrations.speculation.rules import AcceptanceRule, Exact, Judged


class Relaxed(Relaxation):
    """Relaxed acceptance: keeps a token x among the target's k most likely that is not far behind the first.

    x is kept if fewer than k tokens are likelier and p(x) ≥ ratio · max p. Engines use this within thoughts (vLLM pull
    request 45229 with k = 3 and ratio 0.5; TensorRT-LLM's `relaxed_topk`, with a difference in place of the ratio).
    Under greedy decoding p is the softmax of the logits, at temperature 1. With k = 0 the rule is the exact one.
    """

    kind: Literal["relaxed"] = "relaxed"
    k: Annotated[int, Field(ge=0)] = 3
    """Number of likeliest tokens that may be kept; 0 disables the rule."""
    ratio: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Minimum probability, as a share of the likeliest token's."""
    thoughts_only: bool = False
    """Whether answers use the exact rule, as in engines."""

    def within(self, *, thought: bool) -> AcceptanceRule:
        return self if thought or not self.thoughts_only else Exact()

    def rescues(self, judged: Judged, accepted: Tensor) -> Tensor:  # noqa: ARG002 - decides per token
        p = doubts(judged)
        own = of_tokens(p, judged.tokens)
        likelier = (p > own[:, None]).sum(1)
        return (likelier < self.k) & (own > 0) & (own >= self.ratio * p.amax(1))
