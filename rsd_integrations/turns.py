"""Whole replies of chat models as responses of the core: one raw text, thought included."""

from __future__ import annotations

from rsd_core import Markers, Parts, Path, split
from rsd_core.thoughts.markers import MARKERS
from rsd_core.thoughts.reading import reader_at


def as_response(text: str, thought: str, path: Path, *, cut: bool = False) -> str:
    """A reply as the raw text of the response to a path, with its thought in the markers of the request.

    Args:
        text: What the reply says, perhaps with a thought in a model's own markers.
        thought: What it thought before, where that is told apart.
        path: What the reply follows.
        cut: Whether the reply used up its tokens, so that a thought without a text is not at its end.
    """
    reader = reader_at(path)
    if not thought:
        parts = parts_in(text, reader.markers)
        thought, text = parts.thought, parts.answer
    markers = reader.markers or MARKERS["think"]
    if reader.state in ("answer", "ended") or not (thought or reader.in_thought):
        return text
    if cut and not text:
        return thought if reader.in_thought else markers.begin(thought)
    return f"{thought}{markers.ending}{text}" if reader.in_thought else markers.wrap(thought) + text


def parts_in(text: str, markers: Markers | None) -> Parts:
    """The parts of a text in these markers, or in any that are known."""
    parts = split(text, markers)
    return split(text) if markers is not None and not (parts.thought or parts.open) else parts
