"""The engine of a device: one thread that runs its models, for callers of any thread and event loop."""

from __future__ import annotations

import asyncio
import atexit
import os
import queue
import threading
from typing import Any

import torch

from rsd_core import Interrupted
from rsd_integrations.huggingface.calls import Call, Made
from rsd_integrations.huggingface.runner import Runner

PATIENCE = 32
"""Forward passes of others that double the weight of a model's waiting rows."""
_ALL = torch.get_num_threads()
SMALL = 1e8
"""FLOPs per token below which one thread is fastest. Below some fifty million weights, waiting for each other costs
the threads more than sharing the work saves, and on a busy machine many times more."""


def threads_for(flops_per_token: float) -> int:
    """How many threads a model's forward pass should use on a CPU."""
    return 1 if flops_per_token < SMALL else _ALL


class Engine:
    """Runs whichever model of a device has most rows waiting, one forward pass at a time.

    A forward pass costs nearly the same for one row as for several, so the fullest batch moves most work. A model
    that is passed over gains weight with each forward pass of others, so that nobody waits for ever.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start from nothing, as in a forked process, which inherits no threads."""
        self._arriving: queue.SimpleQueue[tuple[Runner, Call[Any]] | None] = queue.SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._threads = 0
        """For each operation, as last set."""
        for runner in getattr(self, "_busy", {}):
            runner.fail(RuntimeError("the process was forked"))
        self._busy: dict[Runner, int] = {}
        """Models with rows, and how many forward passes of others each was passed over for."""

    async def perform(self, runner: Runner, call: Call[Made]) -> Made:
        """Run a call.

        Raises:
            Interrupted: The caller was cancelled after some work; nothing of the call outlives it.
        """
        self._arriving.put((runner, call))
        if self._thread is None:
            self._start()
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
        """End the thread."""
        if self._thread is not None:
            self._arriving.put(None)
            self._thread.join(5)

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="rsd-engine", daemon=True)
                self._thread.start()

    @torch.inference_mode()
    def _work(self) -> None:
        while self._take_in():
            self._advance()  # a call of its own, so that nothing idle holds the last model

    def _advance(self) -> None:
        """One forward pass of the model that is due."""
        runner = max(self._busy, key=lambda one: one.waiting * (1 + self._busy[one] / PATIENCE))
        if runner.threads != self._threads:
            self._threads = runner.threads
            torch.set_num_threads(self._threads)  # holds for this thread alone
        try:
            runner.step()
        except Exception as error:  # whatever it is, it is the callers' to hear
            runner.fail(error)
        for other in self._busy:
            self._busy[other] += 1
        self._busy[runner] = 0
        if not runner.waiting:
            del self._busy[runner]

    def _take_in(self) -> bool:
        """Start the calls that have arrived, waiting for one where nothing is to be done; False to end."""
        while not self._busy or not self._arriving.empty():
            arrived = self._arriving.get()
            if arrived is None:
                return False
            self._begin(*arrived)
            del arrived
        return True

    def _begin(self, runner: Runner, call: Call[Any]) -> None:
        self._busy.setdefault(runner, 0)
        try:
            runner.start(call)
        except Exception as error:
            runner.fail(error)


_engines: dict[torch.device, Engine] = {}


def engine_of(device: torch.device) -> Engine:
    """The engine that all models of a device share."""
    return _engines.setdefault(device, Engine())


def _after_fork() -> None:
    for engine in _engines.values():
        engine.reset()


def _at_exit() -> None:
    for engine in _engines.values():
        engine.close()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
