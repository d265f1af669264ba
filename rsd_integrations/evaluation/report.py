"""The results of an evaluation, as data."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from typing import Any

from rsd_integrations.display.reading import counted
from rsd_integrations.evaluation.outcome import Outcome, idle
from rsd_integrations.evaluation.statistics import (
    MCNEMAR,
    SIGN_FLIPS,
    Comparison,
    Interval,
    bootstrap,
    compare,
    interval,
    wilson,
)
from rsd_integrations.role_faults import always_abstained, never_worked


@dataclass(slots=True)
class Faults:
    """One kind of fault over the answers of a method."""

    count: int = 0
    """How often."""
    answers: int = 0
    """In how many answers."""
    last: str = ""
    """The last message."""


_SUMMED = (
    *("seconds", "steps", "by_target", "drafted", "accepted", "scored", "abstained"),
    *("flops", "flops_paper", "cost", "computed"),
)


@dataclass(slots=True)
class MethodReport:
    """One method over all problems so far."""

    n: int = 0
    graded: int = 0
    """Answers for which it is known whether they are correct."""
    right: int = 0
    seconds: float = 0.0
    steps: int = 0
    by_target: int = 0
    drafted: int = 0
    accepted: int = 0
    scored: int = 0
    abstained: int = 0
    rewarded: bool = False
    """Whether the verifier gave a reward in any answer."""
    errors: int = 0
    """Answers that failed."""
    degraded: int = 0
    """Answers in which something went wrong that the request recovered from."""
    faults: dict[str, Faults] = field(default_factory=dict)
    """Faults by `DegradationKind`; under `error`, answers that failed, and under `ungraded`, gradings that failed."""
    flops: float | None = 0.0
    flops_paper: float | None = 0.0
    cost: float | None = 0.0
    dtypes: dict[str, set[str]] = field(default_factory=dict)
    """The dtypes of each role's weights; several if the report has answers from different machines."""
    computed: int = 0
    """Tokens that all models computed."""

    def add(self, outcome: Outcome) -> None:
        """Count one problem."""
        self.n += 1
        self.graded += outcome.correct is not None
        self.right += bool(outcome.correct)
        self.errors += outcome.finish_reason == "error"
        self.degraded += bool(outcome.degradations)
        self.rewarded |= outcome.scored > 0 and not outcome.abstained
        counts = {
            **outcome.degradations,
            **({"error": 1} if outcome.finish_reason == "error" else {}),
            **({"ungraded": 1} if outcome.ungraded else {}),
        }
        for kind, count in counts.items():
            faults = self.faults.setdefault(kind, Faults())
            faults.count += count
            faults.answers += 1
            faults.last = outcome.ungraded if kind == "ungraded" else outcome.messages.get(kind, faults.last)
        for role, dtype in outcome.dtypes.items():
            self.dtypes.setdefault(role, set()).add(dtype)
        for name in _SUMMED:
            mine, more = getattr(self, name), getattr(outcome, name)
            setattr(self, name, None if mine is None or more is None else mine + more)

    @property
    def accuracy(self) -> float | None:
        """Share of correct answers among those that were graded; None if none was."""
        return self.right / self.graded if self.graded else None

    @property
    def never_worked(self) -> list[str]:
        """A message about each role that failed at every one of its calls; empty if there is none."""
        return [
            never_worked(role, self.faults[f"{role}_error"].count, self.faults[f"{role}_error"].last)
            for role in idle(self.drafted, self.scored, self.faults)
        ]

    def to_dict(self) -> dict[str, Any]:
        """The figures per problem, as plain JSON data."""
        n = max(1, self.n)
        return {
            "accuracy": self.accuracy,
            "answers": self.n,
            "tokens_per_problem": self.computed / n,
            "graded": self.graded,
            "flops_per_problem": None if self.flops is None else self.flops / n,
            "flops_per_problem_paper": None if self.flops_paper is None else self.flops_paper / n,
            "cost_per_problem": None if self.cost is None else self.cost / n,
            "seconds_per_problem": self.seconds / n,
            "dtypes": {role: sorted(dtypes) for role, dtypes in self.dtypes.items()},
            "target_share": self.by_target / max(1, self.steps),
            "errors": self.errors,
            "degraded": self.degraded,
            "faults": {kind: asdict(faults) for kind, faults in self.faults.items()},
            "acceptance_rate": self.accepted / self.drafted if self.drafted else None,
        }


