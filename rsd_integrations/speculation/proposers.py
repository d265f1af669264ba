"""Proposers without a model: repeated text, n-gram tables."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from rsd_core.data import Data
from rsd_integrations.speculation.proposals import Proposal


class ProposerState(ABC):
    """A proposer's knowledge of one text. It is used by one thread at a time."""

    @abstractmethod
    def propose(self, count: int) -> Proposal:
        """Propose the tokens after all tokens so far.

        Args:
            count: Maximum number of tokens, at least 1.

        Returns:
            At most `count` tokens; none if it knows nothing.
        """

    @abstractmethod
    def accept(self, ids: Sequence[int]) -> None:
        """Continue with tokens that the target emitted, proposed or not."""


class TextState(ProposerState):
    """A state that depends only on the text so far and the seed, and can be rolled back.

    So it is reused for the successive steps of a path (`ProposerStates`), instead of reading the path again for each.

    Args:
        seed: Seed of the present step.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.ids: list[int] = []
        """All tokens so far."""

    @abstractmethod
    def truncate(self, count: int) -> None:
        """Roll back to the first `count` tokens; the state is as if it had never seen the others."""


class Proposer(Data):
    """Proposes the next tokens. A proposer is data, like a policy: `kind` and its parameters."""

    @property
    def vocabulary(self) -> str | None:
        """Identity of the vocabulary that the proposer requires; None for any."""
        return None

    @abstractmethod
    def begin(self, prefix: Sequence[int], seed: int) -> ProposerState:
        """The state for a step after these tokens; a `TextState` is kept for later steps.

        Args:
            prefix: Ids of the target's whole input.
            seed: Seed of the step; the same prefix and seed give the same proposals.
        """
