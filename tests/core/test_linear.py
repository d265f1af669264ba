"""The core's work grows with the answer's length and no faster, whatever is asked of it.

Between n and 4n steps it grows fourfold, sixteenfold were it quadratic. Where the work shows in calls of functions,
those are counted; where it is inside of one call, such as the search of a text, it is CPU time over texts so long that
nothing else weighs.
"""

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsd_core import (
    Drafter,
    Generation,
    Limits,
    Path,
    RewardGuidedDecoder,
    Scores,
    Settings,
    Step,
    StepRequest,
    Target,
    Usage,
    Verifier,
    as_prompt,
)
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier

SHORT = 150
EXPONENT = 1.1
"""The most that the growth may be: 1 is linear, 2 quadratic."""


class Writer(Drafter, Target):
    """Never twice the same step in a row; waits for one turn of the event loop."""

    flops_per_token = 1.0

    def __init__(self, padding: str = "") -> None:
        self.padding = padding

    async def generate(self, path: Path, request: StepRequest) -> Generation:
        await asyncio.sleep(0)
        step = Step(f"{path.depth % 7} {self.padding}\n\n", "delimiter", size=2)
        return Generation((step,) * len(request.seeds), Usage(prefix=1, computed=3, generated=2))


class Judge(Verifier):
    """Slower than the writer, and rejects every twentieth step."""

    flops_per_token = 1.0

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        for _ in range(5):
            await asyncio.sleep(0)
        return Scores((_reward(path.depth),) * len(steps), Usage(computed=2, scored=2))


class RunJudge(Judge):
    """The same, of several steps in one call."""

    async def score_run(self, path: Path, steps: Sequence[Step]) -> Sequence[Scores]:
        first = await self.score(path, steps[:1])
        return [first, *(Scores((_reward(path.depth + i),), first.usage) for i in range(1, len(steps)))]


def _reward(depth: int) -> float:
    return 0.1 if depth % 20 == 19 else 0.9


def _decoder(
    steps: int, verifier: Verifier, limits: dict[str, Any], padding: str = "", **settings: Any
) -> RewardGuidedDecoder:
    return RewardGuidedDecoder(
        drafter=Writer(padding),
        verifier=verifier,
        target=Writer(padding),
        settings=Settings(limits=Limits(**{"max_steps": steps, "max_tokens": None, **limits}), **settings),
    )


def _scripted(steps: int) -> RewardGuidedDecoder:
    texts = [f"{i} words of a step\n\n" for i in range(steps)]
    return RewardGuidedDecoder(
        drafter=ScriptedDrafter(texts),
        verifier=ScriptedVerifier([_reward(i) for i in range(steps)]),
        target=ScriptedTarget(texts),
        settings=Settings(limits=Limits(max_steps=steps, max_tokens=None)),
    )


def _calls(decoder: RewardGuidedDecoder, steps: int, stop: Sequence[str] = ()) -> int:
    """Calls of functions, and goings-on of generators, while an answer is written."""
    count = 0

    def watch(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    async def work() -> None:
        sys.setprofile(watch)
        try:
            result = await decoder.arun("question", stop=stop)
        finally:
            sys.setprofile(None)
        assert len(result.steps) == steps

    asyncio.run(work())
    return count


CASES: dict[str, Callable[[int], RewardGuidedDecoder]] = {
    "plain": lambda steps: _decoder(steps, Judge(), {}),
    "deadline": lambda steps: _decoder(steps, Judge(), {"max_seconds": 3600}),
    "limits of work": lambda steps: _decoder(steps, Judge(), {"max_flops": 1e9}),
    "limits of the target": lambda steps: _decoder(steps, Judge(), {"max_target_flops": 1e9}),
    "repeats allowed": lambda steps: _decoder(steps, Judge(), {"max_repeats": None}),
    "lookahead": lambda steps: _decoder(steps, Judge(), {}, lookahead=4),
    "lookahead over runs": lambda steps: _decoder(steps, RunJudge(), {}, lookahead=4),
    "hedge": lambda steps: _decoder(steps, Judge(), {}, hedge=0.001),
    "scripted models": _scripted,
}


@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_calls_grow_with_the_answer(make: Callable[[int], RewardGuidedDecoder]) -> None:
    short, long = (_calls(make(steps), steps) for steps in (SHORT, 4 * SHORT))
    assert long < 4**EXPONENT * short


def test_calls_grow_with_the_answer_under_stop_strings() -> None:
    short, long = (_calls(CASES["plain"](steps), steps, stop=["Observation:", "|"]) for steps in (SHORT, 4 * SHORT))
    assert long < 4**EXPONENT * short


def test_no_text_is_searched_twice_for_stop_strings() -> None:
    def seconds(steps: int) -> float:
        decoder = _decoder(steps, Judge(), {}, padding="Observation" * 400)
        started = time.thread_time()
        result = asyncio.run(decoder.arun("question", stop=["Observation:", "n|"]))
        assert len(result.steps) == steps
        return time.thread_time() - started

    short, long = (min(seconds(steps) for _ in range(3)) for steps in (SHORT, 4 * SHORT))
    assert long < 8 * short


@given(st.lists(st.text(alphabet="ab \n\u2028", max_size=4), max_size=12))
def test_scripted_models_count_the_words_of_the_whole_text(texts: list[str]) -> None:
    """Also of words that straddle steps, and whichever paths were asked about before."""
    model, path = ScriptedDrafter(["next"]), Path(as_prompt("one two"))
    for i, text in enumerate(texts):
        path = path.extend(Step(text, "length"))
        if i % 3 == 2 or i == len(texts) - 1:
            written = asyncio.run(model.generate(path, StepRequest(seeds=(0,))))
            assert written.usage.prefix == len(f"one two {path.text}".split())