@dataclass(slots=True)
class Report:
    """All results of an evaluation."""

    task: str
    seed: int
    concurrency: int
    problems: list[tuple[str, str | None]]
    """Questions and correct answers."""
    outcomes: dict[str, dict[int, Outcome]]
    """By method and answer number: with several seeds, those of the first seed come first."""
    seeds: int = 1
    """How often each problem is answered, with random numbers from `seed` on."""
    setup: dict[str, str] = field(default_factory=dict)
    """Models and policy in words, by role; without secrets."""
    elapsed: float = 0.0
    """Seconds that this run took, without those of answers from a journal."""
    replayed: str = ""
    """The record that answers come from, if no model was asked."""
    methods: dict[str, MethodReport] = field(default_factory=dict)
    """Totals so far."""

    def __post_init__(self) -> None:
        # In this order, sums and intervals are the same to the last digit, whichever answer was ready first.
        self.outcomes = {name: dict(sorted(outcomes.items())) for name, outcomes in self.outcomes.items()}
        for name, outcomes in self.outcomes.items():
            self.methods[name] = MethodReport()
            for outcome in outcomes.values():
                self.methods[name].add(outcome)

    @property
    def n(self) -> int:
        """Number of problems."""
        return len(self.problems)

    @property
    def answers(self) -> int:
        """Answers of a complete method."""
        return self.n * self.seeds

    @property
    def in_flight(self) -> str:
        """The load under which seconds were measured."""
        if self.replayed:
            return "from the recorded calls"
        if self.concurrency == 1:
            return "one at a time"
        return f"{self.concurrency} in flight (learning policies: 1)"

    @property
    def done(self) -> int:
        """Answers so far, of all methods."""
        return sum(len(outcomes) for outcomes in self.outcomes.values())

    def add(self, method: str, number: int, outcome: Outcome) -> None:
        """Count one answer."""
        self.outcomes[method][number] = outcome
        self.methods[method].add(outcome)

    @property
    def reference(self) -> str:
        """The method that others are compared with: the target alone if it was run, else the first."""
        return "target" if "target" in self.outcomes else next(iter(self.outcomes))

    @property
    def faults(self) -> list[str]:
        """The faults, one line per method and kind; empty if there were none."""
        return [
            f"{name}: {_SAID.get(kind, kind)} {counted(faults.count, 'time')} "
            f"in {faults.answers} of {counted(method.n, 'answer')}"
            + (f", most recently with {faults.last[:200]!r}" if faults.last else "")
            for name, method in self.methods.items()
            for kind, faults in method.faults.items()
        ]

    @property
    def abstentions(self) -> list[str]:
        """The methods whose verifier gave no reward at all, one line each."""
        silent = {name: one.abstained for name, one in self.methods.items() if one.abstained and not one.rewarded}
        return [f"{name}: {always_abstained(steps)}" for name, steps in silent.items()]

    @property
    def graded_as(self) -> str:
        """The graders, and how many problems have no reference answer, and how many answers were not graded."""
        latest = {i: outcome for outcomes in self.outcomes.values() for i, outcome in outcomes.items()}
        graders = Counter(outcome.grader for outcome in latest.values() if outcome.grader)
        unknown = {i for i, outcome in latest.items() if outcome.correct is None and not outcome.ungraded}
        parts = (
            ["graded as " + ", ".join(f"{name} ({count})" for name, count in graders.most_common())] if graders else []
        )
        if unknown:
            known, whole = (len({i % self.n for i in numbers}) for numbers in (latest.keys() - unknown, latest))
            parts.append(f"accuracy over {known} of {counted(whole, 'problem')}: the others have no answer")
        if ungraded := sum(
            method.faults["ungraded"].count for method in self.methods.values() if "ungraded" in method.faults
        ):
            parts.append(f"not counted: {counted(ungraded, 'answer')} that could not be graded")
        return "; ".join(parts)

    @property
    def seeded(self) -> str:
        """The seeds, in words."""
        return f"seed {self.seed}" if self.seeds == 1 else f"seeds {self.seed} to {self.seed + self.seeds - 1}"

    @property
    def test(self) -> str:
        """The test for equal accuracy, in words."""
        return MCNEMAR if self.seeds == 1 else SIGN_FLIPS

    def ci95(self, name: str) -> Interval:
        """The interval of a method's accuracy: Wilson's, or bootstrap over problems with several seeds."""
        method = self.methods[name]
        if self.seeds == 1 or not method.graded:
            return wilson(method.right, method.graded)
        right: defaultdict[int, list[bool]] = defaultdict(list)
        for number, outcome in self.outcomes[name].items():
            if outcome.correct is not None:
                right[number % self.n].append(outcome.correct)
        sums = bootstrap([[sum(own), len(own)] for own in right.values()])
        return interval(sums[:, 0] / sums[:, 1])

    def by_seed(self, name: str) -> list[float | None]:
        """A method's accuracy for each seed."""
        parts = [MethodReport() for _ in range(self.seeds)]
        for number, outcome in self.outcomes[name].items():
            parts[number // self.n].add(outcome)
        return [part.accuracy for part in parts]

    def compare(self, method: str, other: str) -> Comparison:
        """A method against another over the answers of both that were graded, problem by problem.

        Raises:
            ValueError: There are no such answers.
        """
        both = self._both_graded(method, other)
        if not both:
            raise ValueError(f"no answers of {method} and {other} to the same problem were graded")
        groups = [number % self.n for number in both]
        first, second = ([_figures(self.outcomes[name][number]) for number in both] for name in (method, other))
        return compare(first, second, groups)

    def _both_graded(self, *methods: str) -> list[int]:
        graded = [{i for i, o in self.outcomes[name].items() if o.correct is not None} for name in methods]
        return sorted(set.intersection(*graded))

    def comparisons(self) -> dict[str, Comparison]:
        """Every method against the reference, if there is something to compare."""
        return {
            name: self.compare(name, self.reference)
            for name in self.outcomes
            if name != self.reference and self._both_graded(name, self.reference)
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; the texts of the answers are in the journal."""
        return {
            "task": self.task,
            "n": self.n,
            "seed": self.seed,
            "concurrency": self.concurrency,
            "setup": self.setup,
            **({"seeds": self.seeds} if self.seeds > 1 else {}),
            **({"replayed": self.replayed} if self.replayed else {}),
            "totals": self.totals,
            "methods": {name: self._method(name) for name in self.methods},
            "compared_with": self.reference,
            "comparisons": {name: asdict(comparison) for name, comparison in self.comparisons().items()},
            "problems": [
                {
                    "prompt": question,
                    "reference": answer,
                    "methods": {name: self._row(own[i]) for name, own in self.outcomes.items() if i in own},
                }
                for i, (question, answer) in [(i, self.problems[i % self.n]) for i in range(self.answers)]
            ],
        }

    @property
    def totals(self) -> dict[str, float | None]:
        """Totals of all methods: tokens, FLOPs and money, and the seconds of this run."""
        everything = MethodReport()
        for outcomes in self.outcomes.values():
            for outcome in outcomes.values():
                everything.add(outcome)
        names = ("computed", "flops", "cost")
        return {"tokens" if name == "computed" else name: getattr(everything, name) for name in names} | {
            "seconds": self.elapsed
        }

    def _method(self, name: str) -> dict[str, Any]:
        seeds = {"accuracy_by_seed": self.by_seed(name)} if self.seeds > 1 else {}
        return self.methods[name].to_dict() | {"ci95": list(self.ci95(name)), **seeds}

    def _row(self, outcome: Outcome) -> dict[str, Any]:
        row = asdict(outcome) | {"target_share": outcome.by_target / max(1, outcome.steps)}
        del row["text"], row["thought"]
        return row


def _figures(outcome: Outcome) -> tuple[bool, float | None, float | None]:
    return bool(outcome.correct), outcome.flops, outcome.flops_paper


_SAID = {
    "drafter_error": "the drafter failed",
    "verifier_error": "the verifier failed",
    "target_error": "the target failed and was retried",
    "target_limit": "a limit on the target was reached",
    "thought_limit": "a thought was ended at its limit",
    "no_answer": "the response ended without an answer",
    "error": "the request failed",
    "ungraded": "the answer could not be graded",
}
