"""The terminal: everything printed there is plain text, whoever wrote it."""

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
    """A console that shows control characters in texts, and sends only its own."""

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        """The output, piece by piece."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text, style, control) if control else Segment(visible(text), style)


def plain(text: str, style: str = "") -> Text:
    """Text from elsewhere: without markup, and with its displayed width."""
    return Text(visible(text), style)


def say(line: str, style: str = "") -> None:
    """Print a line on the error stream, unchanged."""
    Terminal(stderr=True, highlight=False).print(plain(line, style), soft_wrap=True)


def written(*files: Path | None) -> None:
    """Report where results were written."""
    for file in filter(None, files):
        Terminal().print(plain(f"written to {file}"), soft_wrap=True)


def end_if_idle(never_worked: Iterable[str], remedy: str) -> None:
    """End with exit code 1 if a role failed at every one of its calls, with one line for each.

    Args:
        never_worked: A message about each.
        remedy: What to do about it.
    """
    lines = list(never_worked)
    for line in lines:
        say(f"Error: {line}. {remedy}", "bold red")
    if lines:
        raise typer.Exit(1)


@contextlib.contextmanager
def resumable(how: Callable[[], str]) -> Iterator[None]:
    """On Ctrl-C, say what is saved and how to continue, and end with exit code 130.

    Args:
        how: Returns the message when it is needed.
    """
    try:
        yield
    except KeyboardInterrupt:
        _interrupted(how())


def _interrupted(words: str) -> NoReturn:
    say(f"Interrupted. {words}", "yellow")
    raise typer.Exit(130)
