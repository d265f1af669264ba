"""Stop strings: where they end a text, and how to stream a text that may still be cut."""

from __future__ import annotations

from collections.abc import Sequence

from rsd_core.errors import ConfigurationError
from rsd_core.events import Event, Finished, StepFinished
from rsd_core.thoughts.reading import Kind, Piece, overlap


def as_stop(stop: Sequence[str] | None) -> tuple[str, ...]:
    """Normalise stop strings.

    Raises:
        ConfigurationError: A single string, or a list with an empty one.
    """
    if isinstance(stop, str) or not all(isinstance(mark, str) and mark for mark in stop or ()):
        raise ConfigurationError(f"stop takes a list of non-empty strings (got {stop!r}), such as ['\\nObservation']")
    return tuple(stop or ())


def stops_at(text: str, stop: Sequence[str]) -> int | None:
    """Where the first stop string begins; None when there is none."""
    return min((at for mark in stop if (at := text.find(mark)) >= 0), default=None)


class TextStream:
    """The text of a response, piece by piece, as events make it final.

    What could be the beginning of a stop string waits for the next step: a stop string may straddle steps, and emitted
    text cannot be taken back.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = stop
        self._held = ""
        self._emitted: dict[Kind, int] = {"thought": 0, "answer": 0}

    def feed(self, event: Event) -> str:
        """The answer text made final by an event; empty for most events."""
        return "".join(text for kind, text in self.feed_parts(event) if kind == "answer")

    def feed_parts(self, event: Event) -> tuple[Piece, ...]:
        """The thought and answer text made final by an event, in order; nothing for most events."""
        pieces: Sequence[Piece]
        if isinstance(event, Finished):
            result = event.result
            thought, answer = result.thought[self._emitted["thought"] :], result.text[self._emitted["answer"] :]
            pieces = (("thought", thought), ("answer", answer))
        elif isinstance(event, StepFinished):
            record = event.record
            pieces = (("answer", record.text),) if record.pieces is None else record.pieces
            pieces = [(kind, self._ready(text) if kind == "answer" else text) for kind, text in pieces]
        else:
            return ()
        for kind, text in pieces:
            self._emitted[kind] += len(text)
        return tuple(piece for piece in pieces if piece[1])

    def _ready(self, text: str) -> str:
        self._held += text
        ready = len(self._held) - max((overlap(self._held, mark) for mark in self._stop), default=0)
        text, self._held = self._held[:ready], self._held[ready:]
        return text
