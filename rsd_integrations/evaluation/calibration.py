"""From rewards recorded once to what any threshold would cost and bring.

Each problem is decoded twice: by the drafter with all of its steps scored, and by the target with a draft at each
step, scored and thrown away. For a threshold δ the drafter's answer stands up to its first step below δ, exactly so
under greedy decoding. From there on the answer is taken to go as the target's does, with the drafts recorded beside
it: a replaced step puts the answer where the target would be. This is an estimate, and `rsd eval` checks it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rsd_core import BinaryStep, BudgetAware, Constant, Result, RewardGuidedDecoder, WeightingPolicy, __version__
from rsd_integrations.evaluation.plots import figure
from rsd_integrations.evaluation.statistics import Interval, bootstrap, interval
from rsd_integrations.evaluation.tasks import Item


@dataclass(frozen=True, slots=True)
class Recorded:
    """What was recorded of one problem."""

    drafted: tuple[float, ...]
    """Rewards of the drafter's own answer, step by step."""
    beside: tuple[float, ...]
    """Rewards of the drafts beside the target's answer."""
    draft_right: bool | None
    """Whether the drafter's answer is right; None where that is not known."""
    target_right: bool | None
    sizes: tuple[int, ...]
    """Tokens of the target's steps."""
    read: int
    """Tokens that the target read before and between its own."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What a step costs, in FLOPs; None where the size of a model is not known."""

    accepted: float | None
    """Drafter and verifier, for a draft that is accepted."""
    replaced: float | None
    """The same for one that is thrown away."""
    token: float | None
    """The target, for a token."""


@dataclass(frozen=True, slots=True)
class Row:
    """What a threshold is expected to cost and bring, with 95 % intervals over problems like these (bootstrap)."""

    delta: float
    target_share: float
    target_share_ci95: Interval
    flops: float | None
    """Per problem, everything charged."""
    flops_ci95: Interval | None
    flops_paper: float | None
    """The same by the paper's convention."""
    flops_paper_ci95: Interval | None
    accuracy: float | None
    accuracy_ci95: Interval | None


