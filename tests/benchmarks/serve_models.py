"""Scripted models, and the time of a decoder over them without a server: `python -P FILE STEPS ANSWERS`.

For `tests.benchmarks.serve_load`. The older build runs this file too, so it only uses names of both builds, and none
of this folder. Prints JSON: the file of `rsd_core`, and microseconds of CPU time per step.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from typing import Any

import rsd_core
from rsd_core import Drafter, Limits, Path, RewardGuidedDecoder, Settings, Step, Target, Verifier
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier

EVERY = 4
"""The last one of this number of steps is rejected, and written by the target."""
MADE: Counter[str] = Counter()
"""Tokens by role, as counted by the models themselves."""
LOOPS: list[asyncio.AbstractEventLoop] = []
"""The event loops in which models are called."""


def written(question: str, step: int, steps: int, author: str) -> str:
    """A step whose text says where it belongs."""
    text = f"{question}, step {step} {author}: of the {step + 4} seats that are left in the row two are taken."
    return text if step == steps - 1 else text + "\n\n"


def answer(question: str, steps: int) -> str:
    """All steps of an answer."""
    authors = ["replaced" if i % EVERY == EVERY - 1 else "drafted" for i in range(steps)]
    return "".join(written(question, i, steps, author) for i, author in enumerate(authors))


class _Forgetful(list[Path]):
    """Scripted models record all calls, which a server would keep for ever."""

    def append(self, path: Path, /) -> None:
        pass


def load(role: str, steps: int, delay: float = 0.0) -> Drafter | Verifier | Target:
    """The models behind `load:drafter`, `load:verifier` and `load:target`.

    Args:
        role: The role.
        steps: Steps of each answer.
        delay: Seconds per call.
    """

    def write(path: Path, _: object) -> str:
        author = "drafted" if role == "drafter" else "replaced"
        text = written(path.prompt[-1].content, path.depth, steps, author)
        MADE[role] += len(text.split()) + (path.depth == steps - 1)
        return text

    def score(path: Path, step: Step) -> float:
        MADE[role] += step.size
        if not LOOPS:
            LOOPS.append(asyncio.get_running_loop())
        return 0.2 if path.depth % EVERY == EVERY - 1 else 0.9

    model: ScriptedDrafter | ScriptedTarget | ScriptedVerifier
    if role == "verifier":
        model = ScriptedVerifier(score, delay=delay)
    else:
        model = (ScriptedDrafter if role == "drafter" else ScriptedTarget)(write, delay=delay)
    model.calls = _Forgetful()
    return model


def bare(steps: int, answers: int) -> float:
    """Print microseconds of CPU time per step without a server."""
    roles: dict[str, Any] = {role: load(role, steps) for role in ("drafter", "verifier", "target")}
    limits = Limits(max_steps=None, max_tokens=None)
    decoder = RewardGuidedDecoder(**roles, settings=Settings(limits=limits))

    asyncio.run(decoder.arun_many([f"Warm {i}" for i in range(50)]))
    questions = [f"Question {i}" for i in range(answers)]
    started = time.process_time()
    results = asyncio.run(decoder.arun_many(questions, concurrency=answers))
    spent = time.process_time() - started
    assert [result.text for result in results] == [answer(question, steps) for question in questions]
    return spent / (steps * answers) * 1e6


if __name__ == "__main__":
    print(json.dumps({"file": rsd_core.__file__, "us_per_step": bare(*map(int, sys.argv[1:]))}))
