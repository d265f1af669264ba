"""Calls that wait for an unavailable server, for progress displays."""

from __future__ import annotations

import time
import weakref
from typing import Protocol


class Waits(Protocol):
    """An object whose calls may have to wait."""

    @property
    def base_url(self) -> str:
        """The server they wait for."""

    @property
    def waiting_since(self) -> float | None:
        """When the first of them began to wait, by the monotonic clock; None if none waits."""


_all: weakref.WeakSet[Waits] = weakref.WeakSet()


def register(one: Waits) -> None:
    """Make it visible to displays for its lifetime."""
    _all.add(one)


def waiting() -> dict[str, float]:
    """Seconds that calls have been waiting, by server."""
    found: dict[str, float] = {}
    now = time.monotonic()
    for one in list(_all):
        since = one.waiting_since
        if since is not None:
            found[one.base_url] = max(found.get(one.base_url, 0.0), now - since)
    return found
