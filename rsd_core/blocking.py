"""The bridge from blocking code to coroutines: one background event loop for the whole process.

It works inside Jupyter, inside a running loop and from many threads at once, since the coroutines never run on the
caller's own loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from concurrent.futures import Future, InvalidStateError
from typing import Any, TypeVar

from rsd_core.errors import RunError

T = TypeVar("T")
_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_pid: int | None = None


def background_loop() -> asyncio.AbstractEventLoop:
    """The process's background loop, started on first use and anew after a fork."""
    global _loop, _pid
    with _lock:
        if _loop is None or _pid != os.getpid():
            _loop, _pid = asyncio.new_event_loop(), os.getpid()
            threading.Thread(target=_loop.run_forever, name="rsd-loop", daemon=True).start()
        return _loop


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the background loop and wait for its result; an interrupt cancels it."""
    loop = background_loop()
    if threading.current_thread().name == "rsd-loop":
        work.close()
        raise RunError("a blocking method was called from a model or callback of a running request; use its async twin")
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def iterate(source: AsyncGenerator[T, None]) -> Generator[T, None, None]:
    """Iterate over an async generator from blocking code; leaving early closes it."""
    try:
        while True:
            try:
                item = wait_for(_next(source))
            except StopAsyncIteration:
                return
            yield item
    finally:
        wait_for(_close(source))


async def in_thread(work: Callable[[], T], context: contextvars.Context | None = None) -> T:
    """Run blocking work in a thread of its own, in the caller's context or the one given.

    Pools have a size, and work that waits for other work of the same pool can use it up and stand still for ever.
    """
    done: Future[T] = Future()

    def run(context: contextvars.Context) -> None:
        try:
            made = context.run(work)
        except BaseException as error:
            tell(done.set_exception, error)
        else:
            tell(done.set_result, made)

    def tell(how: Callable[[Any], None], what: Any) -> None:
        with contextlib.suppress(InvalidStateError):  # whoever asked has left meanwhile
            how(what)

    threading.Thread(
        target=run, args=(context or contextvars.copy_context(),), name="rsd-blocking", daemon=True
    ).start()
    return await asyncio.wrap_future(done)


async def _next(source: AsyncGenerator[T, None]) -> T:
    return await anext(source)


async def _close(source: AsyncGenerator[Any, None]) -> None:
    while getattr(source, "ag_running", False):  # noqa: ASYNC110 - an interrupted call may still be unwinding
        await asyncio.sleep(0.01)
    await source.aclose()
