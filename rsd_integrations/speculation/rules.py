"""Which proposed tokens the target keeps: the interface of acceptance rules, and the exact rule."""

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
    """Proposed tokens of one or many requests, beside what the target gives at the positions before them."""

    logits: Tensor
    """z [n, vocabulary]: the target's raw logits in fp32."""
    target: Tensor
    """p [n, vocabulary]: the target's distribution after temperature, top-k and top-p; under greedy decoding the most
    likely token has all of it."""
    draft: Tensor | None
    """q [n, vocabulary]: the distribution that each token was drawn from; None where none was drawn, that is, where q
    has the token alone."""
    tokens: Tensor
    """The proposed tokens [n], int64."""
    own: Tensor
    """int64 [n]: the token that the target itself draws from p with the second number, as it would have been emitted
    had nothing been proposed. A rule whose correction is a plain draw from p takes this one."""
    uniforms: Tensor
    """Random numbers [n, 2] in [0, 1), keyed to the request's seed, the position and the use: the first for accepting,
    the second for the correction."""
    chains: Sequence[range]
    """The places that belong to one chain, in order; each place is in one chain."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What a rule says of each place, as if all before it had been accepted."""

    accepted: Tensor
    """bool [n]: the proposed token is kept."""
    corrections: Tensor
    """int64 [n]: the token that is emitted instead where it is not kept."""
    overridden: Tensor | None = None
    """bool [n]: where the rule decided otherwise than the exact rule would; None where it never does."""


class AcceptanceRule(Data):
    """Decides which proposed tokens are kept. A rule is data, as policies are, and holds no state of a request."""

    lossless: ClassVar[bool]
    """Whether the emitted tokens have the target's own distribution."""
    needs_draws: ClassVar[bool] = False
    """Whether it is the exact rule wherever the drafter samples no tokens of the target's vocabulary."""

    @property
    def learns(self) -> bool:
        """Whether verdicts depend on earlier requests."""
        return False

    @property
    def vocabulary(self) -> str | None:
        """Identity of the vocabulary whose ids the rule knows; None where any will do."""
        return None

    @property
    def least_draft(self) -> int:
        """Tokens in a row that have to be proposed for the rule to make a difference."""
        return 1

    def within(self, *, thought: bool) -> AcceptanceRule:  # noqa: ARG002 - for rules that tell the parts apart
        """The rule for a step of a thought, or of an answer."""
        return self

    @abstractmethod
    def judge(self, judged: Judged) -> Verdicts:
        """Say of each place whether its token is kept, and what is emitted where it is not."""


class Exact(AcceptanceRule):
    """Speculative sampling (Leviathan et al., arXiv 2211.17192; Chen et al., arXiv 2302.01318): lossless.

    A token x that was drawn from q is kept with probability min(1, p(x) / q(x)); the correction is drawn from the
    residual max(0, p - q), normalised. Where no token was drawn, q has x alone, and the same rule can be had with
    fewer numbers: a token is drawn from p as if nothing had been proposed, and x is kept where it is that token. So
    such a proposal changes no token of the text, and under greedy decoding neither does any other.
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
        # Where p and q are one, nothing is left, and nothing is rejected either.
        residual = torch.where(residual.sum(1, keepdim=True) > 0, residual, p)
        return Verdicts(accepted, draw(residual, correct))


def draw(weights: Tensor, uniforms: Tensor) -> Tensor:
    """An index for each row of non-negative weights [n, vocabulary], by its number in [0, 1): inverse transform."""
    cumulative = weights.cumsum(-1)
    total = cumulative[:, -1:]
    # Below the total, however it was rounded: a token without weight is never drawn.
    point = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, point, right=True).squeeze(1)
