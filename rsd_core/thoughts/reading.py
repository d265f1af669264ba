"""Splits the raw text of a response into thought and answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal
from weakref import WeakKeyDictionary

from rsd_core.paths import Message, Path, Prompt, Step, begun
from rsd_core.thoughts.markers import MARKERS, Markers, Thinking

Kind = Literal["thought", "answer"]
"""Which part a text belongs to."""
Piece = tuple[Kind, str]

_KNOWN = tuple(MARKERS.values())
_FIRST = frozenset(mark.lstrip()[0] for one in _KNOWN for mark in (one.open, one.close, one.answer) if mark)
"""First characters of the known markers: a response that begins otherwise need not be compared with them."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads a response piece by piece and separates its parts, without the markers. Reading returns a new reader.

    A thought begins with a marker, preceded by white space at most, and ends with the other one. Text that could begin
    a marker, and white space around a thought, is held back until what follows decides.
    """

    markers: Markers | None = None
    """The markers of this response; None to detect which known ones it begins with, if any."""
    state: Literal["start", "opened", "thought", "closed", "answer", "ended"] = "start"
    """`opened` is at the start of a thought; `closed` is after one, where another may follow; `ended` is after a marker
    that ends the answer."""
    held: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether everything that follows is answer."""
        return self.state == "answer" and (self.markers is None or not self.markers.end)

    @property
    def in_thought(self) -> bool:
        """Whether the following text is part of a thought."""
        return self.state in ("opened", "thought")

    def read(self, text: str) -> tuple[Reader, tuple[Piece, ...]]:
        """Read on.

        Returns:
            The reader after the text, and the pieces that are now certain, in order.
        """
        if self.is_plain:
            return self, (("answer", text),) if text else ()
        reader, pieces = replace(self, held=self.held + text), []
        while True:
            reader, piece, again = reader._turn()
            if piece[1]:
                pieces.append(piece)
            if not again:
                return reader, tuple(pieces)

    def is_mark(self, text: str) -> bool:
        """Whether the following text is a bare marker, apart from white space."""
        if self.is_plain or not text.strip():
            return False
        reader, pieces = self.read(text)
        return reader != self and not reader.rest() and not any(piece.strip() for _, piece in pieces)

    def rest(self) -> tuple[Piece, ...]:
        """Held-back text that is ordinary text after all, since nothing follows."""
        text = self.held
        if self.state in ("opened", "closed"):
            text = text.strip()
        elif self.state == "thought":
            text = text.rstrip()
        return (("thought" if self.in_thought else "answer", text),) if text else ()

    def _turn(self) -> tuple[Reader, Piece, bool]:
        """One state transition and the pieces it makes certain, and whether another may follow."""
        nothing: Piece = ("answer", "")
        if self.state == "thought":
            return self._in_thought()
        if self.state == "answer":
            return self._in_answer()
        if self.state == "ended":
            return replace(self, held=""), nothing, False
        text = self.held.lstrip()
        known = self._known(text)
        if self.state == "opened":
            return self._in_opening(text)
        for markers in known:
            for mark in self._marks(markers.open, markers):
                if text.startswith(mark):
                    return Reader(markers, "opened", text[len(mark) :]), nothing, True
            if text.startswith(markers.close):  # a template that switches thinking off may write only this
                return Reader(markers, "closed", text[len(markers.close) :]), nothing, True
            for mark in self._marks(markers.answer, markers):
                if text.startswith(mark):
                    return Reader(markers, "answer", text[len(mark) :]), nothing, True
        if any(mark.startswith(text) for one in known for mark in self._all_marks(one)):
            return self, nothing, False  # nothing yet, or the beginning of a marker
        begun = text if self.state == "closed" else self.held
        return replace(self, state="answer", held=begun), nothing, True

    def _in_opening(self, text: str) -> tuple[Reader, Piece, bool]:
        mark = self.markers.open.strip() if self.markers else ""
        if mark and text.startswith(mark):  # repeated by the model after the template
            return replace(self, held=text[len(mark) :]), ("answer", ""), True
        begins = not mark.startswith(text)
        return replace(self, state="thought" if begins else "opened", held=text), ("answer", ""), begins

    def _all_marks(self, markers: Markers) -> tuple[str, ...]:
        return (*self._marks(markers.open, markers), *self._marks(markers.answer, markers), markers.close)

    def _marks(self, mark: str, markers: Markers) -> tuple[str, ...]:
        """The forms a marker may take here: after a thought, with what comes between `close` and `answer`."""
        if not mark:
            return ()
        mark = mark.lstrip()
        after = markers.ending.lstrip()[len(markers.close) :]
        if self.state != "closed" or not markers.answer or not after.endswith(markers.answer):
            return (mark,)
        between = after[: -len(markers.answer)]
        space = " " if markers.answer.startswith(" ") else ""
        return (mark, f"{between}{space}{mark}") if between else (mark,)

    def _in_answer(self) -> tuple[Reader, Piece, bool]:
        end = "" if self.markers is None else self.markers.end
        at = self.held.find(end) if end else -1
        if at >= 0:
            return replace(self, state="ended", held=""), ("answer", self.held[:at]), False
        certain = self.held[: len(self.held) - overlap(self.held, end)]
        return replace(self, held=self.held[len(certain) :]), ("answer", certain), False

    def _in_thought(self) -> tuple[Reader, Piece, bool]:
        assert self.markers is not None
        text, close = self.held, self.markers.close
        at = text.find(close)
        if at >= 0:
            return Reader(self.markers, "closed", text[at + len(close) :]), ("thought", text[:at].rstrip()), True
        certain = text[: len(text) - overlap(text, close)].rstrip()
        return replace(self, held=text[len(certain) :]), ("thought", certain), False

    def _known(self, text: str) -> Sequence[Markers]:
        """Known markers that a text may begin with."""
        if self.markers is not None:
            return (self.markers,)
        return _KNOWN if not text or text[0] in _FIRST else ()


