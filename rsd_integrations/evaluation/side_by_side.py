"""Concurrent calls, with each result as it is ready."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from typing import TypeVar

from rsd_core.concurrency import run_all, settle
from rsd_core.queueing import CALLER, new_caller, side_by_side

A = TypeVar("A")
T = TypeVar("T")


async def as_ready(
    call: Callable[[A], Awaitable[T]], arguments: Collection[A], at_once: int
) -> AsyncGenerator[tuple[A, T], None]:
    """Call a function with each argument, and yield arguments and results in the order in which calls end.

    Each call is a separate request: when models are busy, requests are served in the order in which they began.

    Leaving early, an error of a call and a cancellation end all calls before they are passed on.

    Args:
        call: The function.
        arguments: One per call.
        at_once: Maximum number of calls in flight.
    """
    ready: asyncio.Queue[tuple[A, T] | None] = asyncio.Queue()

    async def one(argument: A) -> None:
        CALLER.set(new_caller())  # until this worker's next one: calls of decoders set their own
        ready.put_nowait((argument, await call(argument)))

    async def every_one() -> None:
        try:
            with side_by_side(min(at_once, len(arguments))):
                await run_all([one(argument) for argument in arguments], at_once=at_once)
        finally:
            ready.put_nowait(None)

    calls = asyncio.ensure_future(every_one())
    try:
        while (pair := await ready.get()) is not None:
            yield pair
        await calls
    finally:
        await settle([calls])
