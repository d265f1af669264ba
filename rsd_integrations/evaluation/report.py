"""What an evaluation found, as data."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field

from rsd_core import Result


def wilson(right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson score interval of a proportion; (0, 1) when nothing was counted."""
    if n == 0:
        return 0.0, 1.0
    p, zz = right / n, z * z / n
    middle, half = p + zz / 2, z * math.sqrt(p * (1 - p) / n + zz / (4 * n))
    return (middle - half) / (1 + zz), (middle + half) / (1 + zz)


@dataclass(slots=True)
class MethodReport:
    """One method over all problems so far."""

    n: int = 0
    right: int = 0
    seconds: float = 0.0
    steps: int = 0
    by_target: int = 0
    drafted: int = 0
    accepted: int = 0
    errors: int = 0
    flops: float | None = 0.0
    flops_paper: float | None = 0.0

    def add(self, result: Result, right: bool) -> None:
        """Count one problem."""
        total = result.ledger.total
        self.n += 1
        self.right += right
        self.seconds += result.seconds
        self.errors += result.finish_reason == "error"
        self.steps += len(result.steps)
        self.by_target += sum(step.author == "target" for step in result.steps)
        self.drafted += sum(step.accepted or step.discarded_draft is not None for step in result.steps)
        self.accepted += sum(step.accepted for step in result.steps)
        self.flops = None if self.flops is None or total.flops is None else self.flops + total.flops
        paper = total.flops_paper
        self.flops_paper = None if self.flops_paper is None or paper is None else self.flops_paper + paper

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.right / max(1, self.n)

    def to_dict(self) -> dict[str, object]:
        """The figures per problem, as plain JSON data."""
        n = max(1, self.n)
        return {
            "accuracy": self.accuracy,
            "ci95": list(wilson(self.right, self.n)),
            "flops_per_problem": None if self.flops is None else self.flops / n,
            "flops_per_problem_paper": None if self.flops_paper is None else self.flops_paper / n,
            "seconds_per_problem": self.seconds / n,
            "target_share": self.by_target / max(1, self.steps),
            "errors": self.errors,
            "acceptance_rate": self.accepted / self.drafted if self.drafted else None,
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """One method's answer to one problem."""

    answer: str | None
    correct: bool
    finish_reason: str
    target_share: float
    flops: float | None
    flops_paper: float | None
    seconds: float


@dataclass(slots=True)
class Report:
    """Everything an evaluation found."""

    task: str
    n: int
    seed: int
    methods: dict[str, MethodReport] = field(default_factory=dict)
    problems: list[dict[str, object]] = field(default_factory=list)

    def add(self, prompt: str, reference: str, outcomes: dict[str, tuple[Result, bool]]) -> None:
        """Count one problem, answered by every method."""
        told: dict[str, object] = {}
        for name, (result, right) in outcomes.items():
            self.methods[name].add(result, right)
            total = result.ledger.total
            told[name] = asdict(
                Outcome(
                    result.answer,
                    right,
                    result.finish_reason,
                    result.target_share,
                    total.flops,
                    total.flops_paper,
                    result.seconds,
                )
            )
        self.problems.append({"prompt": prompt, "reference": reference, "methods": told})

    def to_dict(self) -> dict[str, object]:
        """Plain JSON data."""
        return {
            "task": self.task,
            "n": self.n,
            "seed": self.seed,
            "methods": {name: method.to_dict() for name, method in self.methods.items()},
            "problems": self.problems,
        }
