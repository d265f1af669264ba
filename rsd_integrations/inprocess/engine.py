"""The engine of a device: threads that run its models, for callers in any thread and event loop."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from math import sqrt
from typing import Any
from weakref import WeakKeyDictionary

from rsd_core import Interrupted
from rsd_core.concurrency import outlast
from rsd_core.model import usage_of
from rsd_integrations.inprocess.calls import Answer, Call
from rsd_integrations.inprocess.cores import usable_cores
from rsd_integrations.inprocess.runner import Runner

AGING = 32
"""One part in this many of a model's waiting time is added to the time that determines its priority."""
PATIENCE = 4
"""A model waits for its resting rows for no longer than this many of its passes take."""
ALL_THREADS = usable_cores()
SINGLE_THREAD_FLOPS = 1e8
"""FLOPs per token below which one thread is fastest. Below about fifty million weights, synchronising threads costs
more than sharing the work saves, and on a busy machine many times more."""


def threads_for(flops_per_token: float) -> int:
    """The number of threads of a model's forward pass on a CPU."""
    return 1 if flops_per_token < SINGLE_THREAD_FLOPS else ALL_THREADS


@dataclass(slots=True)
class _Queue:
    """Pending work of a model."""

    works: list[Callable[[], None]] = field(default_factory=list)
    """Work before its next forward pass: calls to start, and data handed over by other models."""
    waited: float = 0.0
    """Estimated seconds of other models' forward passes since its last one."""
    running: bool = False


