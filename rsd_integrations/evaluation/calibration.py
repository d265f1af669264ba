"""The expected cost and accuracy of any threshold, from rewards recorded once.

For a threshold δ, the drafter's answer is kept up to its first step below δ; under greedy decoding, this is exact. From
there on, the answer is assumed to go as the target's does, with the drafts recorded along it: a replaced step puts the
answer where the target would be. `Settings.on_abstain` decides about a step without a reward, whatever the threshold.
This is an estimate; `rsd eval` checks it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rsd_core import (
    BinaryStep,
    BudgetAware,
    ConfigurationError,
    RewardGuidedDecoder,
    RunError,
    WeightingPolicy,
    __version__,
)
from rsd_integrations.evaluation.accuracy_target import Graded, Kept, cheapest, kept, weakest
from rsd_integrations.evaluation.plots import check_format, figure
from rsd_integrations.evaluation.recording import LeftOut, Rates, Recorded, record
from rsd_integrations.evaluation.statistics import Interval, bootstrap, interval
from rsd_integrations.evaluation.tasks import Item
from rsd_integrations.output_files import write_output


@dataclass(frozen=True, slots=True)
class Row:
    """A threshold's expected cost and accuracy, with 95 % intervals over problems like these (bootstrap)."""

    delta: float | None
    """None for a model alone."""
    target_share: float
    target_share_ci95: Interval
    flops: float | None
    """Per problem, everything charged."""
    flops_ci95: Interval | None
    flops_paper: float | None
    """The same, by the paper's convention."""
    flops_paper_ci95: Interval | None
    accuracy: float | None
    accuracy_ci95: Interval | None


