"""ProcessBench (arXiv 2412.06559): can a verifier find the first wrong step?

Each solution is labelled with the index of its first wrong step, or -1. The score of a split is F1, the harmonic mean
of two accuracies: over the solutions with an error, whether exactly the first wrong step is found; over those without,
whether no step is called wrong. The score of a verifier is the mean over the splits. Definitions are those of the
authors' evaluation code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rsd_core import ConfigurationError, RSDError, RunError, Verifier
from rsd_integrations.evaluation.scoring import Solution, read_solutions, score_all

SPLITS = ("gsm8k", "math", "olympiadbench", "omnimath")
"""The benchmark's own splits, named like its files."""
CHOSEN_ON = "gsm8k"
"""The split on which the authors choose the threshold of models that have none."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One solution with its rewards."""

    label: int
    """Index of the first wrong step, -1 for a solution without one."""
    rewards: tuple[float | None, ...]

    def named(self, threshold: float) -> int:
        """Index of the first step with a reward below the threshold, -1 for none. Steps without one count as right."""
        return next((i for i, r in enumerate(self.rewards) if r is not None and r < threshold), -1)


@dataclass(frozen=True, slots=True)
class Split:
    """The result of one split; accuracies are in [0, 1]."""

    name: str
    wrong: int
    """Solutions with an error."""
    right: int
    """Solutions without an error."""
    error_accuracy: float
    correct_accuracy: float
    failed: int = 0
    """Solutions that could not be scored, for example for their length; they count as failures."""
    steps: int = 0
    """Steps of the solutions that could be scored."""
    without_reward: int = 0
    """Of these, steps on which the verifier abstained, and mere markers of thoughts; they count as right."""

    @property
    def f1(self) -> float:
        """The harmonic mean of the two accuracies; 0 if both are 0."""
        both = self.error_accuracy + self.correct_accuracy
        return 2 * self.error_accuracy * self.correct_accuracy / both if both else 0.0


@dataclass(frozen=True, slots=True)
class ProcessBenchReport:
    """The result of a verifier."""

    verifier: str
    threshold: float
    chosen_on: str | None
    """The split on which the threshold was chosen; None if it was given."""
    splits: tuple[Split, ...]
    errors: tuple[str, ...] = ()
    """Why solutions could not be scored, each reason once."""

    @property
    def average(self) -> float:
        """The mean of the splits' F1."""
        return sum(split.f1 for split in self.splits) / len(self.splits)

    def to_dict(self) -> dict[str, object]:
        """Plain JSON data."""
        return {
            "task": "processbench",
            "verifier": self.verifier,
            "threshold": self.threshold,
            "threshold_chosen_on": self.chosen_on,
            "average_f1": self.average,
            "splits": {
                split.name: {
                    "f1": split.f1,
                    "error_accuracy": split.error_accuracy,
                    "correct_accuracy": split.correct_accuracy,
                    "wrong": split.wrong,
                    "right": split.right,
                    "failed": split.failed,
                    "steps": split.steps,
                    "steps_without_reward": split.without_reward,
                }
                for split in self.splits
            },
            "errors": list(self.errors),
        }


def read_splits(place: Path) -> dict[str, list[Solution]]:
    """The splits of the benchmark: a JSON or JSONL file named after each, in a folder or alone.

    Raises:
        ConfigurationError: There is no split, or an entry has no label, or one that is not an index of its steps.
    """
    files = sorted((*place.glob("*.json"), *place.glob("*.jsonl"))) if place.is_dir() else [place]
    if not files:
        raise ConfigurationError(f"{place} holds no .json or .jsonl file; the benchmark's are {', '.join(SPLITS)}")
    splits = {file.stem: read_solutions(file) for file in files}
    for name, solutions in splits.items():
        for number, solution in enumerate(solutions, 1):
            label = solution.row.get("label")
            if not isinstance(label, int) or not -1 <= label < len(solution.steps):
                raise ConfigurationError(
                    f"{name}, entry {number}: label {label!r} is neither -1 nor the index of one of its "
                    f"{len(solution.steps)} steps"
                )
    return splits


async def judge_split(
    verifier: Verifier,
    solutions: Sequence[Solution],
    progress: Callable[[], None] = lambda: None,
    concurrency: int = 16,
) -> tuple[list[Judged | None], list[str]]:
    """Rewards of all solutions of a split; None and a reason for one that cannot be scored."""
    judged: list[Judged | None] = []
    reasons: list[str] = []
    async for i, rewards in score_all(verifier, solutions, concurrency):
        if isinstance(rewards, RSDError):
            judged.append(None)
            reasons.append(str(rewards))
        else:
            judged.append(Judged(int(solutions[i].row["label"]), tuple(rewards)))
        progress()
    return judged, reasons


def evaluate_split(name: str, labels: Sequence[int], judged: Sequence[Judged | None], threshold: float) -> Split:
    """Accuracies of a split at a threshold."""
    named = [None if one is None else one.named(threshold) for one in judged]
    pairs = list(zip(labels, named, strict=True))
    wrong = [label == index for label, index in pairs if label != -1]
    right = [label == index for label, index in pairs if label == -1]
    rewards = [reward for one in judged if one is not None for reward in one.rewards]
    known = (len(rewards), rewards.count(None))
    return Split(name, len(wrong), len(right), _share(wrong), _share(right), named.count(None), *known)


async def evaluate_processbench(
    verifier: Verifier,
    splits: dict[str, list[Solution]],
    threshold: float | None = 0.5,
    progress: Callable[[], None] = lambda: None,
    concurrency: int = 16,
) -> ProcessBenchReport:
    """Evaluate a verifier.

    Args:
        verifier: Any verifier.
        splits: Solutions by split, see `read_splits`.
        threshold: A step with a lower reward is called wrong. None chooses the best on the `gsm8k` split, as the
            authors do for models that have no threshold; that split's figure is then not held out.
        progress: Called after each solution.
        concurrency: Solutions scored at once.

    Raises:
        ConfigurationError: A threshold out of range, or none and no `gsm8k` split to choose it on.
        RunError: No solution could be scored.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise ConfigurationError(f"threshold={threshold} is out of range; rewards are in [0, 1]")
    if threshold is None and CHOSEN_ON not in splits:
        raise ConfigurationError(f"no threshold is given, nor the split {CHOSEN_ON} to choose one on; give either")
    judged, reasons = {}, list[str]()
    for name, solutions in splits.items():
        judged[name], failures = await judge_split(verifier, solutions, progress, concurrency)
        reasons += failures
    if reasons and not any(one is not None for split in judged.values() for one in split):
        raise RunError(
            f"no solution could be scored: {verifier.name!r} failed at all {len(reasons)}, the last: {reasons[-1]}"
        )
    labels = {name: [int(s.row["label"]) for s in solutions] for name, solutions in splits.items()}
    chosen = threshold
    if chosen is None:
        rewards = {r for one in judged[CHOSEN_ON] if one is not None for r in one.rewards if r is not None}
        tried = sorted({0.0, 1.0, *rewards})
        chosen = max(tried, key=lambda at: evaluate_split("", labels[CHOSEN_ON], judged[CHOSEN_ON], at).f1)
    results = tuple(evaluate_split(name, labels[name], judged[name], chosen) for name in splits)
    unique = tuple(dict.fromkeys(reasons))
    return ProcessBenchReport(verifier.name, chosen, CHOSEN_ON if threshold is None else None, results, unique)


def _share(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits) if hits else 0.0
