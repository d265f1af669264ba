"""The bridge from blocking code to coroutines: one background event loop for the whole process.

It works inside Jupyter, inside a running loop and from many threads at once, since the coroutines never run on the
caller's own loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from rsd_core.concurrency import contained, outlast
from rsd_core.errors import RunError
from rsd_core.model import Interrupted, usage_of

T = TypeVar("T")
_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_make_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop


def make_loop_by(make: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Create the background loop with this function from now on; a running loop stays."""
    global _make_loop
    _make_loop = make


def _forget() -> None:
    """In a forked child: the loop's thread stayed with the parent, as did any thread that held the lock."""
    global _lock, _loop
    _lock, _loop = threading.Lock(), None


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_forget)


def background_loop() -> asyncio.AbstractEventLoop:
    """The process's background loop, started on first use and again after a fork."""
    global _loop
    if _loop is not None:  # nearly always, and asked for with every request
        return _loop
    with _lock:
        if _loop is None:
            _loop = _make_loop()
            threading.Thread(target=_loop.run_forever, name="rsd-loop", daemon=True).start()
        return _loop


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the background loop and wait for its result.

    An interrupt cancels it and waits for its end, so that nothing keeps running and finished work is charged; a second
    interrupt returns at once.

    Raises:
        RunError: Called from the background loop itself, or while the interpreter shuts down, when the loop has
            stopped.
    """
    if sys.is_finalizing():  # the loop's thread is frozen: waiting for it now would hang
        work.close()
        raise RunError("a blocking method was called while the interpreter shuts down; call it earlier")
    loop = background_loop()
    if threading.current_thread().name == "rsd-loop":
        work.close()
        raise RunError("a blocking method was called from a model or callback of a running request; use its async twin")
    done: Future[T] = Future()
    tasks: list[asyncio.Task[T]] = []

    def begin() -> None:
        tasks.append(loop.create_task(contained("a request", work)))
        tasks[0].add_done_callback(lambda task: _pass_on(task, done))

    loop.call_soon_threadsafe(begin)
    try:
        return done.result()
    except BaseException:
        if not done.done():
            loop.call_soon_threadsafe(lambda: tasks[0].cancel())
            wait([done])
            work.close()  # if it never began
        raise


def iterate(source: AsyncGenerator[T, None]) -> Generator[T, None, None]:
    """Iterate over an async generator from blocking code; leaving early closes it.

    A second interrupt returns at once here too. An abandoned generator is closed by the garbage collector: if that runs
    on the loop's own thread it must not wait for itself, and at interpreter exit there is no loop left to wait for.
    """
    try:
        while True:
            try:
                item = wait_for(_next(source))
            except StopAsyncIteration:
                return
            yield item
    finally:
        if threading.current_thread().name == "rsd-loop" or _is_running(source):
            asyncio.run_coroutine_threadsafe(_close(source), background_loop())
        elif not sys.is_finalizing():
            wait_for(_close(source))


async def in_thread(work: Callable[[], T], context: contextvars.Context | None = None) -> T:
    """Run blocking work in a separate thread, in the caller's context or the one given.

    Pools have a size, and work that waits for other work in the same pool can deadlock. A thread cannot be stopped from
    outside, so a cancelled caller waits for the work to return: give the work its own timeout, or signal it by other
    means.

    Raises:
        Interrupted: The caller was cancelled, and the work's result or error carries its usage.
    """
    done: Future[T] = Future()

    def run(context: contextvars.Context) -> None:
        try:
            done.set_result(context.run(work))
        except StopIteration as error:  # a future cannot hold it: awaiting it would hang
            failed = RuntimeError("StopIteration was raised")
            failed.__cause__ = error
            done.set_exception(failed)
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(
        target=run, args=(context or contextvars.copy_context(),), name="rsd-blocking", daemon=True
    ).start()
    waiting = asyncio.wrap_future(done)
    try:
        return await asyncio.shield(waiting)
    except asyncio.CancelledError as cancelled:
        await outlast(waiting)
        error = waiting.exception()
        usage = usage_of(error) if error is not None else getattr(waiting.result(), "usage", None)
        raise cancelled if usage is None else Interrupted(usage) from None


def _pass_on(task: asyncio.Task[T], done: Future[T]) -> None:
    error = asyncio.CancelledError() if task.cancelled() else task.exception()
    if error is None:
        done.set_result(task.result())
    else:
        done.set_exception(error)


async def _next(source: AsyncGenerator[T, None]) -> T:
    return await anext(source)


def _is_running(source: AsyncGenerator[Any, None]) -> bool:
    return getattr(source, "ag_running", False)


async def _close(source: AsyncGenerator[Any, None]) -> None:
    while _is_running(source):  # noqa: ASYNC110 - an interrupted call may still be unwinding
        await asyncio.sleep(0.01)
    await source.aclose()
