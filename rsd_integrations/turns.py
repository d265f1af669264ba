"""Whole replies of chat models as the core's responses: one raw text, thought included."""

from __future__ import annotations

from rsd_core import Markers, Parts, Path, split
from rsd_core.thoughts.markers import MARKERS
from rsd_core.thoughts.reading import reader_at


def as_response(text: str, thought: str, path: Path, *, cut: bool = False) -> str:
    """A reply as the raw text of the response to a path, with its thought in the request's markers.

    Args:
        text: The reply's text, possibly with a thought in the model's own markers.
        thought: Its thought, if reported separately.
        path: The path that the reply follows.
        cut: Whether the reply hit its token limit, so that a thought without a text is unfinished.
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
    """The parts of a text with these markers, or with any known ones."""
    parts = split(text, markers)
    return split(text) if markers is not None and not (parts.thought or parts.open) else parts
