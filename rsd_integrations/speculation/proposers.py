"""Proposers that need no model of the engine: text that repeats itself, tables of n-grams."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from rsd_core.data import Data
from rsd_integrations.speculation.proposals import Proposal


class ProposerState(ABC):
    """What a proposer knows of one text. It is used by one thread at a time."""

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


class TextState(ProposerState):
    """A state that depends on the text so far and the seed alone, and can be rolled back.

    So it serves the steps of a path one after another (`ProposerStates`), instead of reading the path again for each.

    Args:
        seed: The present step's own.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.ids: list[int] = []
        """All tokens so far."""

    @abstractmethod
    def truncate(self, count: int) -> None:
        """Roll back to the first `count` tokens; the state is as if it had never seen the others."""


class Proposer(Data):
    """Proposes what comes next. A proposer is data, as policies are: `kind` and its parameters."""

    @property
    def vocabulary(self) -> str | None:
        """Identity of the vocabulary whose ids the proposer knows; None where any will do."""
        return None

    @abstractmethod
    def begin(self, prefix: Sequence[int], seed: int) -> ProposerState:
        """The state of a step that goes on after these tokens; a `TextState` is kept for the steps after it.

        Args:
            prefix: Ids of all that the target reads.
            seed: The step's own; the same prefix and seed give the same proposals.
        """
