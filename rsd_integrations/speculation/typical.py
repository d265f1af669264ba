"""Typical acceptance (Medusa)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from rsd_integrations.speculation.relaxation import Relaxation, entropy, of_tokens
from rsd_integrations.speculation.rules import Judged


class Typical(Relaxation):
    """Typical acceptance (Medusa, arXiv 2401.10774, section 3.3.1): a token x is kept where it is not unlikely.

    x is kept where p(x) > min(ε, δ · exp(-H(p))), with the entropy H in nats: the less sure the target is, the less
    probability is enough. Medusa rejects all other tokens; here they still have the exact rule's chance, so the rule
    keeps at least what that one keeps. It is the exact rule under greedy decoding, where p has a single token, and with
    ε = 1 and δ = inf, for no probability is above 1.
    """

    kind: Literal["typical"] = "typical"
    epsilon: Annotated[float, Field(ge=0, le=1)] = 0.09
    """ε: a probability above it is always enough."""
    delta: Annotated[float, Field(ge=0)] = 0.3
    """δ: what is enough, in units of exp(-H), which each of exp(H) equally likely tokens would have."""

    def rescues(self, judged: Judged, accepted: Tensor) -> Tensor:  # noqa: ARG002 - of each token alone
        p = judged.target
        return of_tokens(p, judged.tokens) > (self.delta * (-entropy(p)).exp()).clamp(max=self.epsilon)
