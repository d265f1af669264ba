"""Where a step ends: at its delimiter, at the end of the whole answer, or at its token cap."""

from __future__ import annotations

from dataclasses import dataclass

from rsd_core.paths import Ending
from rsd_integrations.huggingface.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class StepEnd:
    """What ends a step of one model."""

    vocabulary: Vocabulary
    eos_ids: frozenset[int]
    """Ids that end the whole answer."""
    delimiter: bytes | None = None
    """None where only the whole answer ends."""


class OpenStep:
    """A step that is being decoded, token by token."""

    def __init__(self, end: StepEnd, max_tokens: int) -> None:
        """Begin a step.

        Args:
            end: What ends it.
            max_tokens: Most tokens of it, one that ends the answer included; at least 1.
        """
        self._end, self._max_tokens = end, max_tokens
        self.size = 0
        """Tokens sampled so far, one that ends the answer included."""
        self.logprobs: list[float] = []
        """Natural log-probabilities of the tokens, without one that ends the answer."""
        self.ending: Ending = "length"
        self._recent = b""

    def append(self, token: int, logprob: float) -> bool:
        """Add a sampled token; True when the step is over with it."""
        self.size += 1
        if token in self._end.eos_ids:
            self.ending = "end"
            return True
        self.logprobs.append(logprob)
        delimiter = self._end.delimiter
        if delimiter is not None:
            # Models write "\n\n" as one token or as two, so what counts is the last bytes, wherever tokens begin: all
            # of the new one, and of those before it one byte less than the delimiter has.
            piece = self._end.vocabulary.pieces[token]
            self._recent = (self._recent + piece)[-len(delimiter) - len(piece) + 1 :]
            if delimiter in self._recent:
                self.ending = "delimiter"
                return True
        return self.size >= self._max_tokens
