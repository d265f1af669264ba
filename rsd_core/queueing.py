"""Priority among waiting calls: requests that began first go first."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Self

_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Caller:
    """The request that a call belongs to."""

    number: int = field(default_factory=_numbers.__next__)
    """Requests are numbered as they begin: of two that wait, the one with the smaller number goes first."""
    concurrency: int | None = None
    """Concurrent requests of the run that it belongs to; None for a request on its own."""


CALLER: ContextVar[Caller | None] = ContextVar("rsd_caller", default=None)
"""The caller in this context; set around each model call."""
_concurrency: ContextVar[int | None] = ContextVar("rsd_concurrency", default=None)


def new_caller() -> Caller:
    """A request that begins now, in the current run."""
    return Caller(concurrency=_concurrency.get())


def current_caller() -> Caller:
    """The request that makes this call; a new one outside of requests."""
    return CALLER.get() or new_caller()


@contextmanager
def side_by_side(concurrency: int | None) -> Iterator[None]:
    """Make requests that begin inside part of a run with this concurrency, unless they already belong to one."""
    token = _concurrency.set(_concurrency.get() or concurrency)
    try:
        yield
    finally:
        _concurrency.reset(token)


class Slots:
    """A semaphore shared by callers in any threads and event loops; the oldest request goes first.

    asyncio's semaphore belongs to one loop: used from a second one, it hangs.

    Args:
        count: Number of slots, at least 1.
    """

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._count = self._free = count
        self._waiting: list[_Waiting] = []
        self._arrivals = itertools.count()

    @property
    def waiting(self) -> int:
        """Number of callers without a slot."""
        return sum(not one.gone for one in self._waiting)

    def resize(self, count: int) -> None:
        """Change the number of slots; callers that hold one keep it."""
        with self._lock:
            self._free += count - self._count
            self._count = count
            self._serve()

    async def __aenter__(self) -> Self:
        with self._lock:
            if self._free > 0:
                self._free -= 1
                return self
            loop = asyncio.get_running_loop()
            one = _Waiting(current_caller().number, next(self._arrivals), loop, loop.create_future())
            heapq.heappush(self._waiting, one)
        try:
            await one.place
        except BaseException:  # also if its loop was closed and will not resume it
            with self._lock:
                if not one.given:
                    one.gone = True
                    raise
            self._hand_on()  # the slot had just been granted
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._hand_on()

    def _hand_on(self) -> None:
        with self._lock:
            self._free += 1
            self._serve()

    def _serve(self) -> None:
        while self._free > 0 and self._waiting:
            one = heapq.heappop(self._waiting)
            if one.gone:
                continue
            with suppress(RuntimeError):  # its loop was closed meanwhile, so nothing waits there
                one.loop.call_soon_threadsafe(_give, one.place)
                one.given = True
                self._free -= 1


@dataclass(order=True, slots=True)
class _Waiting:
    """A caller that waits for a slot."""

    number: int
    """Its request's number."""
    arrival: int
    loop: asyncio.AbstractEventLoop = field(compare=False)
    place: asyncio.Future[None] = field(compare=False)
    given: bool = field(default=False, compare=False)
    gone: bool = field(default=False, compare=False)


def _give(place: asyncio.Future[None]) -> None:
    if not place.done():
        place.set_result(None)
