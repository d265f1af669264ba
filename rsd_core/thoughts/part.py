"""The current part of a response: the thought or the answer."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rsd_core.paths import Step
from rsd_core.thoughts.reading import Kind, Piece, Reader, without_beginning


@dataclass(frozen=True, slots=True)
class Part:
    """The part that the next step belongs to, and what the last step contained."""

    reader: Reader
    """Separates thought and answer."""
    kind: Kind
    """Which part the next step belongs to."""
    tokens: int = 0
    """Tokens of the thought so far."""
    pieces: tuple[Piece, ...] | None = None
    """The thought and answer parts of the last step; None if all of it is answer."""
    closed: Step | None = None
    """What closed the thought after the last step, if a token limit or the policy ended it."""
    closed_pieces: tuple[Piece, ...] = ()
    """Thought text held back until the thought was closed."""
    owed: str = ""
    """Text from the prompt that the reader holds back; not part of the response."""
    is_plain: bool = False
    """Whether the last step and all following ones are answer only: no more reading is needed."""

    @classmethod
    def first(cls, reader: Reader, *, thinks: bool) -> Part:
        """Where a response begins.

        Args:
            reader: What reads it.
            thinks: Whether to expect a thought.
        """
        kind: Kind = "thought" if reader.in_thought or (thinks and reader.state == "start") else "answer"
        return cls(reader, kind, owed=reader.held)

    def read(self, step: Step) -> tuple[Part, str]:
        """The part after a step, and the step's answer text."""
        if self.is_plain:
            return self, step.text
        reader, pieces = self.reader.read(step.text)
        if step.ending == "end":  # nothing follows, so nothing is held back
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
        """Held-back text that is ordinary text after all, since nothing follows."""
        return without_beginning(self.reader.rest(), self.owed)

    def close(self, after: str) -> Part:
        """The part after closing the thought as the models do; a thought not yet begun becomes an empty one.

        Args:
            after: The last text written.
        """
        markers = self.reader.markers
        assert markers is not None
        if self.reader.state == "start":
            begun, opening = self.reader.held.lstrip(), markers.begin()
            if not opening.lstrip().startswith(begun):  # the beginning of another marker: no thought will come
                return replace(self, kind="answer")
            ending = (opening.lstrip()[len(begun) :] if self.reader.held else opening) + markers.ending
        else:
            ending = markers.ending.lstrip("\n") if after.endswith("\n") else markers.ending
        step = Step(ending, "delimiter")
        reader, pieces = self.reader.read(step.text)
        return replace(self, reader=reader, kind="answer", closed=step, closed_pieces=pieces)

    def is_mark(self, step: Step) -> bool:
        """Whether a step is a bare thought marker: there is nothing to judge."""
        return not self.is_plain and self.reader.is_mark(step.text)
