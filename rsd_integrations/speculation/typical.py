"""Typical acceptance (Medusa)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from rsd_integrations.speculation.relaxation import Relaxation, entropy, of_tokens
from rsd_integrations.speculation.rules import Judged


class Typical(Relaxation):
    """Typical acceptance (Medusa, arXiv 2401.10774, section 3.3.1): a token x is kept if it is not too unlikely.

    x is kept if p(x) > min(ε, δ · exp(-H(p))), with the entropy H in nats: the less sure the target is, the less
    probability is enough. Medusa rejects all other tokens; here the exact rule still decides about them, so this rule
    keeps at least as many. It is the exact rule under greedy decoding, where p has a single token, and with ε = 1 and δ
    = inf, since no probability is above 1.
    """

    kind: Literal["typical"] = "typical"
    epsilon: Annotated[float, Field(ge=0, le=1)] = 0.09
    """ε: a probability above it is always enough."""
    delta: Annotated[float, Field(ge=0)] = 0.3
    """δ: the sufficient probability, in units of exp(-H), that of each of exp(H) equally likely tokens."""

    def rescues(self, judged: Judged, accepted: Tensor) -> Tensor:  # noqa: ARG002 - decides per token
        p = judged.target
        return of_tokens(p, judged.tokens) > (self.delta * (-entropy(p)).exp()).clamp(max=self.epsilon)
