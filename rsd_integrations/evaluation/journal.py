"""The journal of an evaluation: each graded answer, by method and problem."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rsd_core import RSDConfig
from rsd_integrations.batch import Journal
from rsd_integrations.batch.journal import damaged
from rsd_integrations.evaluation.outcome import Outcome
from rsd_integrations.evaluation.tasks import Item


class EvaluationJournal(Journal):
    """The outcomes of an evaluation in a file, see `Journal`.

    Args:
        file: The journal.
        config: Models, default policy and settings.
        items: The problems.
        seed: Of the decoders.
    """

    def __init__(self, file: Path, config: RSDConfig, items: Sequence[Item], seed: int) -> None:
        digest = hashlib.sha256(repr([item.prompt for item in items]).encode()).hexdigest()
        about = {"config": config.model_dump(mode="json"), "seed": seed, "n": len(items), "problems": digest}
        super().__init__(file, {"journal": 1, **about})
        self._items = items
        self._attempts: dict[str, int] = {}
        """How often a method has begun, for those that start over."""

    def outcomes(self, method: str, answers: int, *, in_order: bool) -> dict[int, Outcome]:
        """The outcomes of a method by answer number; those of additional seeds come after all problems.

        Answers that were graded by another grader or against another correct answer are graded again.

        Args:
            method: The method's name.
            answers: The number wanted; additional ones, of more seeds, are ignored.
            in_order: Whether it learns from one problem for the next: if incomplete, it starts over, and rows of its
                earlier attempts no longer count.
        """
        rows = [row for row in self.rows if row.get("method") == method]
        outcomes = [(row.get("attempt", 1), self._outcome(row)) for row in rows]
        attempt = max([number for number, _ in outcomes], default=0)
        latest = dict(outcome for number, outcome in outcomes if number == attempt and outcome[0] < answers)
        if in_order and len(latest) < answers:
            self._attempts[method] = attempt + 1
            return {}
        return latest

    def _outcome(self, row: dict[str, Any]) -> tuple[int, Outcome]:
        try:
            problem, outcome = int(row["problem"]), Outcome(**row["outcome"])
            item = self._items[problem % len(self._items)]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise damaged(self._file, row) from error
        if row.get("reference") == item.reference and outcome.grader == item.grader and not outcome.ungraded:
            return problem, outcome
        verdict = item.verdict(outcome.text)
        reason = "" if verdict.error is None else str(verdict.error)
        return problem, replace(outcome, correct=verdict.right, grader=item.grader, ungraded=reason)

    def add_outcome(self, method: str, number: int, outcome: Outcome) -> None:
        """Append an outcome."""
        attempt = self._attempts.get(method, 1)
        later = {"attempt": attempt} if attempt > 1 else {}
        reference = {"reference": self._items[number % len(self._items)].reference}
        self.add({"method": method, "problem": number, **later, **reference, "outcome": asdict(outcome)})
