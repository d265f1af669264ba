"""One object from two event loops at once, each in its own thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


def in_two_loops(work: Callable[[], Awaitable[T]], *, calls: int = 4, seconds: float = 20.0) -> list[T]:
    """The results of a number of concurrent calls in each of two loops.

    Raises:
        TimeoutError: One of them was not over in time.
    """
    together = threading.Barrier(2)
    results: list[T] = []
    errors: list[BaseException] = []

    async def side_by_side() -> list[T]:
        async with asyncio.timeout(seconds):
            return list(await asyncio.gather(*(work() for _ in range(calls))))

    def loop() -> None:
        together.wait(seconds)
        try:
            results.extend(asyncio.run(side_by_side()))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=loop, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 5)
    if errors:
        raise errors[0]
    if any(thread.is_alive() for thread in threads):
        raise TimeoutError("a loop never ended")
    return results
