"""Who waits for a server that is away: what progress displays tell meanwhile."""

from __future__ import annotations

import time
import weakref
from typing import Protocol


class Waits(Protocol):
    """Something whose calls may have to wait."""

    @property
    def base_url(self) -> str:
        """What they wait for."""

    @property
    def waiting_since(self) -> float | None:
        """Since when the first of them waits, by the monotonic clock; None where none does."""


_all: weakref.WeakSet[Waits] = weakref.WeakSet()


def register(one: Waits) -> None:
    """Have displays look at it while it lives."""
    _all.add(one)


def waiting() -> dict[str, float]:
    """Seconds that calls have waited by now, by what they wait for."""
    found: dict[str, float] = {}
    now = time.monotonic()
    for one in list(_all):
        since = one.waiting_since
        if since is not None:
            found[one.base_url] = max(found.get(one.base_url, 0.0), now - since)
    return found
