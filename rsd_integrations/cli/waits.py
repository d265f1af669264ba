"""Shows in the terminal that calls are waiting for an unavailable server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from rsd_integrations.cli.terminal import plain
from rsd_integrations.waiting import waiting

SHOWN_AFTER = 1.0
"""Seconds: shorter waits do not concern the user."""
_LOOK = 0.5


def waiting_line() -> str:
    """Such as `waiting for http://127.0.0.1:8000/v1 (12 s)`; empty if nothing is waiting."""
    long = {url: seconds for url, seconds in waiting().items() if seconds >= SHOWN_AFTER}
    return ", ".join(f"waiting for {url} ({seconds:.0f} s)" for url, seconds in sorted(long.items()))


class WaitingLine:
    """The line, current whenever it is drawn."""

    def __rich__(self) -> Text:
        return plain(waiting_line(), "yellow")


class Waits:
    """Context manager that reports waits: on a terminal by a line with a counter, elsewhere by one line per outage.

    Args:
        console: Where to print.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock, self._over = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="rsd-waits", daemon=True)
        self._live: Live | None = None
        self._told = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._hide()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Do not interfere with other output."""
        with self._lock:
            self._hide()
            yield

    def _watch(self) -> None:
        while not self._over.wait(_LOOK):
            with self._lock:
                self._tell(waiting_line())

    def _tell(self, line: str) -> None:
        if not line:
            self._hide()
        elif not self._console.is_terminal:
            if not self._told:
                self._console.print(plain(line), soft_wrap=True)
        else:
            if self._live is None:  # may be below another one, which is drawn with it
                self._live = Live(WaitingLine(), console=self._console, transient=True, auto_refresh=False)
                self._live.start()
            self._live.refresh()
        self._told = bool(line)

    def _hide(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