@dataclass(frozen=True)
class Calibration:
    """The recording, and what follows from it."""

    problems: tuple[Recorded, ...]
    charged: Rates
    """Per step, everything charged."""
    paper: Rates
    """Per step, by the paper's convention."""

    def row(self, delta: float) -> Row:
        """What the threshold δ is expected to cost and bring."""
        counts = [self._count(problem, delta) for problem in self.problems]
        sums = bootstrap(counts, resamples=2000)
        total, n = np.asarray(counts).sum(axis=0), len(counts)
        share, spread = total[1] / max(1, total[0]), sums[:, 1] / np.maximum(sums[:, 0], 1)

        def cost(rates: Rates, tokens: int) -> tuple[float | None, Interval | None]:
            if rates.accepted is None or rates.replaced is None or rates.token is None:
                return None, None
            weights = np.zeros(len(total))
            weights[[0, 1, tokens]] = rates.accepted, rates.replaced - rates.accepted, rates.token
            return float(total @ weights) / n, interval(sums @ weights / n)

        known = self.problems[0].target_right is not None
        return Row(
            delta,
            float(share),
            interval(spread),
            *cost(self.charged, 2),
            *cost(self.paper, 3),
            float(total[4] / n) if known else None,
            interval(sums[:, 4] / n) if known else None,
        )

    @cached_property
    def curve(self) -> list[Row]:
        """Thresholds from the drafter alone to nearly the target alone: quantiles of the rewards, and an even grid."""
        rewards = [reward for problem in self.problems for reward in (*problem.drafted, *problem.beside)]
        found = (*np.quantile(rewards, np.linspace(0, 1, 41)), *np.linspace(0, 1, 21))
        return [self.row(delta) for delta in sorted({round(float(delta), 6) for delta in found})]

    def share(self, policy: WeightingPolicy) -> float:
        """The share of steps that a policy without memory is expected to send to the target."""
        steps = replaced = 0.0
        for problem in self.problems:
            length, by_target = _expected(problem, policy.weight)
            steps, replaced = steps + length, replaced + by_target
        return replaced / steps

    def cheapest(self) -> BinaryStep:
        """The cheapest threshold that is expected to be no less accurate than the target alone.

        Of many thresholds the one that looks best by chance would win, so the expected difference has to be at least
        its own standard error, or there is no difference at all. Of the good thresholds whose cost cannot be told from
        the cheapest one's (by the interval of the target's share), the middle one is taken. Where answers are not
        known, or no threshold is that good, it is the one that sends a fifth of the steps to the target.
        """
        curve = self.curve
        good = [row for row in curve if row.accuracy is not None and self._surplus(row.delta) >= 0]
        if good:
            alike = [row for row in good if row.target_share <= good[0].target_share_ci95[1]]
        else:
            nearest = min(abs(row.target_share - 0.2) for row in curve)
            alike = [row for row in curve if abs(row.target_share - 0.2) <= nearest + 0.002]
        return BinaryStep(delta=alike[len(alike) // 2].delta)

    def _surplus(self, delta: float) -> float:
        """Expected accuracy minus the target's, less one standard error of that difference."""
        gaps = [self._count(problem, delta)[4] - bool(problem.target_right) for problem in self.problems]
        return float(np.mean(gaps) - np.std(gaps, ddof=1) / np.sqrt(len(gaps))) if len(gaps) > 1 else min(gaps)

    def budget(self, target_rate: float) -> BudgetAware:
        """A budget-aware policy that begins with what was recorded."""
        near = min(self.curve, key=lambda row: abs(row.target_share - target_rate)).delta
        rewards = [reward for problem in self.problems for reward in _path(problem, near)]
        start = np.quantile(rewards, np.linspace(0, 1, 101), method="nearest")
        return BudgetAware(target_rate=target_rate, warm_start=tuple(round(float(reward), 6) for reward in start))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data: the curve and the recording."""
        return {"curve": [asdict(row) for row in self.curve], **asdict(self)}

    def _count(self, problem: Recorded, delta: float) -> tuple[float, ...]:
        """Steps, replaced ones, tokens the target computes and writes, and whether the answer is right."""
        first = next((i for i, reward in enumerate(problem.drafted) if reward < delta), None)
        if first is None:
            return len(problem.drafted), 0, 0, 0, float(bool(problem.draft_right))
        low = [i for i, reward in enumerate(problem.beside) if i == first or (i > first and reward < delta)]
        steps = max(len(problem.beside), first + 1)
        written = sum(problem.sizes[i] for i in low if i < len(problem.sizes))
        last = max(low, default=first)
        computed = problem.read + sum(problem.sizes[: last + 1])
        return steps, max(1, len(low)), computed, written, float(bool(problem.target_right))


def _path(problem: Recorded, delta: float) -> tuple[float, ...]:
    """Rewards of the drafts that are expected to be seen under a threshold."""
    first = next((i for i, reward in enumerate(problem.drafted) if reward < delta), len(problem.drafted))
    return (
        problem.drafted[: first + 1] + problem.beside[first + 1 :] if first < len(problem.drafted) else problem.drafted
    )


def _expected(problem: Recorded, weight: Callable[[float], float]) -> tuple[float, float]:
    """Expected steps and replaced steps: the drafter's answer up to the first rejection, wherever that is."""
    kept, steps, replaced = 1.0, 0.0, 0.0
    for i, reward in enumerate(problem.drafted):
        leaves = kept * (1 - weight(reward))
        later = [1 - weight(other) for other in problem.beside[i + 1 :]]
        steps += leaves * max(len(problem.beside), i + 1)
        replaced += leaves * (1 + sum(later))
        kept -= leaves
    return steps + kept * len(problem.drafted), replaced


def calibrate(
    decoder: RewardGuidedDecoder,
    items: Sequence[Item],
    *,
    concurrency: int = 16,
    progress: Callable[[int], None] = lambda _: None,
) -> Calibration:
    """Record what thresholds need to be known by.

    Args:
        decoder: Models and settings; its policy is not used.
        items: Problems, with or without known answers.
        concurrency: Requests in flight.
        progress: Called with the number of problems that are done.

    Raises:
        BatchError: A request failed.
    """
    drafted, beside = (_with(decoder, Constant(p=p)) for p in (1, 0))
    both: list[tuple[Result, Result]] = []
    for first in range(0, len(items), 4 * concurrency):
        prompts = [item.prompt for item in items[first : first + 4 * concurrency]]
        both += zip(*(made.run_many(prompts, concurrency=concurrency) for made in (drafted, beside)), strict=True)
        progress(len(both))
    return Calibration(
        tuple(_recorded(item, *pair) for item, pair in zip(items, both, strict=True)),
        _rates(both, "flops"),
        _rates(both, "flops_paper"),
    )


def _with(decoder: RewardGuidedDecoder, policy: WeightingPolicy) -> RewardGuidedDecoder:
    return RewardGuidedDecoder(
        drafter=decoder.drafter,
        verifier=decoder.verifier,
        target=decoder.target,
        policy=policy,
        settings=decoder.settings,
    )


def _recorded(item: Item, drafted: Result, beside: Result) -> Recorded:
    known = item.reference is not None
    target = beside.ledger.target
    return Recorded(
        drafted=tuple(step.reward or 0.0 for step in drafted.steps),
        beside=tuple(step.reward or 0.0 for step in beside.steps),
        draft_right=item.grade(drafted.text) if known else None,
        target_right=item.grade(beside.text) if known else None,
        sizes=tuple(step.size for step in beside.steps),
        read=max(0, target.computed - target.generated),
    )


def _rates(both: Sequence[tuple[Result, Result]], kind: str) -> Rates:
    def cheap(results: Sequence[Result]) -> float | None:
        spent = [getattr(account, kind) for r in results for account in (r.ledger.drafter, r.ledger.verifier)]
        return None if None in spent else sum(spent) / max(1, sum(len(r.steps) for r in results))

    drafted, beside = [pair[0] for pair in both], [pair[1] for pair in both]
    flops = [getattr(result.ledger.target, kind) for result in beside]
    tokens = sum(getattr(r.ledger.target, "computed" if kind == "flops" else "generated") for r in beside)
    return Rates(cheap(drafted), cheap(beside), None if None in flops else sum(flops) / max(1, tokens))


def plot(calibration: Calibration, file: Path) -> None:
    """Draw the target's share, the expected cost and, where answers are known, the accuracy against the threshold."""
    curve = calibration.curve
    labels = {
        "target_share": "share of steps by the target",
        "flops_paper": "FLOPs per problem, paper's convention",
        "accuracy": "expected accuracy",
    }
    known = {name: label for name, label in labels.items() if getattr(curve[0], name) is not None}
    made, axes = figure(len(known))
    for panel, (name, label) in zip(axes, known.items(), strict=True):
        x = [row.delta for row in curve]
        spread = [getattr(row, f"{name}_ci95") for row in curve]
        panel.fill_between(x, [low for low, _ in spread], [high for _, high in spread], alpha=0.2, lw=0)
        panel.plot(x, [getattr(row, name) for row in curve], marker=".", ms=4, lw=1.2)
        panel.set_xlabel("threshold δ")
        panel.set_ylabel(label)
        panel.grid(alpha=0.25, lw=0.5)
    made.suptitle(f"{len(calibration.problems)} problems, bands of 95 %", fontsize=11)
    made.savefig(file)


def write_policy(policy: WeightingPolicy, file: Path) -> None:
    """Write a policy file, which every `policy` option reads."""
    data = {"version": __version__, **policy.model_dump(mode="json")}
    file.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
