"""The workloads of `tests.benchmarks.core`, in a separate process: `python -P FILE '{"plain": [200], …}'`.

Both builds run this file, so it only uses public names that both have, and nothing else from this folder. Models return
prepared objects, so that only the core's own work remains. Prints JSON: the file of `rsd_core`, and microseconds of CPU
time per step by workload and number of steps.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import rsd_core
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
)
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier

TEXTS = [
    f"Of the {n} seats that are left in the row, two are taken, and so {n - 2} remain for us.\n\n" for n in range(9)
]
WRITTEN = [
    Generation((Step(text, "delimiter", size=24),), Usage(prefix=50, computed=24, generated=24)) for text in TEXTS
]
GOOD, BAD = (Scores((reward,), Usage(prefix=50, computed=24, scored=24)) for reward in (0.9, 0.2))
STEPS_AT_LEAST = 2000
"""Minimum number of steps in a measurement: short answers are repeated."""


class Writer(Drafter, Target):
    """Returns the step at this position, after some turns of the event loop."""

    name = "instant"
    flops_per_token = 2.0

    def __init__(self, first: int, turns: int = 0) -> None:
        self.first, self.turns = first, turns

    async def generate(self, path: Path, request: StepRequest) -> Generation:
        for _ in range(self.turns):
            await asyncio.sleep(0)
        return WRITTEN[(path.depth + self.first) % len(WRITTEN)]


class Judge(Verifier):
    """Rejects every nth step, after some turns of the event loop."""

    name = "instant"
    flops_per_token = 2.0

    def __init__(self, rejects: int, turns: int = 0) -> None:
        self.rejects, self.turns = rejects, turns

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        for _ in range(self.turns):
            await asyncio.sleep(0)
        return BAD if path.depth % self.rejects == self.rejects - 1 else GOOD


def instant(settings: Settings) -> RewardGuidedDecoder:
    """Models that answer at once; the target writes every fourth step."""
    return RewardGuidedDecoder(drafter=Writer(0), verifier=Judge(4), target=Writer(1), settings=settings)


def plain(steps: int) -> RewardGuidedDecoder:
    """Default settings, except for the answer's length."""
    return instant(Settings(limits=Limits(max_steps=steps, max_tokens=None)))


def deadline(steps: int) -> RewardGuidedDecoder:
    """With a time limit, as requests behind adapters have."""
    return instant(Settings(limits=Limits(max_steps=steps, max_tokens=None, max_seconds=3600)))


def lookahead(steps: int) -> RewardGuidedDecoder:
    """A verifier so slow, and so few rejections, that four steps are drafted ahead."""
    settings = Settings(lookahead=4, limits=Limits(max_steps=steps, max_tokens=None))
    return RewardGuidedDecoder(drafter=Writer(0, 1), verifier=Judge(20, 5), target=Writer(1, 1), settings=settings)


def lookahead_instant(steps: int) -> RewardGuidedDecoder:
    """Lookahead with models that answer at once, where there is nothing to gain."""
    return instant(Settings(lookahead=4, limits=Limits(max_steps=steps, max_tokens=None)))


def scripted(steps: int) -> RewardGuidedDecoder:
    """The library's own models for tests."""
    return RewardGuidedDecoder(
        drafter=ScriptedDrafter([TEXTS[i % 9] for i in range(steps)]),
        verifier=ScriptedVerifier([0.2 if i % 4 == 3 else 0.9 for i in range(steps)]),
        target=ScriptedTarget([TEXTS[(i + 1) % 9] for i in range(steps)]),
        settings=Settings(limits=Limits(max_steps=steps, max_tokens=None)),
    )


MAKES: Mapping[str, Callable[[int], RewardGuidedDecoder]] = {
    "plain": plain,
    "deadline": deadline,
    "lookahead": lookahead,
    "lookahead_instant": lookahead_instant,
    "stop": plain,
    "testing": scripted,
}


def measure(name: str, steps: int) -> float:
    """Print microseconds of the process's CPU time per step."""
    decoder = MAKES[name](steps)
    stop = ["\nObservation:", "<|end|>"] if name == "stop" else []
    answers = max(1, STEPS_AT_LEAST // steps)

    async def work() -> None:
        for i in range(answers):
            result = await decoder.arun(f"Question {i}", stop=stop)
            assert len(result.steps) == steps, f"{name}: {len(result.steps)} steps of {steps}, {result.finish_reason}"

    started = time.process_time()
    asyncio.run(work())
    return (time.process_time() - started) / (answers * steps) * 1e6


def main() -> None:
    """Measure the requested workloads."""
    wanted: dict[str, list[int]] = json.loads(sys.argv[1])
    measure("plain", STEPS_AT_LEAST)  # the first answer of a process is slower
    spent = {name: {steps: measure(name, steps) for steps in lengths} for name, lengths in wanted.items()}
    print(json.dumps({"file": rsd_core.__file__, "spent": spent}))


if __name__ == "__main__":
    main()
