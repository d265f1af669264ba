"""Do budget-aware policies spend their budget? `python -m tests.benchmarks.budget --json FILE [--quick]`.

Rewards from five distributions, four budgets, 5,000 steps each; first one request after the other, then 64 at a time,
through the decoder itself with scripted models that alternate at every call.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Iterator
from datetime import date
from typing import Any

from rsd_core import BudgetAware, Limits, Path, RewardGuidedDecoder, Settings, Step
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from tests.benchmarks.command import Command, Size

SIZES = {"steps": Size(5000, 1000, "steps for each distribution and budget", least=10)}
GAMMAS = (0.05, 0.1, 0.3, 0.5)
PER_REQUEST = 10


def _clip(value: float) -> float:
    return min(1.0, max(0.0, value))


LAWS: dict[str, Callable[[random.Random, float], float]] = {
    "uniform": lambda rng, _: rng.random(),
    "bimodal": lambda rng, _: _clip(rng.gauss(rng.choice((0.2, 0.9)), 0.05)),
    "tied": lambda rng, _: rng.choice((0.1, 0.5, 0.5, 0.9, 0.9, 0.9)),
    "drifting": lambda rng, done: _clip(rng.gauss(0.8 - 0.6 * done, 0.1)),
    "sorted": lambda _, done: done,
}
"""From a random generator and the share of steps done to a reward. `sorted` rises: each is the best so far."""


def measure(law: str, gamma: float, concurrency: int, steps: int = SIZES["steps"].full) -> float:
    """The share of steps that a new budget-aware policy sends to the target."""
    rng = random.Random(f"{law} {gamma} {concurrency}")
    rewards: Iterator[float] = (LAWS[law](rng, i / steps) for i in itertools.count())

    def score(_path: Path, _step: Step) -> float:
        return next(rewards)

    pause = 1e-9 if concurrency > 1 else 0.0  # lets the other requests continue
    decoder = RewardGuidedDecoder(
        drafter=ScriptedDrafter(lambda path, rng: f"{path.depth} {rng.random()}\n\n", delay=pause),
        verifier=ScriptedVerifier(score, delay=pause),
        target=ScriptedTarget(lambda path, rng: f"{path.depth} {rng.random()}\n\n", delay=pause),
        policy=BudgetAware(target_rate=gamma),
        settings=Settings(temperature=1, limits=Limits(max_steps=PER_REQUEST)),
    )
    prompts = [f"question {i}" for i in range(steps // PER_REQUEST)]
    results = asyncio.run(decoder.arun_many(prompts, concurrency=concurrency))
    authors = [step.author for result in results for step in result.steps]
    return authors.count("target") / len(authors)


def page(data: dict[str, Any]) -> str:
    """The figures as a page."""
    rows = data["rows"]
    lines = [
        "## Budgets",
        "",
        f"Made by `python -m tests.benchmarks.budget`, {date.today()}. The share of {data['steps']:,} steps that "
        "`BudgetAware` sent to the target, one request after the other and 64 at a time:",
        "",
        "| rewards | " + " | ".join(f"γ = {gamma}, {c} at a time" for gamma in GAMMAS for c in (1, 64)) + " |",
        "|---|" + "---|" * 2 * len(GAMMAS),
    ]
    lines += [
        f"| {law} | " + " | ".join(f"{row['realised']:.4f}" for row in rows if row["law"] == law) + " |" for law in LAWS
    ]
    return "\n".join(lines)


COMMAND = Command("budget", __doc__, SIZES, page)


def main() -> None:
    """Measure and write."""
    options = COMMAND.parse()
    rows = [
        {"law": law, "gamma": gamma, "concurrency": at_once, "realised": measure(law, gamma, at_once, options.steps)}
        for law, gamma, at_once in itertools.product(LAWS, GAMMAS, (1, 64))
    ]
    COMMAND.write(options, {"steps": options.steps, "rows": rows})


if __name__ == "__main__":
    main()
