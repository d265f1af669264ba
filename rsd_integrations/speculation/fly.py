"""FLy: overrides isolated rejections at ambiguous positions."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from rsd_integrations.speculation.relaxation import Relaxation, doubts, entropy, of_tokens
from rsd_integrations.speculation.rules import Judged

CHOICES = 3
"""Number of likeliest tokens whose entropy is used."""


class FLy(Relaxation):
    """FLy (arXiv 2511.22972; as in vLLM pull request 50808): a rejection without consequences is overridden.

    The token at position i is kept if the target is unsure there (the entropy of its three likeliest tokens,
    renormalised, is at least `entropy` nats), p gives the token some probability, and the exact rule would accept all
    of the next `window` tokens of the same chain. So it needs drafts longer than the window. Under greedy decoding p is
    the softmax of the logits. Three tokens have at most ln 3 ≈ 1.0986 nats: with a limit above that the rule is the
    exact one.
    """

    kind: Literal["fly"] = "fly"
    window: Annotated[int, Field(ge=1)] = 6
    """Number of tokens that must be accepted after the rejected one."""
    entropy: Annotated[float, Field(ge=0)] = 0.3
    """Minimum entropy of the three likeliest tokens, in nats."""

    @property
    def least_draft(self) -> int:
        return self.window + 1

    def rescues(self, judged: Judged, accepted: Tensor) -> Tensor:
        p = doubts(judged)
        best = p.topk(min(CHOICES, p.shape[1]), dim=1).values
        unsure = entropy(best / best.sum(1, keepdim=True)) >= self.entropy
        return unsure & (of_tokens(p, judged.tokens) > 0) & self._in_line(judged, accepted)

    def _in_line(self, judged: Judged, accepted: Tensor) -> Tensor:
        """Whether a full window of accepted tokens follows each position."""
        follows = torch.zeros_like(accepted)
        for chain in judged.chains:
            if len(chain) > self.window:
                places = torch.tensor(chain, device=accepted.device)
                follows[places[: -self.window]] = accepted[places[1:]].unfold(0, self.window, 1).all(1)
        return follows
