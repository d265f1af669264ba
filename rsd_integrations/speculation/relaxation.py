"""What the rules have in common that keep more than the exact rule: some of its rejections are overridden."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from rsd_integrations.speculation.rules import AcceptanceRule, Exact, Judged, Verdicts


class Relaxation(AcceptanceRule):
    """The exact rule, some of whose rejections are overridden: it never keeps fewer tokens, and is not lossless.

    A token that is not rescued has the exact rule's own verdict and correction. So a relaxation whose limits rescue
    nothing is the exact rule, token for token.
    """

    lossless: ClassVar[bool] = False

    @abstractmethod
    def rescues(self, judged: Judged, accepted: Tensor) -> Tensor:
        """Where a token is kept that the exact rule rejects, bool [n]; what it says of accepted tokens is not read.

        Args:
            judged: The proposed tokens.
            accepted: What the exact rule accepts, bool [n].
        """

    def judge(self, judged: Judged) -> Verdicts:
        exact = Exact().judge(judged)
        rescued = self.rescues(judged, exact.accepted) & ~exact.accepted
        return Verdicts(exact.accepted | rescued, exact.corrections, rescued)


def doubts(judged: Judged) -> Tensor:
    """How the target spreads its probability [n, vocabulary], under greedy decoding too.

    It is p, and where p has a single token, the softmax of the raw logits: greedy decoding asks for one token without
    being sure of it. (A nucleus of one token cannot be told from that.)
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
