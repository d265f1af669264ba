"""Whether budget-aware policies spend their budget: `python -m tests.benchmarks.budget --json FILE`.

Rewards of five laws, four budgets, 5,000 steps each; once one request after the other and once 64 at a time, through
the decoder itself with scripted models that take turns at every call.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path as File
from typing import Any

from rsd_core import BudgetAware, Limits, Path, RewardGuidedDecoder, Settings, Step
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from tests.benchmarks.pages import put

GAMMAS = (0.05, 0.1, 0.3, 0.5)
STEPS, PER_REQUEST = 5000, 10


def _clip(value: float) -> float:
    return min(1.0, max(0.0, value))


LAWS: dict[str, Callable[[random.Random, int], float]] = {
    "uniform": lambda rng, _: rng.random(),
    "bimodal": lambda rng, _: _clip(rng.gauss(rng.choice((0.2, 0.9)), 0.05)),
    "tied": lambda rng, _: rng.choice((0.1, 0.5, 0.5, 0.9, 0.9, 0.9)),
    "drifting": lambda rng, i: _clip(rng.gauss(0.8 - 0.6 * i / STEPS, 0.1)),
    "sorted": lambda _, i: i / STEPS,
}
"""From a random generator and the number of the step to a reward. `sorted` rises, so that each is the best so far."""


def measure(law: str, gamma: float, concurrency: int) -> float:
    """The share of 5,000 steps that a fresh budget-aware policy sends to the target."""
    rng = random.Random(f"{law} {gamma} {concurrency}")
    rewards: Iterator[float] = (LAWS[law](rng, i) for i in itertools.count())

    def score(_path: Path, _step: Step) -> float:
        return next(rewards)

    pause = 1e-9 if concurrency > 1 else 0.0  # lets the other requests go on
    decoder = RewardGuidedDecoder(
        drafter=ScriptedDrafter(lambda path, rng: f"{path.depth} {rng.random()}\n\n", delay=pause),
        verifier=ScriptedVerifier(score, delay=pause),
        target=ScriptedTarget(lambda path, rng: f"{path.depth} {rng.random()}\n\n", delay=pause),
        policy=BudgetAware(target_rate=gamma),
        settings=Settings(temperature=1, limits=Limits(max_steps=PER_REQUEST)),
    )
    prompts = [f"question {i}" for i in range(STEPS // PER_REQUEST)]
    results = asyncio.run(decoder.arun_many(prompts, concurrency=concurrency))
    authors = [step.author for result in results for step in result.steps]
    assert len(authors) == STEPS
    return authors.count("target") / STEPS


def page(rows: list[dict[str, Any]]) -> str:
    """The figures as a page."""
    lines = [
        "## Budgets",
        "",
        f"Made by `python -m tests.benchmarks.budget`, {date.today().isoformat()}. The share of {STEPS:,} steps that "
        "`BudgetAware` sent to the target, one request after the other and 64 at a time:",
        "",
        "| rewards | " + " | ".join(f"γ = {gamma}, {c} at a time" for gamma in GAMMAS for c in (1, 64)) + " |",
        "|---|" + "---|" * 2 * len(GAMMAS),
    ]
    lines += [
        f"| {law} | " + " | ".join(f"{row['realised']:.4f}" for row in rows if row["law"] == law) + " |" for law in LAWS
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=File, required=True)
    parser.add_argument("--markdown", type=File, help="page to put the section into")
    options = parser.parse_args()
    rows = [
        {"law": law, "gamma": gamma, "concurrency": concurrency, "realised": measure(law, gamma, concurrency)}
        for law, gamma, concurrency in itertools.product(LAWS, GAMMAS, (1, 64))
    ]
    options.json.write_text(json.dumps({"steps": STEPS, "rows": rows}, indent=1) + "\n")
    if options.markdown:
        put(options.markdown, "budget", page(rows))
    for row in rows:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
