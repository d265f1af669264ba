"""The engine of a device: threads that run its models, for callers of any thread and event loop."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import sqrt
from typing import Any

import torch

from rsd_core import Interrupted
from rsd_integrations.huggingface.calls import Call, Made
from rsd_integrations.huggingface.runner import Runner

PATIENCE = 32
"""One part in so many of what a model has waited is added to the time that it takes."""
_ALL = torch.get_num_threads()
SMALL = 1e8
"""FLOPs per token below which one thread is fastest. Below some fifty million weights, waiting for each other costs
the threads more than sharing the work saves, and on a busy machine many times more."""


def threads_for(flops_per_token: float) -> int:
    """How many threads a model's forward pass should use on a CPU."""
    return 1 if flops_per_token < SMALL else _ALL


@dataclass(slots=True)
class _Due:
    """What waits for a model."""

    arrived: list[Call[Any]] = field(default_factory=list)
    """Calls that it has not taken in yet."""
    waited: float = 0.0
    """Seconds that the forward passes of others since its last one are known to take."""
    running: bool = False


class Engine:
    """Runs the models of a device, one forward pass at a time: whichever has most work waiting.

    A forward pass costs nearly the same for one row as for several, so the fullest batch moves most work. But rows
    that wait for a slow model are missing from the batches of the fast one, and end up in small ones. So a row counts
    by the square root of the time that its model takes, between not at all and in full; and what a model has waited
    adds to that time, so that nobody waits for ever. On a CPU the cores are shared out: as many models run side by
    side as there are threads for. Then the time counts in full: the others will end up waiting for the model with most
    seconds of work.
    """

    def __init__(self, threads: int) -> None:
        """Make the engine of a device that so many threads can work on at once."""
        self._threads = threads
        self.reset()

    def reset(self) -> None:
        """Start from nothing, as in a forked process, which inherits no threads."""
        for runner in getattr(self, "_due", {}):
            runner.fail(RuntimeError("the process was forked"))
        self._lock = threading.Lock()
        self._due: dict[Runner, _Due] = {}
        self._free = self._threads
        self._workers: list[threading.Thread] = []
        self._asleep: list[threading.Semaphore] = []
        """One for each worker without work; the last to fall asleep is woken first, for its core knows the models."""
        self._closed = False

    async def perform(self, runner: Runner, call: Call[Made]) -> Made:
        """Run a call.

        Raises:
            Interrupted: The caller was cancelled after some work; nothing of the call outlives it.
        """
        with self._lock:
            self._due.setdefault(runner, _Due()).arrived.append(call)
            self._wake()
        waiting = asyncio.wrap_future(call.future)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            call.cancelled = True
            made = await waiting
            if not made.usage.computed:
                raise
            raise Interrupted(made.usage) from None

    def close(self) -> None:
        """End the threads."""
        with self._lock:
            self._closed = True
            for bed in self._asleep:
                bed.release()
        for worker in self._workers:
            worker.join(5)

    @torch.inference_mode()
    def _work(self) -> None:
        bed = threading.Semaphore(0)
        while self._advance():
            with self._lock:
                if self._next() is not None or self._closed:
                    continue
                self._asleep.append(bed)
            bed.acquire()

    def _advance(self) -> bool:
        """One forward pass of the model that is due; False to end. Nothing idle holds the last model."""
        with self._lock:
            runner = self._next()
            if runner is None:
                return not self._closed
            due, threads = self._due[runner], min(runner.threads, self._threads)
            due.running, self._free = True, self._free - threads
            arrived, due.arrived = due.arrived, []
            self._wake()
        if threads != torch.get_num_threads():
            torch.set_num_threads(threads)  # holds for this thread alone
        works: list[Callable[[], None]] = [*(partial(runner.start, call) for call in arrived), runner.step]
        for work in works:
            try:
                work()
            except Exception as error:  # whatever it is, it is the callers' to hear
                runner.fail(error)
        with self._lock:
            for other in self._due.values():
                other.waited += runner.pace
            due.running, due.waited, self._free = False, 0.0, self._free + threads
            if not runner.waiting and not due.arrived:
                del self._due[runner]
        return True

    def _next(self) -> Runner | None:
        """The model that is due; None where there is none, or where it waits for threads."""
        idle = [runner for runner, due in self._due.items() if not due.running]
        if not idle or not self._free:
            return None
        side_by_side = all(runner.threads < self._threads for runner in self._due)
        runner = max(idle, key=partial(self._weight, side_by_side))
        return runner if min(runner.threads, self._threads) <= self._free else None

    def _weight(self, side_by_side: bool, runner: Runner) -> float:
        due = self._due[runner]
        rows = runner.waiting + len(due.arrived)
        time = runner.pace + due.waited / PATIENCE
        return rows * (time if side_by_side else sqrt(time))

    def _wake(self) -> None:
        """Let somebody run what is due."""
        if self._next() is None:
            return
        if self._asleep:
            self._asleep.pop().release()
        elif len(self._workers) < self._threads:
            worker = threading.Thread(target=self._work, name=f"rsd-engine-{len(self._workers)}", daemon=True)
            self._workers.append(worker)
            worker.start()


_engines: dict[torch.device, Engine] = {}


def engine_of(device: torch.device) -> Engine:
    """The engine that all models of a device share."""
    engine = _engines.get(device)
    return engine or _engines.setdefault(device, Engine(_ALL if device.type == "cpu" else 1))


def _after_fork() -> None:
    for engine in _engines.values():
        engine.reset()


def _at_exit() -> None:
    for engine in _engines.values():
        engine.close()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
