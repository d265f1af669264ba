"""An evaluation as a table: one row per answer, in a file that any tool can open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from rsd_core import ConfigurationError, MissingDependency
from rsd_integrations.data_files import read_records, typed, write_records
from rsd_integrations.evaluation.report import Report
from rsd_integrations.evaluation.statistics import MCNEMAR, SIGN_FLIPS, Comparison, compare
from rsd_integrations.result_rows import RESULT_COLUMNS

COLUMNS = {
    "task": "text",
    "method": "text",
    "problem": "whole number",
    "seed": "whole number",
    "question": "text",
    "reference": "optional text",
    "correct": "yes or no",
    **RESULT_COLUMNS,
    "steps": "whole number",
    "by_target": "whole number",
    "drafted": "whole number",
    "accepted": "whole number",
    "grader": "text",
    "ungraded": "text",
    "degraded": "whole number",
    "error": "optional text",
}
"""The columns and their types: those of `result_row`, and in addition

- `problem`: its number in the task, from 0; `seed`: of the random numbers of this answer;
- `reference`: the correct answer; `correct`: null if there is none, or grading failed (`ungraded` says why);
- `steps`, those `by_target`, those `drafted` and those of them `accepted`;
- `degraded`: how often something went wrong and was handled; `error`: why the answer failed.
"""


@dataclass(frozen=True, slots=True)
class Paired:
    """Two methods over the problems that both answered."""

    first: str
    second: str
    comparison: Comparison
    first_accuracy: float
    second_accuracy: float
    unpaired: int
    """Answers of either without a graded counterpart in the other."""
    test: str
    """The test that the p-value is from."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The rows of an evaluation."""

    rows: list[dict[str, Any]]
    """One per answer, as in `COLUMNS`."""
    name: str = ""
    """Their source."""

    @classmethod
    def of(cls, *reports: Report) -> Self:
        """The rows of one report, or of several tasks."""
        return cls([row for report in reports for row in _rows(report)])

    @classmethod
    def load(cls, file: str | Path) -> Self:
        """The rows that `rsd eval --rows FILE` wrote.

        Raises:
            ConfigurationError: The file cannot be read, or contains something else.
        """
        rows: list[dict[str, Any]] = []
        for line in read_records(Path(file)):
            try:
                rows.append(typed(line.value, COLUMNS))
            except (KeyError, ValueError, TypeError, AttributeError) as error:
                lacks = isinstance(error, KeyError)
                wrong = f"it has no column {error}" if lacks else f"{type(error).__name__}: {error}"
                raise ConfigurationError(
                    f"{file}, row {line.number}: {line.error or wrong}; it is not a file "
                    "of an evaluation's rows, which `rsd eval --rows FILE` writes"
                ) from error
        if not rows:
            raise ConfigurationError(f"{file} is empty; `rsd eval --rows FILE` writes one row per answer")
        return cls(rows, str(file))

    def write(self, file: Path) -> None:
        """Write the rows as JSONL, CSV, TSV or Parquet, by the suffix.

        Raises:
            RSDError: The file cannot be written; the message says where the rows are instead.
        """
        write_records(file, self.rows, COLUMNS)

    def to_pandas(self) -> Any:
        """The rows as a `pandas.DataFrame`, in which missing values are `None` or NaN.

        Raises:
            MissingDependency: pandas is not installed.
        """
        try:
            import pandas as pd
        except ModuleNotFoundError as error:
            raise MissingDependency("pandas", "eval", "an evaluation as a DataFrame") from error
        frame = pd.DataFrame(self.rows, columns=list(COLUMNS))
        return frame.astype(
            {"correct": "boolean"} | {name: "float64" for name, kind in COLUMNS.items() if kind == "number"}
        )

    @property
    def methods(self) -> list[str]:
        """The methods, in order."""
        return list(dict.fromkeys(row["method"] for row in self.rows))

    def compare(self, method: str, other: Evaluation, other_method: str) -> Paired:
        """Compare a method with one of another evaluation, over the answers to the same question with the same seed.

        Args:
            method: The method of this evaluation.
            other: The other evaluation; may be the same one.
            other_method: The method of the other one.

        Raises:
            ConfigurationError: There is no such method, or no question to which both have a graded answer.
        """
        mine, theirs = self._graded(method), other._graded(other_method)
        both = [key for key in mine if key in theirs]
        if not both:
            raise ConfigurationError(
                f"{method} of {self.name or 'the first'} and {other_method} of {other.name or 'the second'} have no "
                f"graded answer to the same question with the same seed ({len(mine)} and {len(theirs)} answers)"
            )
        first, second = ([_figures(rows[key]) for key in both] for rows in (mine, theirs))
        comparison = compare(first, second, [key[:2] for key in both])
        return Paired(
            method,
            other_method,
            comparison,
            sum(right for right, *_ in first) / len(both),
            sum(right for right, *_ in second) / len(both),
            len(mine) + len(theirs) - 2 * len(both),
            MCNEMAR if comparison.n == len(both) else SIGN_FLIPS,
        )

    def _graded(self, method: str) -> dict[tuple[str, int, int], dict[str, Any]]:
        """The graded answers of a method by question, number of its earlier occurrences, and seed."""
        if method not in self.methods:
            raise ConfigurationError(
                f"{self.name or 'the evaluation'} has no method {method!r}; it has {', '.join(self.methods) or 'none'}"
            )
        numbers: dict[tuple[str, int], dict[int, None]] = {}
        graded = {}
        for row in self.rows:
            if row["method"] != method:
                continue
            same = numbers.setdefault((row["question"], row["seed"]), {})
            same[row["problem"]] = None
            if row["correct"] is not None:
                graded[row["question"], list(same).index(row["problem"]), row["seed"]] = row
        return graded


def pairs(first: Evaluation, second: Evaluation, methods: Sequence[str] = ()) -> list[Paired]:
    """Compare everything comparable: methods of the same name, or the only one of each.

    Args:
        first: An evaluation.
        second: Another evaluation.
        methods: Which methods; all that both have by default.

    Raises:
        ConfigurationError: They have no method in common, and more than one each.
    """
    common = list(methods) or [method for method in first.methods if method in second.methods]
    if not common and len(first.methods) == len(second.methods) == 1:
        return [first.compare(first.methods[0], second, second.methods[0])]
    if not common:
        raise ConfigurationError(
            f"no method is in both: {first.name} has {', '.join(first.methods)}, {second.name} has "
            f"{', '.join(second.methods)}; write FILE@METHOD to name one of each"
        )
    return [first.compare(method, second, method) for method in common]


def _rows(report: Report) -> list[dict[str, Any]]:
    rows = []
    for method, outcomes in report.outcomes.items():
        for number, outcome in sorted(outcomes.items()):
            question, reference = report.problems[number % report.n]
            rows.append(
                {name: getattr(outcome, name) for name in COLUMNS if hasattr(outcome, name)}
                | {
                    "task": report.task,
                    "method": method,
                    "problem": number % report.n,
                    "seed": report.seed + number // report.n,
                    "question": question,
                    "reference": reference,
                    "degraded": sum(outcome.degradations.values()),
                    "error": outcome.messages.get("error"),
                }
            )
    return rows


def _figures(row: dict[str, Any]) -> tuple[bool, float | None, float | None]:
    return bool(row["correct"]), row["flops"], row["flops_paper"]
