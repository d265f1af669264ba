"""The thinking models measured alone: `python -m tests.benchmarks.thinkers --json FILE [--quick]`.

Greedy responses to held-out problems, with and without thoughts: how many are correct, and how many have their markers
in the correct places; for comparison, the models that do not think, on the same problems. Then how well the family's
verifiers rank correct steps above wrong ones in the thinking drafter's responses.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import platform
import re
from collections.abc import Iterable
from datetime import date
from typing import Any

import torch

from rsd_core import Path, Step, as_prompt, load
from rsd_integrations.embedded.checker import is_right
from rsd_integrations.embedded.rollouts import Rollout, roll_out
from rsd_integrations.evaluation.statistics import wilson
from tests.benchmarks.command import Command, Size

SIZES = {"n": Size(500, 24, "held-out problems"), "scored": Size(500, 24, "responses whose steps are scored", least=24)}
SEED = 1
BATCH = 128
"""Responses written concurrently."""
RESPONSE = re.compile(
    r"<think>\n(?P<thought>(?:(?!</?think>).)*\S)\n</think>\n\n(?P<answer>(?:(?!</?think>).)+)", re.DOTALL
)
"""A correct response: one non-empty thought, then an answer."""
ROWS = (
    *itertools.product(("thinking-draft", "thinking-target"), (True, False)),
    *itertools.product(("draft", "target"), (False,)),
)
"""Models, and whether they should think."""
VERIFIERS = ("verifier", "prm")


def responses(name: str, thinking: bool, n: int, seed: int = SEED) -> list[Rollout]:
    """Greedy responses of a model of the family to held-out problems."""
    model = load(f"embedded:{name}")
    tokenizer: Any = model.vocabulary.tokenizer
    rollouts = roll_out(
        model.model, tokenizer, "test", seed, temperatures=(0.0,), batch=min(n, BATCH), enable_thinking=thinking
    )
    return list(itertools.islice(rollouts, n))


def well_formed(rollout: Rollout, thinking: bool) -> bool:
    """Whether a response ends, and has its markers in the correct places, or none if it should not think."""
    return rollout.ended and (bool(RESPONSE.fullmatch(rollout.text)) if thinking else "think>" not in rollout.text)


def accuracy(name: str, thinking: bool, n: int) -> dict[str, Any]:
    """One row of the table."""
    rollouts = responses(name, thinking, n)
    right = sum(is_right(rollout.problem, rollout.text) for rollout in rollouts)
    return {
        "model": name,
        "thinking": thinking,
        "accuracy": right / n,
        "ci95": wilson(right, n),
        "well_formed": sum(well_formed(rollout, thinking) for rollout in rollouts) / n,
    }


def step_auc(name: str, rollouts: Iterable[Rollout]) -> dict[str, float]:
    """How well a verifier ranks correct steps above wrong ones, which it reads without markers."""
    from scipy import stats

    verifier = load(f"embedded:{name}")
    scores: dict[bool, list[float]] = {True: [], False: []}
    for rollout in rollouts:
        path = Path(as_prompt(rollout.problem.question))
        for text, verdict in zip(rollout.steps, rollout.verdicts, strict=False):
            last = text == rollout.steps[-1]
            step = Step(text if last else text + "\n\n", "end" if last else "delimiter")
            (reward,) = asyncio.run(verifier.score(path, [step])).rewards
            scores[verdict.right].append(reward)
            path = path.extend(step)
    right, wrong = scores[True], scores[False]
    return {
        "auc": float(stats.mannwhitneyu(right, wrong).statistic / (len(right) * len(wrong))),
        "steps": len(right) + len(wrong),
        "wrong_steps": len(wrong),
        "right_kept_at_0.7": sum(score >= 0.7 for score in right) / len(right),
        "wrong_caught_at_0.7": sum(score < 0.7 for score in wrong) / len(wrong),
    }


def markdown(data: dict[str, Any]) -> str:
    """The figures as a page."""
    lines = [
        "## The thinking models",
        "",
        f"Made by `python -m tests.benchmarks.thinkers`, {data['date']}, {data['machine']}. Greedy responses to "
        f"{data['n']} held-out problems, seed {SEED}.",
        "",
        "| model | thinks | accuracy | 95 % | markers in place |",
        "|---|---|---|---|---|",
    ]
    for row in data["accuracy"]:
        low, high = row["ci95"]
        lines.append(
            f"| embedded:{row['model']} | {'yes' if row['thinking'] else 'no'} "
            f"| {row['accuracy']:.3f} | {low:.3f}–{high:.3f} | {row['well_formed']:.1%} |"
        )
    one = next(iter(data["verifiers"].values()))
    lines += [
        "",
        f"Ranking of steps in {data['scored']} responses by `embedded:thinking-draft` with thoughts, "
        f"{one['steps']} steps of thoughts and answers, {one['wrong_steps']} of them wrong:",
        "",
        "| verifier | step AUC | right steps kept at 0.7 | wrong steps caught at 0.7 |",
        "|---|---|---|---|",
    ]
    for name, m in data["verifiers"].items():
        lines.append(
            f"| embedded:{name} | {m['auc']:.4f} | {m['right_kept_at_0.7']:.1%} | {m['wrong_caught_at_0.7']:.1%} |"
        )
    return "\n".join(lines) + "\n"


COMMAND = Command("thinkers", __doc__, SIZES, markdown)


def main() -> None:
    """Measure and write."""
    options = COMMAND.parse()
    torch.set_num_threads(1)  # models this small lose time when they share cores
    drafts = responses("thinking-draft", True, options.scored, seed=777)
    data = {
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores {platform.machine()}, no GPU, Python {platform.python_version()}",
        "n": options.n,
        "scored": options.scored,
        "accuracy": [accuracy(*row, options.n) for row in ROWS],
        "verifiers": {name: step_auc(name, drafts) for name in VERIFIERS},
    }
    COMMAND.write(options, data)


if __name__ == "__main__":
    main()
