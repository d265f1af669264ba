"""Work on the single event loop from which a process sends all requests, whatever loop or thread calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Generic, TypeVar

from rsd_core import Interrupted, RunError, Usage, usage_of
from rsd_core.blocking import background_loop, make_loop_by
from rsd_core.concurrency import settle

try:
    import uvloop
except ModuleNotFoundError:  # no wheels for Windows
    pass
else:
    make_loop_by(uvloop.new_event_loop)  # there a request takes a third of the time
T = TypeVar("T")


def on_background_loop(work: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
    """Run work on the background loop, to be awaited at once. A cancelled caller waits for it to end.

    Raises:
        Interrupted: The caller was cancelled, and the work's result or error carries its usage.
    """
    loop = background_loop()
    return work if asyncio.get_running_loop() is loop else _elsewhere(loop, work)


async def _elsewhere(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
    tasks: list[asyncio.Task[T]] = []
    ended: Future[asyncio.Task[T]] = Future()

    def begin() -> None:
        tasks.append(loop.create_task(work))
        tasks[0].add_done_callback(ended.set_result)

    loop.call_soon_threadsafe(begin)
    waiting = asyncio.wrap_future(ended)
    try:
        await asyncio.shield(waiting)
    except asyncio.CancelledError as cancelled:
        loop.call_soon_threadsafe(lambda: tasks[0].cancel())
        while not waiting.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([waiting])
        usage = _work_of(tasks[0])
        raise cancelled if usage is None else Interrupted(usage) from None
    return tasks[0].result()


def _work_of(task: asyncio.Task[Any]) -> Usage | None:
    """The usage of a call that succeeded or failed, as far as reported."""
    try:
        usage = getattr(task.result(), "usage", None)
    except BaseException as error:
        return usage_of(error)
    return usage if isinstance(usage, Usage) else None


class Once(Generic[T]):
    """Work that is done once for all who need its result. For use on the background loop.

    The first caller starts it, and all wait for it. When none is waiting any more, it is cancelled. If it failed, the
    next caller starts it again.

    Args:
        work: Creates the coroutine.
    """

    def __init__(self, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._work = work
        self._task: asyncio.Task[T] | None = None
        self._waiting = 0

    async def result(self) -> T:
        """Its result, awaited if necessary.

        Raises:
            Exception: Whatever the work raised.
            RunError: The model was closed meanwhile.
        """
        task = self._task
        if task is not None and task.done() and not task.cancelled() and task.exception() is None:
            return task.result()
        if task is None or task.done() or task.get_loop() is not asyncio.get_running_loop():  # after a fork
            task = self._task = asyncio.create_task(self._work())
            self._waiting = 0
        self._waiting += 1
        try:
            await asyncio.wait([task])
        finally:
            if task is self._task:
                self._waiting -= 1
                if not self._waiting and not task.done():
                    await self.aclose()
        if task.cancelled():
            raise RunError("the model was closed while it was probing its server")
        return task.result()

    async def aclose(self) -> None:
        """Cancel it if it is running, and wait for it to end."""
        task, self._task = self._task, None
        if task is not None and task.get_loop() is asyncio.get_running_loop():
            await settle([task])
