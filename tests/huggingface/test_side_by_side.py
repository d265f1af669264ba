"""The threads of an engine, with models that only take time: which run concurrently, and that none starves."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from rsd_core import Usage
from rsd_integrations.inprocess import engine as engines
from rsd_integrations.inprocess.engine import AGING, Engine, _Queue


@dataclass(eq=False)
class Work:
    """A call that takes some forward passes."""

    passes: int
    future: Future[Any] = field(default_factory=Future)
    cancelled: bool = False


class Machine:
    """What happens on the threads: who is at work, and the most threads in use at once."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.threads = self.most = 0


class Model:
    """A runner whose forward passes sleep."""

    def __init__(self, machine: Machine, threads: int = 1, meet: threading.Barrier | None = None) -> None:
        self.machine, self.threads, self.meet = machine, threads, meet
        self.pass_seconds = 1.0
        self.resting_rows = 0
        self.calls: list[Work] = []
        self.alone = threading.Lock()

    @property
    def waiting_rows(self) -> int:
        return len(self.calls)

    def use_threads(self, count: int) -> None:
        """It has none."""

    def start(self, work: Work) -> None:
        self.calls.append(work)
        if work.passes < 0:
            raise ValueError("no such work")

    def fail(self, error: BaseException) -> None:
        calls, self.calls = self.calls, []
        for work in calls:
            work.future.set_exception(error)

    def step(self) -> None:
        assert self.alone.acquire(blocking=False), "two threads run one model"
        with self.machine.lock:
            self.machine.threads += self.threads
            self.machine.most = max(self.machine.most, self.machine.threads)
        if self.meet is not None:
            self.meet.wait(5)
        time.sleep(0.0005)
        for work in list(self.calls):
            work.passes -= 1
            if work.passes <= 0:
                self.calls.remove(work)
                work.future.set_result(SimpleNamespace(usage=Usage()))
        with self.machine.lock:
            self.machine.threads -= self.threads
        self.alone.release()


async def perform(engine: Engine, model: Model, passes: int) -> None:
    await engine.run(model, Work(passes))  # type: ignore[arg-type]


def test_small_models_run_side_by_side() -> None:
    engine, machine, meet = Engine(2), Machine(), threading.Barrier(2)
    models = [Model(machine, meet=meet) for _ in range(2)]

    async def both() -> None:  # each forward pass waits for one of the other model
        await asyncio.gather(*(perform(engine, model, 3) for model in models))

    asyncio.run(both())
    assert machine.most == 2
    engine.close()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_no_more_threads_are_used_than_there_are_and_everybody_has_a_turn(threads: int) -> None:
    engine, machine, draw = Engine(threads), Machine(), random.Random(threads)
    models = [Model(machine, size) for size in (1, 1, 1, 2)]

    async def many() -> None:
        async def one() -> None:
            await asyncio.sleep(draw.random() / 20)
            await perform(engine, draw.choice(models), draw.randint(1, 6))

        await asyncio.wait_for(asyncio.gather(*(one() for _ in range(200))), 60)

    asyncio.run(many())
    engine.close()
    assert not any(worker.is_alive() for worker in engine._workers)
    assert machine.threads == 0
    assert min(threads, 2) <= machine.most <= max(threads, 2)  # one that wants more than there are gets them all


def test_most_work_goes_first_and_nobody_waits_for_ever() -> None:
    cheap, dear = Model(Machine()), Model(Machine())
    cheap.pass_seconds, dear.pass_seconds = 0.1, 1.0

    def due(threads: int, rows: int) -> Any:
        """Work for both: a number of rows for the cheap model, four for the expensive one."""
        engine: Any = Engine(threads)
        engine._queues = {model: _Queue([Work(1)] * count) for model, count in ((cheap, rows), (dear, 4))}  # type: ignore[list-item]
        return engine

    for engine, rows in ((due(1, 13), 13), (due(2, 41), 41)):  # by the root of the ratio alone, by all of it otherwise
        assert engine._choose() is cheap
        del engine._queues[cheap].works[rows - 2 :]
        assert engine._choose() is dear
    for engine in (due(1, 5), due(2, 5)):
        passes = 0
        while engine._choose() is dear:
            engine._queues[cheap].waited += dear.pass_seconds
            passes += 1
        assert 0 < passes < 4 * AGING
    cheap.threads = 2  # nothing runs concurrently with a model that takes all threads
    assert due(2, 13)._choose() is cheap


def test_a_model_waits_for_the_larger_half_of_its_rows_while_others_run() -> None:
    target, drafter = Model(Machine()), Model(Machine())
    engine: Any = Engine(2)

    def due(model: Model, rows: int, resting: int) -> None:
        model.calls, model.resting_rows = [Work(1)] * rows, resting
        engine._queues[model] = _Queue()

    due(target, 1, 3)
    due(drafter, 3, 1)
    assert engine._choose() is drafter
    engine._queues[drafter].running = True
    assert engine._choose() is None  # a thread is free, and waits for the drafts of three
    due(target, 3, 1)
    assert engine._choose() is target
    due(target, 2, 2)
    due(drafter, 2, 2)
    assert engine._choose() is not None  # both wait for each other, and nobody runs
    del engine._queues[drafter]
    assert engine._choose() is target  # the drafter is of another device


@pytest.mark.parametrize("threads", [1, 2])
def test_a_model_whose_rows_wait_for_each_other_has_its_turn_beside_one_that_never_rests(threads: int) -> None:
    """A model that drafts for itself always has as many rows that rest as rows that wait."""
    target, drafter, endless = Model(Machine()), Model(Machine()), Model(Machine(), threads)
    engine: Any = Engine(threads)
    for model, rows, resting in ((target, 4, 4), (drafter, 4, 4), (endless, 4, 0)):
        model.calls, model.resting_rows = [Work(1)] * rows, resting
        engine._queues[model] = _Queue()
    turns = []
    for _ in range(4 * AGING):
        turns.append(engine._choose())
        for model, queue in engine._queues.items():
            queue.waited = 0.0 if model is turns[-1] else queue.waited + turns[-1].pass_seconds
    assert min(turns.count(target), turns.count(drafter)) >= AGING // 4


def test_a_call_that_cannot_start_takes_no_later_one_along() -> None:
    engine, model = Engine(1), Model(Machine())

    async def bad_and_good() -> list[object]:
        asked = [engine.run(model, Work(passes)) for passes in (-1, 1, 1)]  # type: ignore[arg-type]
        return await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 10)

    bad, *good = asyncio.run(bad_and_good())
    assert isinstance(bad, ValueError)
    assert not any(isinstance(made, Exception) for made in good)
    engine.close()


def test_a_forked_process_goes_on_though_a_cache_cannot_be_cleared_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """As CUDA refuses it: every call fails nevertheless, also of other models, and the engine starts anew."""

    class OnCuda(Model):
        def fail(self, error: BaseException) -> None:
            super().fail(error)
            raise RuntimeError("Cannot re-initialize CUDA in forked subprocess")

    engine: Any = Engine(1)
    monkeypatch.setattr(engines, "_engines", {"cpu": engine})
    engine._free_threads = 0  # nothing runs before the fork
    models, works = [OnCuda(Machine()) for _ in range(2)], [Work(1) for _ in range(2)]
    for model, work in zip(models, works, strict=True):
        engine.start(model, work)
        model.start(work)
    engines._after_fork()
    assert ["forked" in str(work.future.exception(0)) for work in works] == [True, True]
    asyncio.run(asyncio.wait_for(perform(engine, Model(Machine()), 1), 10))
    engine.close()
