"""Roles that never worked: a run that got over each of their faults looks as if nothing had been wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rsd_core import Result

Helper = Literal["drafter", "verifier"]
"""The roles whose faults are got over; a target that fails ends its request."""


def scored(result: Result) -> int:
    """How often the verifier gave a reward: by the steps, or where a search keeps rewards to itself, by its calls."""
    rewards = sum(step.reward is not None or step.target_reward is not None for step in result.steps)
    failed = sum(item.kind == "verifier_error" for item in result.degradations)
    return max(rewards, result.ledger.verifier.calls - failed)


def never_worked(role: Helper, failed: int, last: str) -> str:
    """What to tell of a role that failed whenever it was called."""
    return f"the {role} failed at every one of its {failed} calls, the last time with {last!r}"


@dataclass(slots=True)
class RoleFaults:
    """Counts of what helped and what failed, over the results of one set-up."""

    worked: dict[Helper, int] = field(default_factory=lambda: {"drafter": 0, "verifier": 0})
    """Steps that a role drafted or scored."""
    failed: dict[Helper, int] = field(default_factory=lambda: {"drafter": 0, "verifier": 0})
    last: dict[Helper, str] = field(default_factory=dict)
    """The last error of each role that failed."""

    def add(self, result: Result) -> None:
        """Count a result, complete or not."""
        for step in result.steps:
            self.worked["drafter"] += step.accepted or step.discarded_draft is not None
        self.worked["verifier"] += scored(result)
        for item in result.degradations:
            for role in self.failed:
                if item.kind == f"{role}_error":
                    self.failed[role] += 1
                    self.last[role] = item.message

    @property
    def never_worked(self) -> list[str]:
        """What to tell about each role that failed at every one of its calls; empty where there is none."""
        return [
            never_worked(role, failed, self.last[role])
            for role, failed in self.failed.items()
            if failed and not self.worked[role]
        ]
