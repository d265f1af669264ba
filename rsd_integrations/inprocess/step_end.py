"""Where a step ends: at its splitter's boundary, at the end of the whole response, or at its token cap."""

from __future__ import annotations

from codecs import getincrementaldecoder
from dataclasses import dataclass, field

from rsd_core.paths import Ending
from rsd_core.splitting import InThought, Splitter
from rsd_integrations.inprocess.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class StepEnd:
    """The conditions that end a step of one model."""

    vocabulary: Vocabulary
    eos_ids: frozenset[int]
    """Ids that end the whole response."""
    splitter: Splitter | None = None
    """None if a step is the whole response."""
    before: bytes = b""
    """The beginning of the step's first character, if the path before it ends inside one."""
    marks: tuple[bytes, ...] = field(init=False)
    """A step ends only after one of these; empty if any text may end it."""
    window: int = field(init=False)
    """Length of the longest mark."""

    def __post_init__(self) -> None:
        marks = _marks(self.splitter)
        object.__setattr__(self, "marks", marks)
        object.__setattr__(self, "window", max(map(len, marks), default=0))


def _marks(splitter: Splitter | None) -> tuple[bytes, ...]:
    if splitter is None:
        return ()
    if isinstance(splitter, InThought):
        inner = _marks(splitter.inner)
        return (splitter.close.encode(), *inner) if inner or splitter.inner is None else ()
    return tuple(stop.encode() for stop in splitter.stops)


class OpenStep:
    """A step that is being decoded, token by token."""

    def __init__(self, end: StepEnd, max_tokens: int) -> None:
        """Begin a step.

        Args:
            end: The conditions that end it.
            max_tokens: Maximum tokens, including one that ends the response; at least 1.
        """
        self._splitter, self._marks, self._window = end.splitter, end.marks, end.window
        self._eos_ids, self._pieces = end.eos_ids, end.vocabulary.pieces
        self._max_tokens = max_tokens
        self.sampled = 0
        """Number of tokens sampled so far, including those that the step does not keep."""
        self.tokens: list[int] = []
        """Tokens of the step so far, without one that ends the response."""
        self.logprobs: list[float] = []
        """Natural log-probabilities of the tokens."""
        self.ending: Ending = "length"
        self._recent = b""
        self._text: str | None = None if end.marks else ""
        """The text for the splitter; None as long as no mark was seen."""
        self._decoder = getincrementaldecoder("utf-8")(errors="replace")
        self._decoder.decode(end.before)
        self._boundaries: list[int] = []
        """Length of the text at the end of each token, in characters; -1 inside a character."""

    @property
    def size(self) -> int:
        """Number of tokens of the step so far, including one that ends the response."""
        return len(self.tokens) + (self.ending == "end")

    def append(self, token: int, logprob: float) -> bool:
        """Add a sampled token; True if it ends the step."""
        self.sampled += 1
        if token in self._eos_ids:
            self.ending = "end"
            return True
        self.tokens.append(token)
        self.logprobs.append(logprob)
        if self._splitter is not None:
            piece = self._pieces[token]
            if self._text is not None:
                self._read(piece)
                if self._is_split():
                    return True
            else:
                # Models generate "\n\n" as one token or as two, so only the last bytes count, wherever tokens begin:
                # all of the new token, and before it one byte less than the longest mark.
                self._recent = recent = (self._recent + piece)[-self._window - len(piece) + 1 :]
                for mark in self._marks:
                    if mark in recent and self._is_split():
                        return True
        return self.sampled >= self._max_tokens

    def _read(self, piece: bytes) -> None:
        assert self._text is not None
        self._text += self._decoder.decode(piece)
        inside_a_character = self._decoder.getstate()[0]
        self._boundaries.append(-1 if inside_a_character else len(self._text))

    def _is_split(self) -> bool:
        """Whether the step is over; it keeps the tokens up to the first boundary at or after its end."""
        if self._text is None:
            self._text = ""
            for token in self.tokens:
                self._read(self._pieces[token])
        assert self._splitter is not None
        length = self._splitter.end(self._text)
        kept = None if length is None else next((i for i, at in enumerate(self._boundaries, 1) if at >= length), None)
        if kept is None:
            return False
        del self.tokens[kept:], self.logprobs[kept:]
        self.ending = "delimiter"
        return True