class Engine:
    """Runs the models of a device, one forward pass at a time: the model with the most pending work first.

    A forward pass costs nearly the same for one row as for several, so the fullest batch does the most work. But rows
    that wait for a slow model are missing from the batches of the fast one, and end up in small ones. So a row is
    weighted by the square root of its model's pass time, a compromise between ignoring it and counting it in full; and
    a model's waiting time adds to that time, so that none waits forever. On a CPU the cores are divided: as many models
    run in parallel as there are threads for. Then the time counts in full, since the others will end up waiting for the
    model with the most seconds of work.
    """

    def __init__(self, threads: int) -> None:
        """Create the engine of a device on which this many threads can work at once."""
        self._threads = threads
        self.reset()

    def reset(self) -> None:
        """Reset to the initial state."""
        self._lock = threading.Lock()
        self._queues: dict[Runner, _Queue] = {}
        self._calls: WeakKeyDictionary[Call[Any], Runner] = WeakKeyDictionary()
        """The runner of each call, until its caller drops it, since a model with only resting rows is in no queue."""
        self._free_threads = self._threads
        self._workers: list[threading.Thread] = []
        self._idle_workers: list[threading.Semaphore] = []
        """Semaphores that wake idle workers. The last one to become idle is woken first, since its core still has the
        weights in its caches."""
        self._closed = False

    def stand_still(self) -> dict[Call[Any], Runner]:
        """Stop until `reset` in a forked process, which inherits no threads; returns the calls that have not ended."""
        self._lock, self._free_threads = threading.Lock(), 0
        return {call: runner for call, runner in self._calls.items() if not call.future.done()}

    def start(self, runner: Runner, call: Call[Any]) -> None:
        """Start a call before the model's next forward pass."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the process is shutting down, with its models")
            self._calls[call] = runner
            self._post(runner, partial(runner.start, call))

    async def run(self, runner: Runner, call: Call[Answer]) -> Answer:
        """Run a call.

        Raises:
            Interrupted: The caller was cancelled after some work; the call has ended by then.
        """
        self.start(runner, call)
        done = asyncio.wrap_future(call.future)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError as cancelled:
            call.cancelled = True  # the engine ends it before the model's next forward pass
            self.post(runner, _nothing)  # since none of its rows may be waiting for a pass
            await outlast(done)
            error = done.exception()
            usage = done.result().usage if error is None else usage_of(error)
            raise Interrupted(usage) if usage is not None and usage.computed else cancelled from None

    def post(self, runner: Runner, work: Callable[[], None]) -> None:
        """Run work in the thread that runs a model, before the model's next forward pass.

        Models exchange data this way, without any caller's event loop.
        """
        with self._lock:
            self._post(runner, work)

    def _post(self, runner: Runner, work: Callable[[], None]) -> None:
        self._queues.setdefault(runner, _Queue()).works.append(work)
        if threading.current_thread() not in self._workers:  # a worker looks for more work itself
            self._wake_worker()

    def close(self) -> None:
        """Stop the threads."""
        with self._lock:
            self._closed = True
            for wakeup in self._idle_workers:
                wakeup.release()
        for worker in self._workers:
            worker.join(5)

    def _work(self) -> None:
        wakeup = threading.Semaphore(0)
        while self._advance():
            with self._lock:
                if self._choose() is not None or self._closed:
                    continue
                self._idle_workers.append(wakeup)
            wakeup.acquire()

    def _advance(self) -> bool:
        """Run one forward pass of the next model; False to stop. An idle worker holds no reference to a model."""
        with self._lock:
            runner = self._choose()
            if runner is None:
                return not self._closed
            queue, threads = self._queues[runner], min(runner.threads, self._threads)
            queue.running, self._free_threads = True, self._free_threads - threads
            works, queue.works = queue.works, []
            self._wake_worker()
        works = [partial(runner.use_threads, threads), *works, runner.step]
        for work in works:
            _guarded(runner, work)
        while len(self._queues) == 1 and runner.waiting_rows and not queue.works:  # no other model to choose
            _guarded(runner, runner.step)
        with self._lock:
            for other in self._queues.values():
                other.waited += runner.pass_seconds
            queue.running, queue.waited, self._free_threads = False, 0.0, self._free_threads + threads
            if not runner.waiting_rows and not queue.works:
                del self._queues[runner]
        return True

    def _choose(self) -> Runner | None:
        """The model that runs next; None if there is none, or if it waits for threads."""
        waiting = [runner for runner, queue in self._queues.items() if not queue.running]
        if not waiting or not self._free_threads:
            return None
        fuller = [runner for runner in waiting if not self._fills(runner)]
        if not fuller and len(waiting) < len(self._queues):
            return None  # for a model that runs now
        side_by_side = all(runner.threads < self._threads for runner in self._queues)
        runner = max(fuller or waiting, key=partial(self._priority, side_by_side))
        return runner if min(runner.threads, self._threads) <= self._free_threads else None

    def _fills(self, runner: Runner) -> bool:
        """Whether at least half of a model's rows are yet to come from another one, as from a drafter.

        Without waiting for them, rows that speculate would come back in small groups, each with passes of its own.
        """
        queue = self._queues[runner]
        works = len(queue.works)  # most of which wake a row
        patient = queue.waited < PATIENCE * runner.pass_seconds  # others may never run out of work
        return patient and runner.resting_rows - works >= runner.waiting_rows + works

    def _priority(self, side_by_side: bool, runner: Runner) -> float:
        queue = self._queues[runner]
        rows = runner.waiting_rows + len(queue.works)
        seconds = runner.pass_seconds + queue.waited / AGING
        return rows * (seconds if side_by_side else sqrt(seconds))

    def _wake_worker(self) -> None:
        """Wake or start a worker to run the next model."""
        if self._choose() is None:
            return
        if self._idle_workers:
            self._idle_workers.pop().release()
        elif len(self._workers) < self._threads:
            worker = threading.Thread(target=self._work, name=f"rsd-engine-{len(self._workers)}", daemon=True)
            self._workers.append(worker)
            worker.start()


def _nothing() -> None:
    """No work: makes a model check its calls."""


def _guarded(runner: Runner, work: Callable[[], None]) -> None:
    try:
        work()
    except BaseException as error:  # whatever it is, callers must get it, and the thread must survive
        runner.fail(error)


_engines: dict[str, Engine] = {}


def engine_of(device: object) -> Engine:
    """The engine shared by all models on a device, whatever library runs them; devices are identified by name."""
    name = str(device)
    engine = _engines.get(name)
    return engine or _engines.setdefault(name, Engine(ALL_THREADS if name == "cpu" else 1))


async def run(runner: Runner, call: Call[Answer]) -> Answer:
    """Run a call on the engine of its model's device (see `Engine.run`)."""
    return await engine_of(runner.device).run(runner, call)


def start(runner: Runner, call: Call[Any]) -> None:
    """Start a call on the engine of its model's device (see `Engine.start`)."""
    engine_of(runner.device).start(runner, call)


def post(runner: Runner, work: Callable[[], None]) -> None:
    """Run work on the engine of a model's device (see `Engine.post`)."""
    engine_of(runner.device).post(runner, work)


def _after_fork() -> None:
    """Fail the calls that only the parent's threads continue, including those that rest or wait."""
    calls = dict[Call[Any], Runner]()
    for engine in _engines.values():  # all of them first, since calls hand over to models on other devices
        calls |= engine.stand_still()
    error = RuntimeError(
        "the process was forked during this call of a model, which continues only in the parent process: call again"
    )
    for runner in set(calls.values()):
        with suppress(Exception):  # of clearing its KV cache, which CUDA refuses in a forked process
            runner.fail(error)
    for call in calls:
        if not call.future.done():  # it had not begun
            call.fail(error)
    for engine in _engines.values():
        engine.reset()


def _at_exit() -> None:
    for engine in _engines.values():
        engine.close()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
