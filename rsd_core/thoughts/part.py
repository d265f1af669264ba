"""What part of its response a request is at: the thought, or the answer."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rsd_core.paths import Step
from rsd_core.thoughts.reading import Kind, Piece, Reader, without_beginning


@dataclass(frozen=True, slots=True)
class Part:
    """The part that the next step belongs to, and what the last one held."""

    reader: Reader
    """Tells thought and answer apart."""
    kind: Kind
    """What the next step is part of."""
    tokens: int = 0
    """Tokens of the thought so far."""
    pieces: tuple[Piece, ...] | None = None
    """What of the last step is thought and what is answer; None where all of it is answer."""
    closed: Step | None = None
    """What closed the thought after the last step, where it had used up its tokens."""
    closed_pieces: tuple[Piece, ...] = ()
    """What was held back of the thought until it was closed."""
    owed: str = ""
    """What the prompt has begun and the reader holds back: no part of what is written."""
    is_plain: bool = False
    """Whether the last step was answer alone, and all that follow will be: nothing need be read any more."""

    @classmethod
    def first(cls, reader: Reader, *, thinks: bool) -> Part:
        """Where a response begins.

        Args:
            reader: What reads it.
            thinks: Whether a thought is to be expected.
        """
        kind: Kind = "thought" if reader.in_thought or (thinks and reader.state == "start") else "answer"
        return cls(reader, kind, owed=reader.held)

    def read(self, step: Step) -> tuple[Part, str]:
        """The part after a step, and what of the step is answer."""
        if self.is_plain:
            return self, step.text
        reader, pieces = self.reader.read(step.text)
        if step.ending == "end":  # nothing follows, so nothing need be held back
            pieces, reader = pieces + reader.rest(), replace(reader, held="")
        owed = self.owed
        if owed and pieces:
            pieces, owed = without_beginning(pieces, owed), ""
        answer = "".join([piece for kind, piece in pieces if kind == "answer"])
        thinks = reader.in_thought or (self.kind == "thought" and reader.state == "start")
        tokens = self.tokens + (step.size if self.kind == "thought" or thinks else 0)
        plain = answer == step.text
        kind: Kind = "thought" if thinks else "answer"
        return Part(
            reader, kind, tokens, None if plain else pieces, owed=owed, is_plain=plain and reader.is_plain
        ), answer

    @property
    def rest(self) -> tuple[Piece, ...]:
        """What was held back and belongs to the text after all, since nothing follows."""
        return without_beginning(self.reader.rest(), self.owed)

    def close(self, after: str) -> Part:
        """The part after the thought was closed in the models' own way; one that was not begun yet is an empty one.

        Args:
            after: What was written last.
        """
        markers = self.reader.markers
        assert markers is not None
        if self.reader.state == "start":
            begun, opening = self.reader.held.lstrip(), markers.begin()
            if not opening.lstrip().startswith(begun):  # the beginning of another marker: no thought is to come
                return replace(self, kind="answer")
            ending = (opening.lstrip()[len(begun) :] if self.reader.held else opening) + markers.ending
        else:
            ending = markers.ending.lstrip("\n") if after.endswith("\n") else markers.ending
        step = Step(ending, "delimiter")
        reader, pieces = self.reader.read(step.text)
        return replace(self, reader=reader, kind="answer", closed=step, closed_pieces=pieces)

    def is_mark(self, step: Step) -> bool:
        """Whether a step holds a marker of the thought and nothing else: there is nothing to be judged."""
        return not self.is_plain and self.reader.is_mark(step.text)
