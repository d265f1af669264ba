"""Roles that never worked: a run that recovers from each fault looks as if nothing were wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rsd_core import Result

Helper = Literal["drafter", "verifier"]
"""Roles whose faults a request survives; a failing target ends it."""


def scored(result: Result) -> int:
    """How often the verifier returned a reward: counted in steps, or in calls if a search keeps its rewards private."""
    rewards = sum(step.reward is not None or step.target_reward is not None for step in result.steps)
    failed = sum(item.kind == "verifier_error" for item in result.degradations)
    return max(rewards, result.ledger.verifier.calls - failed)


def never_worked(role: Helper, failed: int, last: str) -> str:
    """The message about a role that failed at every call."""
    return f"the {role} failed at every one of its {failed} calls, the last time with {last!r}"


def abstentions(result: Result) -> int:
    """How often the verifier abstained; 0 if it also gave a reward."""
    rewarded = any(step.reward is not None or step.target_reward is not None for step in result.steps)
    abstained = result.ledger.verifier.abstained
    return 0 if rewarded or abstained < scored(result) else abstained


def always_abstained(steps: int) -> str:
    """The message about a verifier that gave no reward at all."""
    return f"the verifier abstained on every step that it was given ({steps}), so rewards decided nothing"


@dataclass(slots=True)
class RoleFaults:
    """Counts of successes and failures over the results of one setup."""

    worked: dict[Helper, int] = field(default_factory=lambda: {"drafter": 0, "verifier": 0})
    """Steps drafted or scored by each role."""
    failed: dict[Helper, int] = field(default_factory=lambda: {"drafter": 0, "verifier": 0})
    last: dict[Helper, str] = field(default_factory=dict)
    """The last error of each role that failed."""
    rewarded: bool = False
    """Whether the verifier gave a reward."""
    abstained: int = 0
    """Steps of results without any reward, on which it abstained."""

    def add(self, result: Result) -> None:
        """Count a result, complete or not."""
        for step in result.steps:
            self.worked["drafter"] += step.accepted or step.discarded_draft is not None
        self.worked["verifier"] += scored(result)
        self.abstained += abstentions(result)
        self.rewarded |= scored(result) > 0 and not abstentions(result)
        for item in result.degradations:
            for role in self.failed:
                if item.kind == f"{role}_error":
                    self.failed[role] += 1
                    self.last[role] = item.message

    @property
    def never_worked(self) -> list[str]:
        """The messages about roles that failed at every call."""
        return [
            never_worked(role, failed, self.last[role])
            for role, failed in self.failed.items()
            if failed and not self.worked[role]
        ]

    @property
    def abstentions(self) -> list[str]:
        """The message about a verifier that gave no reward at all; empty if it did."""
        return [always_abstained(self.abstained)] if self.abstained and not self.rewarded else []
