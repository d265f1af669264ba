"""Stop strings: where a text ends because of one, and how to stream a text that may yet be cut."""

from __future__ import annotations

from collections.abc import Sequence

from rsd_core.errors import ConfigurationError
from rsd_core.events import Event, Finished, StepFinished


def as_stop(stop: Sequence[str] | None) -> tuple[str, ...]:
    """Normalise stop strings.

    Raises:
        ConfigurationError: A single string, or an empty one among them.
    """
    if isinstance(stop, str) or not all(isinstance(mark, str) and mark for mark in stop or ()):
        raise ConfigurationError(f"stop takes a list of non-empty strings (got {stop!r}), such as ['\\nObservation']")
    return tuple(stop or ())


def stops_at(text: str, stop: Sequence[str]) -> int | None:
    """Where the first stop string begins; None when there is none."""
    return min((at for mark in stop if (at := text.find(mark)) >= 0), default=None)


class TextStream:
    """The text of an answer, piece by piece, as its events settle it.

    What could be the beginning of a stop string waits for the next step: a stop string may straddle steps, and what
    was given out cannot be taken back.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = stop
        self._held = ""
        self._emitted = 0

    def feed(self, event: Event) -> str:
        """The text that an event settles; empty for most events."""
        if isinstance(event, Finished):
            return event.result.text[self._emitted :]
        if not isinstance(event, StepFinished):
            return ""
        self._held += event.record.text
        ready = len(self._held) - max((_overlap(self._held, mark) for mark in self._stop), default=0)
        text, self._held = self._held[:ready], self._held[ready:]
        self._emitted += len(text)
        return text


def _overlap(text: str, mark: str) -> int:
    """Length of the longest beginning of `mark` that the text ends with."""
    return next((n for n in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:n])), 0)
