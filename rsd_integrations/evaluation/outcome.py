"""One method's answer to one problem, as data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import get_args

from rsd_core import Result
from rsd_core.ledger import Role
from rsd_integrations.result_rows import result_row
from rsd_integrations.role_faults import Helper, abstentions, scored

ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One method's answer to one problem."""

    answer: str | None
    correct: bool | None
    """None if unknown: the problem has no reference answer, or grading failed."""
    finish_reason: str
    steps: int
    by_target: int
    drafted: int
    """Steps that were drafted, accepted or not."""
    accepted: int
    flops: float | None
    flops_paper: float | None
    cost: float | None
    seconds: float
    text: str
    degradations: Mapping[str, int] = field(default_factory=dict)
    """How often something went wrong that the request recovered from, by `DegradationKind`."""
    messages: Mapping[str, str] = field(default_factory=dict)
    """The last message of each of these kinds; under `error`, why the answer failed."""
    scored: int = 0
    """How often the verifier answered."""
    abstained: int = 0
    """How often it abstained, if it gave no reward."""
    grader: str = ""
    """The grader's name; empty if the task judges by itself, or the correct answer is unknown."""
    ungraded: str = ""
    """Why it could not be graded although the correct answer is known: a grader took too long, or failed."""
    thought: str = ""
    rewards: list[float | None] = field(default_factory=list)
    """The reward of each step's draft; this and the following fields are as in `result_row`."""
    authors: list[str] = field(default_factory=list)
    tokens: int = 0
    drafter_tokens: int = 0
    verifier_tokens: int = 0
    target_tokens: int = 0
    dtypes: Mapping[str, str] = field(default_factory=dict)
    """The dtype of each role's weights, where known; see `Account.dtype`."""

    @classmethod
    def of(
        cls,
        result: Result,
        correct: bool | None,
        error: Exception | None = None,
        *,
        grader: str = "",
        ungraded: object = None,
    ) -> Outcome:
        """The outcome of a result and its grading; for a failed request, with its error."""
        steps = result.steps
        dtypes = {role: result.ledger.account(role).dtype for role in ROLES}
        return cls(
            **result_row(result),
            correct=correct,
            steps=len(steps),
            by_target=sum(step.author == "target" for step in steps),
            drafted=sum(step.accepted or step.discarded_draft is not None for step in steps),
            accepted=sum(step.accepted for step in steps),
            degradations=dict(Counter(degradation.kind for degradation in result.degradations)),
            messages={degradation.kind: degradation.message for degradation in result.degradations}
            | ({"error": str(error)} if error is not None else {}),
            scored=scored(result),
            abstained=abstentions(result),
            grader=grader,
            ungraded="" if ungraded is None else str(ungraded),
            dtypes={role: dtype for role, dtype in dtypes.items() if dtype is not None},
        )

    @property
    def computed(self) -> int:
        """Tokens that all models computed."""
        return self.drafter_tokens + self.verifier_tokens + self.target_tokens

    @property
    def failed(self) -> bool:
        """Whether this does not count as the method's answer: it failed, or a role failed at every one of its calls."""
        return self.finish_reason == "error" or bool(idle(self.drafted, self.scored, self.degradations))


def idle(drafted: int, scored: int, faults: Container[str]) -> list[Helper]:
    """The roles that failed at every call."""
    counts: dict[Helper, int] = {"drafter": drafted, "verifier": scored}
    return [role for role, worked in counts.items() if not worked and f"{role}_error" in faults]
