"""Rules in front of a policy: routing before anything is drafted, and retries before the target."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from rsd_core.limits import Limits
from rsd_core.paths import Step
from rsd_core.policies.base import Decision, RequestView, Route, WeightingPolicy
from rsd_core.policies.parsing import Policy
from rsd_core.policies.weights import BinaryStep


class Rule(WeightingPolicy):
    """Base of rules: whatever a rule does not decide itself is left to the policy behind it."""

    then: Policy = BinaryStep()
    """The policy behind the rule; as text, it follows after a slash: `first_steps:2/budget_aware:0.1`."""

    @property
    def needs_reward(self) -> bool:  # type: ignore[override]
        return self.then.needs_reward

    @property
    def needs_entropy(self) -> bool:  # type: ignore[override]
        return self.then.needs_entropy

    def weight(self, reward: float) -> float:
        return self.then.weight(reward)

    def route(self, request: RequestView) -> Route:
        return self.then.route(request)

    def decide(self, step: Step, reward: float, request: RequestView) -> Decision:
        return self.then.decide(step, reward, request)

    def on_target_forced(self) -> None:
        self.then.on_target_forced()

    def learn(self, reward: float | None, request: RequestView) -> None:
        self.then.learn(reward, request)

    @property
    def learns(self) -> bool:
        return self.then.learns

    @property
    def scores_target(self) -> bool:
        return self.then.scores_target

    @property
    def verifies(self) -> bool:
        return self.then.verifies

    @property
    def needs_known(self) -> Literal["flops_per_token", "price"] | None:
        return self.then.needs_known

    @property
    def limits(self) -> Limits | None:
        return self.then.limits


class FirstSteps(Rule):
    """The target writes the first n steps, in which an answer is planned (as in SpecReason, arXiv 2504.07891)."""

    kind: Literal["first_steps"] = "first_steps"
    n: Annotated[int, Field(ge=0)] = 1

    def route(self, request: RequestView) -> Route:
        return "target" if request.index < self.n else super().route(request)


def _cues(value: Any) -> Any:
    return value.split("|") if isinstance(value, str) else value


class Takeover(Rule):
    """The target takes over for some steps when the drafter has doubts (as in Speculative Thinking, arXiv 2504.12329).

    A draft that contains a cue goes to the target whatever its reward, and so do the next `steps` - 1 steps. Drafts
    without a reward, on which the verifier failed or abstained, are not searched.
    """

    kind: Literal["takeover"] = "takeover"
    cues: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_cues)] = (
        *("wait", "hmm", "alternatively", "let me check"),
    )
    """Phrases that reveal doubt, case-insensitive, also inside longer words; as text, separated by `|`."""
    steps: Annotated[int, Field(ge=1)] = 1
    """Steps that the target writes in a row."""

    @model_validator(mode="after")
    def _reads_drafts(self) -> Self:
        if not self.then.needs_reward:
            raise ValueError(f"takeover searches scored drafts, and {self.then!r} has none: give one that uses rewards")
        return self

    def route(self, request: RequestView) -> Route:
        # The step with the cue was the target's first; n - 1 more follow.
        latest = request.records[-(self.steps - 1) :] if self.steps > 1 else ()
        in_doubt = any(self._doubts(record.discarded_draft or "") for record in latest)
        return "target" if in_doubt else super().route(request)

    def decide(self, step: Step, reward: float, request: RequestView) -> Decision:
        if self._doubts(step.text):
            self.then.on_target_forced()
            return "target"
        return super().decide(step, reward, request)

    def _doubts(self, text: str) -> bool:
        return any(cue.lower() in text.lower() for cue in self.cues)


class Retry(Rule):
    """Draft again before calling the target, at most n times per step.

    Retried drafts are sampled, at `Settings.retry_temperature` or above. Budgets behind this rule count only the last
    draft's outcome.
    """

    kind: Literal["retry"] = "retry"
    n: Annotated[int, Field(ge=1)] = 1

    def decide(self, step: Step, reward: float, request: RequestView) -> Decision:
        if request.attempt < self.n and request.coin >= self.then.weight(reward):
            return "retry"
        return super().decide(step, reward, request)
