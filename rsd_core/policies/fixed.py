"""Policies without a verifier: one model writes all steps, or the drafter's own uncertainty decides who does."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from rsd_core.policies.base import RequestView, WeightingPolicy


class Unscored(WeightingPolicy):
    """Base of policies without a verifier: every draft is kept."""

    needs_reward: ClassVar[bool] = False

    def weight(self, reward: float) -> float:  # noqa: ARG002 - nothing is scored
        return 1.0


class AlwaysDraft(Unscored):
    """The drafter writes every step: with another policy for thoughts, the target thinks and the drafter answers."""

    kind: Literal["always_draft"] = "always_draft"


class AlwaysTarget(Unscored):
    """The target writes every step: with another policy for thoughts, the drafter thinks and the target answers."""

    kind: Literal["always_target"] = "always_target"

    def route(self, request: RequestView) -> Literal["draft", "target"]:  # noqa: ARG002
        return "target"


class FirstToken(Unscored):
    """The target writes the steps that the drafter does not know how to begin (GlimpRouter, arXiv 2601.05110).

    Before a step is drafted, the drafter reports the entropy of its first token; above the threshold the target writes.
    """

    kind: Literal["first_token"] = "first_token"
    threshold: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """In nats. It holds for one drafter and task."""
    needs_entropy: ClassVar[bool] = True

    def route(self, request: RequestView) -> Literal["draft", "target"]:
        return "draft" if request.entropy is not None and request.entropy <= self.threshold else "target"
