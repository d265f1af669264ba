"""The interface of acceptance rules, which decide which proposed tokens are kept, and the exact rule."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from rsd_core.data import Data


@dataclass(frozen=True, slots=True)
class Judged:
    """Proposed tokens of one or many requests, with the target's outputs at the positions before them."""

    logits: Tensor
    """z [n, vocabulary]: the target's raw logits in fp32."""
    target: Tensor
    """p [n, vocabulary]: the target's distribution after temperature, top-k and top-p; under greedy decoding all mass
    is on the most likely token."""
    draft: Tensor | None
    """q [n, vocabulary]: the distribution from which each token was sampled; None if none was sampled, that is, if all
    mass of q is on the token."""
    tokens: Tensor
    """The proposed tokens [n], int64."""
    own: Tensor
    """int64 [n]: the token that the target itself samples from p with the second number, and would emit without a
    proposal. A rule whose correction is a plain sample from p uses this one."""
    uniforms: Tensor
    """Random numbers [n, 2] in [0, 1), keyed to the request's seed, the position and the use: the first for acceptance,
    the second for the correction."""
    chains: Sequence[range]
    """The positions of each chain, in order; each position is in one chain."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """A rule's verdict for each position, given that all before it were accepted."""

    accepted: Tensor
    """bool [n]: whether the proposed token is kept."""
    corrections: Tensor
    """int64 [n]: the token to emit instead if it is not kept."""
    overridden: Tensor | None = None
    """bool [n]: whether the rule differs from the exact rule; None if it never does."""


class AcceptanceRule(Data):
    """Decides which proposed tokens are kept. A rule is data, like a policy, and holds no state of a request."""

    lossless: ClassVar[bool]
    """Whether the emitted tokens have the target's own distribution."""
    needs_draws: ClassVar[bool] = False
    """Whether it equals the exact rule unless the drafter samples tokens of the target's vocabulary."""

    @property
    def learns(self) -> bool:
        """Whether verdicts depend on earlier requests."""
        return False

    @property
    def vocabulary(self) -> str | None:
        """Identity of the vocabulary that the rule requires; None for any."""
        return None

    @property
    def least_draft(self) -> int:
        """Minimum number of consecutive proposed tokens for the rule to have an effect."""
        return 1

    def within(self, *, thought: bool) -> AcceptanceRule:  # noqa: ARG002 - for rules that distinguish them
        """The rule for a step of a thought, or of an answer."""
        return self

    @abstractmethod
    def judge(self, judged: Judged) -> Verdicts:
        """Decide for each position whether its token is kept, and what is emitted if not."""


class Exact(AcceptanceRule):
    """Speculative sampling (Leviathan et al., arXiv 2211.17192; Chen et al., arXiv 2302.01318): lossless.

    A token x sampled from q is kept with probability min(1, p(x) / q(x)); the correction is sampled from the residual
    max(0, p - q), normalised. If x was not sampled, all mass of q is on it, and one number suffices for the same rule:
    a token is sampled from p as without a proposal, and x is kept if it is that token. So such a proposal changes no
    token of the text, and under greedy decoding no proposal does.
    """

    kind: Literal["exact"] = "exact"
    lossless: ClassVar[bool] = True

    def judge(self, judged: Judged) -> Verdicts:
        p, q, tokens = judged.target, judged.draft, judged.tokens[:, None]
        if q is None:
            return Verdicts(judged.own == judged.tokens, judged.own)
        accept, correct = judged.uniforms.unbind(1)
        likely, drafted = p.gather(1, tokens).squeeze(1), q.gather(1, tokens).squeeze(1)
        accepted = accept * drafted < likely
        residual = (p - q).clamp_(min=0)
        # If p and q are equal, nothing is left, but nothing is rejected either.
        residual = torch.where(residual.sum(1, keepdim=True) > 0, residual, p)
        return Verdicts(accepted, draw(residual, correct))


def draw(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Sample an index per row of non-negative weights [n, vocabulary], by inverse transform of its number in [0, 1)."""
    cumulative = weights.cumsum(-1)
    total = cumulative[:, -1:]
    # Strictly below the total, whatever the rounding, so that a token with zero weight is never sampled.
    point = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, point, right=True).squeeze(1)
