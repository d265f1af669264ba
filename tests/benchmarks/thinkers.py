"""The thinking models measured alone: `python -m tests.benchmarks.thinkers --json FILE [--markdown FILE]`.

Greedy responses to held-out problems, with thoughts and without: how many are right, and how many have their markers
where they belong. Then how well the family's verifiers rank right steps above wrong ones in the thinking drafter's
responses.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import platform
import re
from collections.abc import Iterable
from datetime import date
from pathlib import Path as File
from typing import Any

import torch

from rsd_core import Path, Step, as_prompt, load
from rsd_integrations.embedded.checker import is_right
from rsd_integrations.embedded.rollouts import Rollout, roll_out
from rsd_integrations.evaluation.statistics import wilson
from tests.benchmarks.pages import put

SEED = 1
RESPONSE = re.compile(
    r"<think>\n(?P<thought>(?:(?!</?think>).)*\S)\n</think>\n\n(?P<answer>(?:(?!</?think>).)+)", re.DOTALL
)
"""A response as it should be: one thought that is not empty, then an answer."""
MODELS = ("thinking-draft", "thinking-target")
VERIFIERS = ("verifier", "prm")


def responses(name: str, thinking: bool, n: int, seed: int = SEED) -> list[Rollout]:
    """Greedy responses of a model of the family to held-out problems."""
    model = load(f"embedded:{name}")
    tokenizer: Any = model.vocabulary.tokenizer
    rollouts = roll_out(model.model, tokenizer, "test", seed, temperatures=(0.0,), enable_thinking=thinking)
    return list(itertools.islice(rollouts, n))


def well_formed(rollout: Rollout, thinking: bool) -> bool:
    """Whether a response has its markers where they belong, or none where it should not think, and ends."""
    return rollout.ended and (bool(RESPONSE.fullmatch(rollout.text)) if thinking else "think>" not in rollout.text)


def accuracy(name: str, thinking: bool, n: int) -> dict[str, Any]:
    """One row of the table."""
    rollouts = responses(name, thinking, n)
    right = sum(is_right(rollout.problem, rollout.text) for rollout in rollouts)
    return {
        "model": name,
        "enable_thinking": thinking,
        "accuracy": right / n,
        "ci95": wilson(right, n),
        "well_formed": sum(well_formed(rollout, thinking) for rollout in rollouts) / n,
    }


def step_auc(name: str, rollouts: Iterable[Rollout]) -> dict[str, float]:
    """How well a verifier ranks right steps above wrong ones, which it reads without markers."""
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
        "| model | `enable_thinking` | accuracy | 95 % | markers where they belong |",
        "|---|---|---|---|---|",
    ]
    for row in data["accuracy"]:
        low, high = row["ci95"]
        lines.append(
            f"| embedded:{row['model']} | {str(row['enable_thinking']).lower()} "
            f"| {row['accuracy']:.3f} | {low:.3f}–{high:.3f} | {row['well_formed']:.1%} |"
        )
    one = next(iter(data["verifiers"].values()))
    lines += [
        "",
        f"Right steps above wrong ones in {data['scored']} responses by `embedded:thinking-draft` with thoughts, "
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


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=500, help="held-out problems")
    parser.add_argument("--scored", type=int, default=500, help="responses whose steps are scored")
    parser.add_argument("--json", type=File, required=True)
    parser.add_argument("--markdown", type=File)
    options = parser.parse_args()
    torch.set_num_threads(1)  # models this small lose time by sharing cores
    drafts = responses("thinking-draft", True, options.scored, seed=777)
    data = {
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores {platform.machine()}, no GPU, Python {platform.python_version()}",
        "n": options.n,
        "scored": options.scored,
        "accuracy": [accuracy(name, asked, options.n) for name in MODELS for asked in (True, False)],
        "verifiers": {name: step_auc(name, drafts) for name in VERIFIERS},
    }
    options.json.write_text(json.dumps(data, indent=1) + "\n")
    if options.markdown:
        put(options.markdown, "thinkers", markdown(data))
    print(json.dumps({key: data[key] for key in ("accuracy", "verifiers")}))


if __name__ == "__main__":
    main()
