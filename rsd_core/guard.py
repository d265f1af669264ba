"""The guard of a request: its deadline and its cancellation, enforced while models work."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Literal, Self, TypeVar

from rsd_core.limits import LimitReached
from rsd_core.model import usage_of

T = TypeVar("T")


class Cancellation:
    """Ends a request from any thread; its result keeps the text so far."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pressed = False
        self._listeners: dict[Callable[[], None], asyncio.AbstractEventLoop] = {}

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._pressed

    def cancel(self) -> None:
        """End the request; a model call in progress is cut short."""
        with self._lock:
            self._pressed = True
            for listener, loop in [one for one in self._listeners.items() if not one[1].is_closed()]:
                loop.call_soon_threadsafe(listener)

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call a function in the running event loop when the request is cancelled."""
        with self._lock:
            self._listeners[listener] = asyncio.get_running_loop()

    def unsubscribe(self, listener: Callable[[], None]) -> None:
        """Stop calling the function."""
        with self._lock:
            self._listeners.pop(listener, None)


class Guard:
    """Runs the model calls of one request under its deadline and its cancellation.

    There is one timer and one listener for the whole request, and no task per call: whichever tasks are in a call when
    the request has to end are cancelled, as `asyncio.timeout` does. The tasks are noted for each call, since several
    tasks may consume the events of one request.

    Args:
        seconds: Wall-clock time from now on; None for no deadline.
        cancel: The caller's cancellation, if there is one.
    """

    def __init__(self, seconds: float | None, cancel: Cancellation | None) -> None:
        self._started = time.monotonic()
        self._seconds, self._cancel = seconds, cancel
        self.watches = seconds is not None or cancel is not None
        """Whether the request has a deadline or can be cancelled."""
        self._timer: asyncio.TimerHandle | None = None
        self._in_call: set[asyncio.Task[Any]] = set()
        self._cut: dict[asyncio.Task[Any], Literal["cancelled", "max_seconds"]] = {}
        """Tasks cancelled by this guard, and why."""

    @property
    def elapsed(self) -> float:
        """Seconds since the request started."""
        return time.monotonic() - self._started

    def __enter__(self) -> Self:
        if self._seconds is not None:
            left = max(0.0, self._seconds - self.elapsed)
            self._timer = asyncio.get_running_loop().call_later(left, self._on_time_up)
        if self._cancel is not None:
            self._cancel.subscribe(self._on_cancel)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._cancel is not None:
            self._cancel.unsubscribe(self._on_cancel)

    def check(self) -> None:
        """Raise `LimitReached` if time is up or the request was cancelled: no call may begin."""
        if self.watches:
            if self._cancel is not None and self._cancel.cancelled:
                raise LimitReached("cancelled")
            if self._seconds is not None and self.elapsed >= self._seconds:
                raise LimitReached("max_seconds")

    async def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Await a model call, cutting it short when time is up or the request is cancelled.

        Raises:
            LimitReached: With `cancelled` or `max_seconds`, and the work done by then if the model reports it. Nothing
                of the call outlives it.
        """
        task = asyncio.current_task()
        assert task is not None
        cancelling = task.cancelling()  # by others, before
        self._in_call.add(task)
        try:
            return await work
        except asyncio.CancelledError as error:
            # The caller's own cancellation takes precedence over ours.
            if task not in self._cut or task.cancelling() > cancelling + 1:
                raise
            raise LimitReached(self._cut[task], usage_of(error)) from None
        finally:
            self._in_call.discard(task)
            if self._cut.pop(task, None) is not None:
                task.uncancel()

    def _on_time_up(self) -> None:
        self._end_calls("max_seconds")

    def _on_cancel(self) -> None:
        self._end_calls("cancelled")

    def _end_calls(self, reason: Literal["cancelled", "max_seconds"]) -> None:
        for task in self._in_call - self._cut.keys():
            self._cut[task] = reason
            task.cancel()
