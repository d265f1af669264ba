"""Proposers that need no model of the engine: text that repeats itself, tables of n-grams."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from rsd_core.data import Data
from rsd_integrations.speculation.proposals import Proposal


class ProposerState(ABC):
    """What a proposer knows of one request. It is used by one thread at a time."""

    @abstractmethod
    def propose(self, count: int) -> Proposal:
        """Propose what follows all tokens so far.

        Args:
            count: Most tokens that are of use, at least 1.

        Returns:
            At most `count` tokens; none where it knows nothing.
        """

    @abstractmethod
    def accept(self, ids: Sequence[int]) -> None:
        """Go on with tokens that the target emitted, proposed or not."""


class Proposer(Data):
    """Proposes what comes next. A proposer is data, as policies are: `kind` and its parameters."""

    @property
    def vocabulary(self) -> str | None:
        """Identity of the vocabulary whose ids the proposer knows; None where any will do."""
        return None

    @abstractmethod
    def begin(self, prefix: Sequence[int], seed: int) -> ProposerState:
        """The state of a request that goes on after these tokens.

        Args:
            prefix: Ids of all that the target reads.
            seed: The request's own; the same prefix and seed give the same proposals.
        """
