"""The thread that models run in: the event loop stays free, and no two forward passes compete for the cores."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
_worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rsd-torch")


async def in_worker(work: Callable[[threading.Event], T]) -> T:
    """Run `work` in the worker thread. It is handed an event that is set when the caller is cancelled."""
    stop = threading.Event()
    try:
        return await asyncio.get_running_loop().run_in_executor(_worker, work, stop)
    except asyncio.CancelledError:
        stop.set()
        raise
