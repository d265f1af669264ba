"""The thread that models run in: the event loop stays free, and no two forward passes compete for the cores."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from rsd_core import Generation, Interrupted, NextWord, Scores

T = TypeVar("T", Generation, Scores, NextWord)
_ALL = torch.get_num_threads()
_worker: ThreadPoolExecutor


def _start() -> None:
    global _worker
    _worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rsd-torch")


_start()
os.register_at_fork(after_in_child=_start)  # a forked process inherits no threads


def _run(threads: int, work: Callable[[threading.Event], T], stop: threading.Event) -> T:
    torch.set_num_threads(threads)  # holds for this thread alone
    return work(stop)


def threads_for(flops_per_token: float | None) -> int:
    """How many threads a model's forward pass should use on a CPU.

    Below some fifty million weights, waiting for each other costs the threads more than sharing the work saves, and
    on a busy machine many times more.
    """
    return 1 if flops_per_token is not None and flops_per_token < 1e8 else _ALL


async def in_worker(threads: int, work: Callable[[threading.Event], T]) -> T:
    """Run `work` in the worker thread, with so many threads for each operation.

    `work` is handed an event that is set when the caller is cancelled. It then returns early, is waited for, so that
    nothing of it outlives the call, and what it did is told with the cancellation.
    """
    stop = threading.Event()
    future = _worker.submit(_run, threads, work, stop)
    try:
        return await asyncio.shield(asyncio.wrap_future(future))
    except asyncio.CancelledError:
        stop.set()
        if future.cancel():
            raise
        done = await asyncio.to_thread(future.result)
        raise Interrupted(done.usage) from None
