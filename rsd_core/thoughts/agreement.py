"""Agreement between the models of a request on how its thought begins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rsd_core.errors import ConfigurationError
from rsd_core.thoughts.markers import Markers, Thinking

Statement = tuple[str, Thinking | None]
"""A model's name, and how it thinks."""


def agree(statements: Sequence[Statement], markers: Markers | None = None) -> Thinking | None:
    """How the thought of a response begins, whichever model writes it.

    Args:
        statements: From the models that write thoughts, or the whole response. A model without one accepts any.
        markers: The markers given in the settings.

    Returns:
        None if no thought is expected: no model is known to think, and no markers are given.

    Raises:
        ConfigurationError: The models disagree: their markers differ, or some of them think and others do not.
    """
    known = [(name, thinking) for name, thinking in statements if thinking is not None]
    thinkers = [(name, thinking) for name, thinking in known if not thinking.is_off]
    others = [(name, thinking) for name, thinking in known if thinking.is_off]
    if thinkers and others:
        remedy = (
            "switch thinking off for all (template.enable_thinking=false with most models), or on; or let one of them "
            "think and the other answer: method target_thinks or drafter_thinks"
        )
        raise ConfigurationError(f"{_names(thinkers)} thinks before it answers, {_names(others)} does not: {remedy}")
    if not thinkers:
        is_off = any(thinking.opening for _, thinking in others)  # a template wrote an empty thought
        return None if markers is None or is_off else Thinking(markers)
    marks = {thinking.markers.open: name for name, thinking in thinkers if thinking.markers is not None}
    if markers is None and len(marks) > 1:
        told = " and ".join(f"{name!r} with {mark!r}" for mark, name in marks.items())
        raise ConfigurationError(
            f"the models begin their thoughts differently, {told}: one cannot read the other's thoughts. Use models "
            "of one family, or let one think and the other answer: method target_thinks or drafter_thinks"
        )
    openings = sorted((thinking.opening for _, thinking in thinkers), key=len)
    if any(not openings[-1].startswith(opening) for opening in openings):
        raise ConfigurationError(
            f"the chat templates open thoughts differently: {', '.join(map(repr, dict.fromkeys(openings)))}; give all "
            "models the same template arguments (template.NAME=VALUE)"
        )
    return Thinking(markers or thinkers[0][1].markers, openings[-1])


def closed(statements: Iterable[Thinking | None]) -> Thinking | None:
    """An empty thought as written by the first model that would think; None if none would."""
    for thinking in statements:
        if thinking is not None and thinking.markers is not None and not thinking.is_off:
            return Thinking(thinking.markers, thinking.markers.wrap(""))
    return None


def _names(statements: Sequence[Statement]) -> str:
    return ", ".join(dict.fromkeys(repr(name) for name, _ in statements))
