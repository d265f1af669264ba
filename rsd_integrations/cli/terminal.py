"""The terminal: everything printed there is plain text, whoever wrote it."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

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
    """On Ctrl-C or SIGTERM, say what is saved and how to continue, and end with exit code 130 or 143.

    Args:
        how: Returns the message when it is needed.
    """
    terminated = False

    def as_ctrl_c(_: int, frame: FrameType | None) -> None:
        nonlocal terminated
        terminated = True
        interrupt = signal.getsignal(signal.SIGINT)  # an event loop has its own; a shell's background job has none
        (interrupt if callable(interrupt) else signal.default_int_handler)(signal.SIGINT, frame)

    before = signal.signal(signal.SIGTERM, as_ctrl_c)
    try:
        yield
    except KeyboardInterrupt:
        say(f"{'Terminated' if terminated else 'Interrupted'}. {how()}", "yellow")
        raise typer.Exit(128 + (signal.SIGTERM if terminated else signal.SIGINT)) from None
    finally:
        signal.signal(signal.SIGTERM, before)