def overlap(text: str, mark: str) -> int:
    """Length of the longest proper prefix of `mark` that the text ends with."""
    return next((n for n in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:n])), 0)


@dataclass(frozen=True, slots=True)
class Parts:
    """The two parts of a response, without markers."""

    thought: str
    answer: str
    open: bool = False
    """Whether the response ended inside the thought."""


def split(text: str, markers: Markers | None = None) -> Parts:
    """The parts of a response.

    Args:
        text: The whole response, including what its template opened.
        markers: The model's markers; None to detect known ones at the beginning.
    """
    reader, pieces = Reader(markers).read(text)
    return _parts((*pieces, *reader.rest()), reader)


def split_unopened(text: str) -> Parts:
    r"""The parts of a whole response whose thought may have been opened elsewhere, as by an unknown template.

    What comes before a closing marker that nothing opened is thought: `Add.</think>\n\nSo 48.`
    """
    markers = unopened(text)
    return split(text) if markers is None else split(markers.begin(text), markers)


def unopened(text: str) -> Markers | None:
    """The markers of a thought that a text closes without opening it; None if there is none."""
    found = [one for one in _KNOWN if "/" in one.close and one.close in text and one.open not in text]
    return found[0] if found else None


def beginning(message: Message, markers: Markers | None = None) -> str:
    """The raw text of a response begun in the prompt: its thought, left open if there is no answer yet, and the answer.

    Args:
        message: The last message of a prompt (see `begun`).
        markers: The model's markers; the most common ones by default.
    """
    thought = message.extra.get("reasoning_content")
    if not thought:
        return message.content
    markers = markers or MARKERS["think"]
    return f"{markers.wrap(thought)}{message.content}" if message.content else markers.begin(thought)


def reader_of(prompt: Prompt, thinking: Thinking | None) -> Reader:
    """A reader of the response to a prompt, starting where the prompt or the chat template leaves off."""
    reader = Reader(None if thinking is None else thinking.markers)
    message = begun(prompt)
    if message is not None:
        return reader.read(beginning(message, reader.markers))[0]
    return reader if thinking is None else reader.read(thinking.opening)[0]


_readers: WeakKeyDictionary[Path, Reader] = WeakKeyDictionary()


def reader_at(path: Path) -> Reader:
    """A reader positioned after a path; each step is read only once."""
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
    """The thought and answer parts of a step that follows a path, without markers."""
    before = reader_at(path)
    after, pieces = before.read(step.text)
    return _parts(without_beginning((*pieces, *after.rest()), before.held), after)  # the end of the step before


def parts_of(path: Path) -> Parts:
    """The two parts of the response so far, without markers and without what the prompt had begun."""
    first = reader = reader_of(path.prompt, path.thinking)
    pieces: list[Piece] = []
    for step in path.steps:
        reader, more = reader.read(step.text)
        pieces += more
    return _parts(without_beginning((*pieces, *reader.rest()), first.held), reader)


def without_beginning(pieces: Sequence[Piece], held: str) -> tuple[Piece, ...]:
    """Pieces without previously held-back text, if that turned out to be ordinary text."""
    if not held or not pieces:
        return tuple(pieces)
    (kind, text), *others = pieces
    held = held if text.startswith(held) else held.lstrip()
    rest = text.removeprefix(held)
    return ((kind, rest), *others) if rest else tuple(others)


def _parts(pieces: Sequence[Piece], reader: Reader) -> Parts:
    parts: dict[Kind, str] = {"thought": "", "answer": ""}
    for kind, piece in pieces:
        parts[kind] += piece
    return Parts(parts["thought"], parts["answer"], reader.in_thought)
