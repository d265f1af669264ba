"""The thread that models run in: the event loop stays free, and no two forward passes compete for the cores."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from rsd_core import Generation, Interrupted, Scores

T = TypeVar("T", Generation, Scores)
_worker: ThreadPoolExecutor


def _start() -> None:
    global _worker
    _worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rsd-torch")


_start()
os.register_at_fork(after_in_child=_start)  # a forked process inherits no threads


async def in_worker(work: Callable[[threading.Event], T]) -> T:
    """Run `work` in the worker thread.

    `work` is handed an event that is set when the caller is cancelled. It then returns early, is waited for, so that
    nothing of it outlives the call, and what it did is told with the cancellation.
    """
    stop = threading.Event()
    future = _worker.submit(work, stop)
    try:
        return await asyncio.shield(asyncio.wrap_future(future))
    except asyncio.CancelledError:
        stop.set()
        if future.cancel():
            raise
        done = await asyncio.to_thread(future.result)
        raise Interrupted(done.usage) from None
