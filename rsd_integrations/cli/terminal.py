"""The terminal: what is printed there is text, whoever wrote it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.segment import Segment
from rich.text import Text

from rsd_integrations.display.controls import visible


class Terminal(Console):
    """A console that shows control characters in texts and sends none but its own."""

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        """What is printed, piece by piece."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text, style, control) if control else Segment(visible(text), style)


def say(line: str, style: str = "") -> None:
    """One line on the error stream, outside of what a command prints: no markup, no wrapping."""
    Terminal(stderr=True, emoji=False, highlight=False).print(Text(visible(line), style), soft_wrap=True)
