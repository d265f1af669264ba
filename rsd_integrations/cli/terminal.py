"""The terminal: what is printed there is text, whoever wrote it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.segment import Segment
from rich.text import Text

from rsd_core.control_characters import visible


class Terminal(Console):
    """A console that shows the control characters of texts, and sends none but its own."""

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        """What is printed, piece by piece."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text, style, control) if control else Segment(visible(text), style)


def plain(text: str, style: str = "") -> Text:
    """Somebody's text: no markup in it, and as wide as it will be seen."""
    return Text(visible(text), style)


def say(line: str, style: str = "") -> None:
    """Print a line on the error stream, as it is."""
    Terminal(stderr=True, highlight=False).print(plain(line, style), soft_wrap=True)


def written(*files: Path | None) -> None:
    """Say where results are."""
    for file in filter(None, files):
        Terminal().print(plain(f"written to {file}"), soft_wrap=True)


def end_if_idle(never_worked: Iterable[str], remedy: str) -> None:
    """End with exit code 1 where a role failed at every one of its calls, and say so in a line for each.

    Args:
        never_worked: What to tell of each.
        remedy: What to do about it.
    """
    lines = list(never_worked)
    for line in lines:
        say(f"Error: {line}. {remedy}", "bold red")
    if lines:
        raise typer.Exit(1)


@contextlib.contextmanager
def resumable(how: Callable[[], str]) -> Iterator[None]:
    """Where Ctrl-C is pressed, say what there is by then and how to go on, and end with exit code 130.

    Args:
        how: Gives the words when they are needed.
    """
    try:
        yield
    except KeyboardInterrupt:
        _interrupted(how())


def _interrupted(words: str) -> NoReturn:
    say(f"Interrupted. {words}", "yellow")
    raise typer.Exit(130)
