"""The common base of rules that override some of the exact rule's rejections."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from rsd_integrations.speculation.rules import AcceptanceRule, Exact, Judged, Verdicts


class Relaxation(AcceptanceRule):
    """The exact rule with some rejections overridden: it never keeps fewer tokens, and is not lossless.

    Any other token gets the exact rule's verdict and correction. So a relaxation whose limits rescue nothing is the
    exact rule, token for token.
    """

    lossless: ClassVar[bool] = False

    @abstractmethod
    def rescues(self, judged: Judged, accepted: Tensor) -> Tensor:
        """Whether a token that the exact rule rejects is kept, bool [n]; ignored for accepted tokens.

        Args:
            judged: The proposed tokens.
            accepted: Whether the exact rule accepts each token, bool [n].
        """

    def judge(self, judged: Judged) -> Verdicts:
        exact = Exact().judge(judged)
        rescued = self.rescues(judged, exact.accepted) & ~exact.accepted
        return Verdicts(exact.accepted | rescued, exact.corrections, rescued)


def doubts(judged: Judged) -> Tensor:
    """The target's probabilities [n, vocabulary], also under greedy decoding.

    It is p, or if p has a single token, the softmax of the raw logits: greedy decoding chooses one token without being
    sure of it. (A nucleus of one token cannot be distinguished from that.)
    """
    single = (judged.target > 0).sum(1, keepdim=True) == 1
    return torch.where(single, judged.logits.softmax(1), judged.target)


def entropy(probabilities: Tensor) -> Tensor:
    """Entropy of each row [n, …], in nats."""
    nats: Tensor = torch.special.entr(probabilities).sum(1)
    return nats


def of_tokens(values: Tensor, tokens: Tensor) -> Tensor:
    """The value [n] of each row's own token."""
    return values.gather(1, tokens[:, None]).squeeze(1)
