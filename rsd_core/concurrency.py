"""Structured concurrency: calls run side by side, and none of them outlives its caller."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Collection, Coroutine, Iterable
from typing import Any, TypeVar

from rsd_core.errors import RunError
from rsd_core.model import Interrupted, Usage, add_usage, usage_of

T = TypeVar("T")


async def run_all(works: Iterable[Coroutine[Any, Any, T]], at_once: int | None = None) -> list[T]:
    """Run coroutines side by side and return their results in order.

    When one of them raises, or the caller is cancelled, all others are cancelled and awaited before anything is
    raised; those not yet begun are closed.

    Args:
        works: The coroutines.
        at_once: How many run at a time; None means all of them.

    Raises:
        BaseException: The exception of the first one to fail.
    """
    todo = deque(enumerate(works))
    if len(todo) == 1:  # most calls come alone and need no task
        return [await todo.pop()[1]]
    results: dict[int, T] = {}

    async def work() -> None:
        while todo:
            position, one = todo.popleft()
            try:
                results[position] = await one
            except (SystemExit, KeyboardInterrupt) as error:
                raise _EndOfProcess(error) from None

    workers = [asyncio.ensure_future(work()) for _ in range(min(at_once or len(todo), len(todo)))]
    try:
        await _all_or_first_error(workers)
    except _EndOfProcess as ended:
        raise ended.error from None
    finally:
        for _, left in todo:
            left.close()
    return [results[position] for position in range(len(results))]


async def run_calls(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run the calls of a model composed of others, side by side: a `run_all` that loses no charge.

    Every result has a `usage`. If a call fails, its error carries the work of all of them; if the caller is cancelled,
    `Interrupted` does (see `usage_of`).
    """
    spent: list[Usage] = []

    async def noted(call: Coroutine[Any, Any, T]) -> T:
        try:
            result = await call
        except BaseException as error:
            if (usage := usage_of(error)) is not None:
                spent.append(usage)
            raise
        spent.append(result.usage)  # type: ignore[attr-defined]
        return result

    try:
        return await run_all([noted(call) for call in works])
    except asyncio.CancelledError:
        raise Interrupted(sum(spent, Usage())) from None
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        add_usage(error, sum(spent, Usage()))
        raise


class _EndOfProcess(BaseException):
    """Carries `SystemExit` and `KeyboardInterrupt` out of a task, which would end its loop with them."""

    def __init__(self, error: SystemExit | KeyboardInterrupt) -> None:
        self.error = error
        super().__init__()


async def settle(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel tasks and wait for them, however they end; a cancellation meanwhile is raised afterwards."""
    tasks = list(tasks)
    pending = [task for task in tasks if not task.done()]
    for task in pending:
        task.cancel()
    cancelled: asyncio.CancelledError | None = None
    while pending:
        try:
            _, still = await asyncio.wait(pending)
            pending = list(still)
        except asyncio.CancelledError as error:
            cancelled = error
    for task in tasks:  # asyncio complains about exceptions that were never retrieved
        task.cancelled() or task.exception()
    if cancelled is not None:
        raise cancelled


async def outlast(work: asyncio.Future[Any]) -> None:
    """Wait for some work to end, however often the caller is cancelled meanwhile.

    For callers who were cancelled and told the work to stop: nothing of it may outlive them.
    """
    while not work.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([work])


async def _all_or_first_error(tasks: Collection[asyncio.Future[None]]) -> None:
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION) if tasks else (set(), set())
        failed = [task for task in tasks if task in done and (task.cancelled() or task.exception())]
    finally:
        await settle(tasks)
    if failed:
        failed[0].result()


async def contained(owner: object, work: Coroutine[Any, Any, T]) -> T:
    """Await work of foreign code, the owner's, in a task (see `ended_process`)."""
    try:
        return await work
    except (SystemExit, KeyboardInterrupt) as error:
        raise ended_process(owner, error) from error


def ended_process(owner: object, error: SystemExit | KeyboardInterrupt) -> BaseException:
    """The error to raise when foreign code, the owner's, tried to end the process.

    asyncio lets these two exceptions escape from a task, which would stop the loop and hang every other request.
    """
    if isinstance(error, SystemExit):
        return RunError(f"{owner!r} called sys.exit({error.code!r})", usage=usage_of(error))
    if threading.current_thread() is threading.main_thread():
        return error  # the user's own
    return RunError(f"{owner!r} raised KeyboardInterrupt", usage=usage_of(error))
