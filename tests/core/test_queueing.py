"""Requests that began first are served first, wherever calls have to wait."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest

from rsd_core import BinaryStep, Generation, Path, RewardGuidedDecoder, Scores, Settings, Step, StepRequest, Usage
from rsd_core.interfaces import Drafter, Target, Verifier
from rsd_core.queueing import CALLER, Caller, Slots, current_caller, side_by_side

STEPS = 4


class Crowded(Drafter, Target, Verifier):
    """A model of all roles behind a few places, that notes whom it serves."""

    name = "crowded"

    def __init__(self, places: int) -> None:
        self.slots = Slots(places)
        self.served: list[str] = []
        self.callers: dict[str, set[Caller]] = {}

    async def _serve(self, path: Path) -> None:
        question = path.prompt[0].content
        self.callers.setdefault(question, set()).add(current_caller())
        async with self.slots:
            await asyncio.sleep(0)
            self.served.append(question)

    async def generate(self, path: Path, request: StepRequest) -> Generation:
        await self._serve(path)
        last = path.depth + 1 == STEPS
        return Generation((Step(f"Step {path.depth}.\n\n", "end" if last else "delimiter", size=3),), Usage(1, 1, 0, 3))

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        await self._serve(path)
        return Scores((float(path.depth % 2),) * len(steps), Usage(1, 1))


def decoder(model: Crowded, **settings: int) -> RewardGuidedDecoder:
    return RewardGuidedDecoder(
        drafter=model, verifier=model, target=model, policy=BinaryStep(delta=0.5), settings=Settings(**settings)
    )


@pytest.mark.parametrize("lookahead", [0, 2])
async def test_requests_that_have_begun_are_served_before_new_ones(lookahead: int) -> None:
    model, questions = Crowded(2), [f"Question {i}" for i in range(16)]
    results = await decoder(model, lookahead=lookahead).arun_many(questions, concurrency=8)
    assert all(len(result.steps) == STEPS for result in results)
    last = {question: len(model.served) - model.served[::-1].index(question) for question in questions}
    # After a quarter of the work a quarter of the answers is there, but for those that are being worked on.
    quarter = len(model.served) // 4
    assert sum(end <= quarter for end in last.values()) >= len(questions) // 4 - 2
    assert sorted(questions, key=last.__getitem__)[:4] == questions[:4]


async def test_all_calls_of_a_request_are_one_callers() -> None:
    model = Crowded(64)
    await decoder(model, lookahead=2).arun_many(["a", "b", "c"], concurrency=3)
    assert {question: len(callers) for question, callers in model.callers.items()} == {"a": 1, "b": 1, "c": 1}
    assert {caller.concurrency for callers in model.callers.values() for caller in callers} == {3}
    assert CALLER.get() is None


async def test_a_lone_request_is_of_no_run() -> None:
    model = Crowded(1)
    await decoder(model).arun("a")
    (caller,) = model.callers["a"]
    assert caller.concurrency is None


async def test_a_run_within_a_run_is_part_of_it() -> None:
    with side_by_side(7):
        model = Crowded(8)
        await decoder(model).arun_many(["a", "b"], concurrency=2)
    assert {caller.concurrency for callers in model.callers.values() for caller in callers} == {7}
    assert current_caller().concurrency is None


class TestResize:
    """Places that become more or fewer while some are taken."""

    async def test_more_places_serve_those_who_wait(self) -> None:
        slots, inside = Slots(1), Counter[str]()

        async def work() -> None:
            async with slots:
                inside["now"] += 1
                inside["most"] = max(inside["most"], inside["now"])
                await asyncio.sleep(0.01)
                inside["now"] -= 1

        works = [asyncio.create_task(work()) for _ in range(12)]
        await turns()
        assert (inside["now"], slots.waiting) == (1, 11)
        slots.resize(4)
        await asyncio.gather(*works)
        assert inside["most"] == 4

    async def test_fewer_places_hold_from_the_next_caller_on(self) -> None:
        slots, order, leave = Slots(3), list[int](), [asyncio.Event() for _ in range(6)]

        async def work(i: int) -> None:
            async with slots:
                order.append(i)
                await leave[i].wait()

        works = [asyncio.create_task(work(i)) for i in range(6)]
        await turns()
        slots.resize(1)
        for i in (0, 1):
            leave[i].set()
        await turns()
        assert order == [0, 1, 2]  # two have left, and one is still inside
        for i in range(2, 6):
            leave[i].set()
            await turns()
            assert order == list(range(min(i + 2, 6)))  # each one that leaves lets one in
        await asyncio.gather(*works)
        async with slots:
            pass
        assert slots.waiting == 0


async def turns() -> None:
    """Let all tasks go as far as they can without time passing."""
    for _ in range(20):
        await asyncio.sleep(0)