@dataclass(frozen=True)
class Calibration:
    """The recording, and the estimates from it."""

    problems: tuple[Recorded, ...]
    charged: Rates
    """Per step, everything charged."""
    paper: Rates
    """Per step, by the paper's convention."""
    on_abstain: Literal["target", "accept"] = "target"
    """What happens to a draft without a reward."""
    left_out: tuple[LeftOut, ...] = ()
    """Problems that could not be recorded."""

    def row(self, delta: float) -> Row:
        """The expected cost and accuracy of the threshold δ."""
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

        graded = total[5] > 0
        return Row(
            delta,
            float(share),
            interval(spread),
            *cost(self.charged, 2),
            *cost(self.paper, 3),
            float(total[4] / total[5]) if graded else None,
            interval(sums[:, 4] / np.maximum(sums[:, 5], 1)) if graded else None,
        )

    def alone(self, role: Literal["drafter", "target"]) -> Row:
        """Cost and accuracy of a model alone; the drafter's cost is without a verifier."""
        counts: list[tuple[float, ...]] = []
        for one in self.problems:
            right = one.draft_right if role == "drafter" else one.target_right
            steps, written = len(one.drafted), sum(one.sizes)
            spent = (steps, steps) if role == "drafter" else (one.read + written, written)
            counts.append((*spent, bool(right), right is not None))
        sums, total = bootstrap(counts, resamples=2000), np.asarray(counts, dtype=np.float64).sum(axis=0)
        n, share = len(counts), float(role == "target")

        def cost(rates: Rates, column: int) -> tuple[float | None, Interval | None]:
            rate = rates.drafted if role == "drafter" else rates.token
            if rate is None:
                return None, None
            return float(total[column]) * rate / n, interval(sums[:, column] * rate / n)

        graded = total[3] > 0
        return Row(
            None,
            share,
            (share, share),
            *cost(self.charged, 0),
            *cost(self.paper, 1),
            float(total[2] / total[3]) if graded else None,
            interval(sums[:, 2] / np.maximum(sums[:, 3], 1)) if graded else None,
        )

    @cached_property
    def curve(self) -> list[Row]:
        """Thresholds from the drafter alone to almost the target alone: quantiles of the rewards, and an even grid."""
        rewards = [r for problem in self.problems for r in (*problem.drafted, *problem.beside) if r is not None]
        deltas = (*np.quantile(rewards, np.linspace(0, 1, 41)), *np.linspace(0, 1, 21))
        return [self.row(delta) for delta in sorted({round(float(delta), 6) for delta in deltas})]

    def share(self, policy: WeightingPolicy) -> float:
        """The expected share of steps that a policy without memory sends to the target."""
        steps = replaced = 0.0
        for problem in self.problems:
            length, by_target = _expected(problem, lambda reward: self._accepts(reward, policy.weight))
            steps, replaced = steps + length, replaced + by_target
        return replaced / steps

    def cheapest(self) -> BinaryStep:
        """The cheapest threshold that is expected to be no less accurate than the target alone.

        Among many thresholds, the one that looks best by chance would win. Therefore the expected difference must be
        at least its own standard error, unless there is no difference at all. Of the good thresholds whose cost is
        indistinguishable from the cheapest one's (by the interval of the target's share), the middle one is taken. If
        answers are unknown, or no threshold is that good, it is the one that sends a fifth of the steps to the target.
        """
        curve, good = self.curve, self.as_accurate
        if good:
            alike = [row for row in good if row.target_share <= good[0].target_share_ci95[1]]
        else:
            nearest = min(abs(row.target_share - 0.2) for row in curve)
            alike = [row for row in curve if abs(row.target_share - 0.2) <= nearest + 0.002]
        return BinaryStep(delta=_threshold(alike[len(alike) // 2]))

    @cached_property
    def as_accurate(self) -> list[Row]:
        """The thresholds that are expected to be no less accurate than the target; empty if answers are unknown."""
        return [row for row in self.curve if row.accuracy is not None and self._surplus(_threshold(row)) >= 0]

    @cached_property
    def kept(self) -> list[Kept]:
        """How much of the target's accuracy the thresholds of the curve keep, at least and as expected.

        Raises:
            ConfigurationError: No answer is known, or the target solves no problem.
        """
        replaced = self.on_abstain == "target"
        graded = [
            Graded(weakest(one.drafted, replaced=replaced), bool(one.draft_right), bool(one.target_right))
            for one in self.problems
            if one.target_right is not None
        ]
        if not graded:
            raise ConfigurationError(
                f"an accuracy target needs problems with known answers; none of these {len(self.problems)} has one"
            )
        return kept(graded, [_threshold(row) for row in self.curve])

    def holding(self, accuracy: float) -> Kept:
        """The cheapest threshold that keeps a share of the target's accuracy, with 95 % confidence.

        Args:
            accuracy: The share, in (0, 1]: 0.98 is 98 % of what the target alone would solve.

        Raises:
            ConfigurationError: The share is out of range, or there is no accuracy to keep.
            RunError: No threshold keeps it.
        """
        if not 0 < accuracy <= 1:
            raise ConfigurationError(f"accuracy={accuracy}: must be a share of the target's accuracy, in (0, 1]")
        saving = [one for one, row in zip(self.kept, self.curve, strict=True) if self._saves(row)]
        if not saving:
            raise RunError(
                f"no threshold of {len(self.curve)} is expected to cost less than the target alone on these "
                f"{len(self.problems)} problems: use it alone (always_target), or a cheaper drafter and verifier"
            )
        held = cheapest(saving, accuracy)
        if held is None:
            safest = max(saving, key=lambda one: one.at_least)
            graded = sum(one.target_right is not None for one in self.problems)
            raise RunError(
                f"no threshold keeps {accuracy:.1%} of the target's accuracy with 95 % confidence and saves "
                f"anything, on {graded} problems with known answers: δ = {safest.delta:.6g} is expected to keep "
                f"{safest.expected:.1%}, and at least {safest.at_least:.1%}. Record more problems, ask for less, or "
                "use the target alone (always_target)"
            )
        return held

    def _saves(self, row: Row) -> bool:
        """Whether a threshold is expected to cost less than the target alone: in its steps if sizes are unknown."""
        if row.flops is None or self.charged.token is None:
            return row.target_share < 1
        tokens = sum(problem.read + sum(problem.sizes) for problem in self.problems)
        return row.flops < self.charged.token * tokens / len(self.problems)

    def _surplus(self, delta: float) -> float:
        """Expected accuracy minus the target's, minus one standard error of that difference."""
        graded = [problem for problem in self.problems if problem.target_right is not None]
        gaps = [self._count(problem, delta)[4] - bool(problem.target_right) for problem in graded]
        return float(np.mean(gaps) - np.std(gaps, ddof=1) / np.sqrt(len(gaps))) if len(gaps) > 1 else min(gaps)

    def budget(self, target_rate: float) -> BudgetAware:
        """A budget-aware policy that starts from the recorded rewards."""
        near = _threshold(min(self.curve, key=lambda row: abs(row.target_share - target_rate)))
        rewards = [reward for problem in self.problems for reward in self._seen(problem, near) if reward is not None]
        start = np.quantile(rewards, np.linspace(0, 1, 101), method="nearest")
        return BudgetAware(target_rate=target_rate, warm_start=tuple(round(float(reward), 6) for reward in start))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data: the curve and the recording."""
        known = any(problem.target_right for problem in self.problems)
        curve = [asdict(row) for row in self.curve]
        alone = {"drafter": asdict(self.alone("drafter")), "target": asdict(self.alone("target"))}
        return {
            "curve": curve,
            "alone": alone,
            "kept": [asdict(one) for one in self.kept] if known else None,
            **asdict(self),
        }

    def _rejects(self, reward: float | None, delta: float) -> bool:
        return self.on_abstain == "target" if reward is None else reward < delta

    def _accepts(self, reward: float | None, weight: Callable[[float], float]) -> float:
        """The probability that a draft is accepted."""
        return float(self.on_abstain == "accept") if reward is None else weight(reward)

    def _count(self, problem: Recorded, delta: float) -> tuple[float, ...]:
        """Steps, replaced ones, tokens the target computes and writes; whether it is correct, and that is known."""
        known = problem.target_right is not None
        first = next((i for i, reward in enumerate(problem.drafted) if self._rejects(reward, delta)), None)
        if first is None:
            return len(problem.drafted), 0, 0, 0, bool(problem.draft_right), known
        low = [i for i, r in enumerate(problem.beside) if i == first or (i > first and self._rejects(r, delta))]
        steps = max(len(problem.beside), first + 1)
        written = sum(problem.sizes[i] for i in low if i < len(problem.sizes))
        last = max(low, default=first)
        computed = problem.read + sum(problem.sizes[: last + 1])
        return steps, max(1, len(low)), computed, written, bool(problem.target_right), known

    def _seen(self, problem: Recorded, delta: float) -> tuple[float | None, ...]:
        """Rewards of the drafts that are expected under a threshold."""
        for i, reward in enumerate(problem.drafted):
            if self._rejects(reward, delta):
                return problem.drafted[: i + 1] + problem.beside[i + 1 :]
        return problem.drafted


def _threshold(row: Row) -> float:
    assert row.delta is not None  # rows of the curve have one
    return row.delta


def _expected(problem: Recorded, accepted: Callable[[float | None], float]) -> tuple[float, float]:
    """Expected steps and replaced steps: the drafter's answer up to the first rejection, wherever that is."""
    stands, steps, replaced = 1.0, 0.0, 0.0
    for i, reward in enumerate(problem.drafted):
        leaves = stands * (1 - accepted(reward))
        later = [1 - accepted(other) for other in problem.beside[i + 1 :]]
        steps += leaves * max(len(problem.beside), i + 1)
        replaced += leaves * (1 + sum(later))
        stands -= leaves
    return steps + stands * len(problem.drafted), replaced


def calibrate(
    decoder: RewardGuidedDecoder,
    items: Sequence[Item],
    *,
    concurrency: int = 16,
    progress: Callable[[int], None] = lambda _: None,
) -> Calibration:
    """Record what is needed to compare thresholds.

    Args:
        decoder: Models and settings; its policy is not used. Problems in which one of the models fails are left out.
        items: Problems, with or without known answers.
        concurrency: Requests in flight.
        progress: Called with the number of problems that are done.

    Raises:
        RunError: A role failed too often, or the verifier never gave a reward; says which, how often, and why.
    """
    recording = record(decoder, items, concurrency=concurrency, progress=progress)
    return Calibration(
        recording.problems, recording.charged, recording.paper, decoder.settings.on_abstain, recording.left_out
    )


def plot(calibration: Calibration, file: Path) -> None:
    """Plot the target's share, the expected cost and, if answers are known, the accuracy against the threshold."""
    check_format(file)
    curve = calibration.curve
    labels = {
        "target_share": "share of steps by the target",
        "flops_paper": "FLOPs per problem, paper's convention",
        "accuracy": "expected accuracy",
    }
    known = {name: label for name, label in labels.items() if getattr(curve[0], name) is not None}
    drawing, axes = figure(len(known))
    for panel, (name, label) in zip(axes, known.items(), strict=True):
        x = [row.delta for row in curve]
        spread = [getattr(row, f"{name}_ci95") for row in curve]
        panel.fill_between(x, [low for low, _ in spread], [high for _, high in spread], alpha=0.2, lw=0)
        panel.plot(x, [getattr(row, name) for row in curve], marker=".", ms=4, lw=1.2)
        panel.set_xlabel("threshold δ")
        panel.set_ylabel(label)
        panel.grid(alpha=0.25, lw=0.5)
    drawing.suptitle(f"{len(calibration.problems)} problems, bands of 95 %", fontsize=11)
    write_output(file, drawing.savefig)


def write_policy(policy: WeightingPolicy, file: Path) -> None:
    """Write a policy file, which every `policy` option accepts."""
    data = {"version": __version__, **policy.model_dump(mode="json")}
    write_output(file, json.dumps(data, indent=1) + "\n")
