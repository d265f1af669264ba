"""From the raw text of a response to its two parts: the thought, and the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal
from weakref import WeakKeyDictionary

from rsd_core.paths import Message, Path, Prompt, Step, begun
from rsd_core.thoughts.markers import MARKERS, Markers, Thinking

Kind = Literal["thought", "answer"]
"""What a text is part of."""
Piece = tuple[Kind, str]

_KNOWN = tuple(MARKERS.values())


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads a response bit by bit, and tells its parts without the markers. Reading gives a new reader.

    A thought begins with a marker, before which there is nothing but white space, and ends with the other one. What
    could be the beginning of a marker, and white space around a thought, is held back until what follows decides.
    """

    markers: Markers | None = None
    """Those of this response; None finds out which of the known ones it begins with, if any."""
    state: Literal["start", "opened", "thought", "closed", "answer"] = "start"
    """`opened` is a thought that nothing is written of yet; `closed` is after one, where another may follow."""
    held: str = ""

    @property
    def in_thought(self) -> bool:
        """Whether what follows is part of a thought."""
        return self.state in ("opened", "thought")

    def read(self, text: str) -> tuple[Reader, tuple[Piece, ...]]:
        """Read on.

        Returns:
            The reader after the text, and what is certain now, in order.
        """
        if self.state == "answer":
            return self, (("answer", text),) if text else ()
        reader, pieces = replace(self, held=self.held + text), []
        while True:
            reader, piece, again = reader._turn()
            if piece[1]:
                pieces.append(piece)
            if not again:
                return reader, tuple(pieces)

    def rest(self) -> tuple[Piece, ...]:
        """What was held back and belongs to the text after all, since nothing follows."""
        if self.state == "start":
            return (("answer", self.held),) if self.held else ()
        kind: Kind = "thought" if self.in_thought else "answer"
        return ((kind, text),) if (text := self.held.strip() if self.state != "thought" else self.held.rstrip()) else ()

    def _turn(self) -> tuple[Reader, Piece, bool]:
        """One change of state, with what is certain by it; whether there may be another."""
        if self.state == "thought":
            return self._in_thought()
        if self.state == "answer":
            return replace(self, held=""), ("answer", self.held), False
        nothing: Piece = ("answer", "")
        known, text = self._known(), self.held.lstrip()
        if self.state == "opened":
            return replace(self, state="thought" if text else "opened", held=text), nothing, bool(text)
        for markers in known:
            if text.startswith(markers.open):
                return Reader(markers, "opened", text[len(markers.open) :]), nothing, True
            if markers.answer and text.startswith(markers.answer):
                return Reader(markers, "answer", text[len(markers.answer) :]), nothing, True
        if any(mark.startswith(text) for markers in known for mark in (markers.open, markers.answer)):
            return self, nothing, False  # nothing yet, or the beginning of a marker
        begun = text if self.state == "closed" else self.held
        return replace(self, state="answer", held=begun), nothing, True

    def _in_thought(self) -> tuple[Reader, Piece, bool]:
        assert self.markers is not None
        text, close = self.held, self.markers.close
        at = text.find(close)
        if at >= 0:
            return Reader(self.markers, "closed", text[at + len(close) :]), ("thought", text[:at].rstrip()), True
        size = next((n for n in range(min(len(close) - 1, len(text)), 0, -1) if text.endswith(close[:n])), 0)
        certain = text[: len(text) - size].rstrip()
        return replace(self, held=text[len(certain) :]), ("thought", certain), False

    def _known(self) -> Sequence[Markers]:
        return _KNOWN if self.markers is None else (self.markers,)


@dataclass(frozen=True, slots=True)
class Parts:
    """The two parts of a response, without markers."""

    thought: str
    answer: str
    open: bool = False
    """Whether the response ended inside of the thought."""


def split(text: str, markers: Markers | None = None) -> Parts:
    """The parts of a response.

    Args:
        text: All of it, what its template opened included.
        markers: Those of the model; None finds known ones at the beginning.
    """
    reader, pieces = Reader(markers).read(text)
    return _parts((*pieces, *reader.rest()), reader)


def beginning(message: Message, markers: Markers | None = None) -> str:
    """The raw text of a response that was begun: its thought, open where no answer was begun, and the answer.

    Args:
        message: The last message of a prompt, see `begun`.
        markers: Those of the model; the most usual ones by default.
    """
    thought = message.extra.get("reasoning_content")
    if not thought:
        return message.content
    markers = markers or MARKERS["think"]
    return f"{markers.wrap(thought)}{message.content}" if message.content else markers.begin(thought)


def reader_of(prompt: Prompt, thinking: Thinking | None) -> Reader:
    """What reads the response to a prompt, from where the prompt or the chat template leave it."""
    reader = Reader(None if thinking is None else thinking.markers)
    message = begun(prompt)
    if message is not None:
        return reader.read(beginning(message, reader.markers))[0]
    return reader if thinking is None else reader.read(thinking.opening)[0]


_readers: WeakKeyDictionary[Path, Reader] = WeakKeyDictionary()


def reader_at(path: Path) -> Reader:
    """What reads on after a path; each step is read once, however often it is asked for."""
    new: list[Path] = []
    for node in path.up():
        if node in _readers:
            break
        new.append(node)
    for node in reversed(new):
        if node.parent is None or node.step is None:
            _readers[node] = reader_of(node.prompt, node.thinking)
        else:
            _readers[node] = _readers[node.parent].read(node.step.text)[0]
    return _readers[path]


def visible(path: Path, step: Step) -> Parts:
    """What of a step that follows a path is thought and what is answer, without markers."""
    after, pieces = reader_at(path).read(step.text)
    return _parts((*pieces, *after.rest()), after)


def parts_of(path: Path) -> Parts:
    """The two parts of the response so far, without markers."""
    reader = reader_of(path.prompt, path.thinking)
    pieces: list[Piece] = []
    for step in path.steps:
        reader, more = reader.read(step.text)
        pieces += more
    return _parts((*pieces, *reader.rest()), reader)


def _parts(pieces: Sequence[Piece], reader: Reader) -> Parts:
    parts: dict[Kind, str] = {"thought": "", "answer": ""}
    for kind, piece in pieces:
        parts[kind] += piece
    return Parts(parts["thought"], parts["answer"], reader.in_thought)
