"""The weighting functions of the paper's Table 1."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from rsd_core.policies.base import Probability, WeightingPolicy


class Constant(WeightingPolicy):
    """ω(r) = p, blind to the reward: the control. 0 is the target alone, 1 the drafter alone."""

    kind: Literal["constant"] = "constant"
    p: Probability = 0.5

    def weight(self, reward: float) -> float:  # noqa: ARG002 - blind by definition
        return self.p


class BinaryStep(WeightingPolicy):
    """ω(r) = 1 if r ≥ δ else 0: the paper's default, with δ = 0.7, and optimal under a budget (Proposition 2.3).

    A good δ holds for one reward model and task; do not reuse it for another. `rsd calibrate` finds one.
    """

    kind: Literal["binary_step"] = "binary_step"
    delta: Probability = 0.7

    def weight(self, reward: float) -> float:
        return float(reward >= self.delta)


class Clipping(WeightingPolicy):
    """ω(r) = min(1, max(0, r)): the reward is the probability."""

    kind: Literal["clipping"] = "clipping"

    def weight(self, reward: float) -> float:
        return min(1.0, max(0.0, reward))


class Sigmoid(WeightingPolicy):
    """ω(r) = max(0, r / (1 + r)), the paper's "sigmoidal": at most 1/2: the target gets half of all steps or more."""

    kind: Literal["sigmoid"] = "sigmoid"

    def weight(self, reward: float) -> float:
        return max(0.0, reward / (1.0 + reward))


class Logistic(WeightingPolicy):
    """ω(r) = 1 / (1 + exp(−α (r − δ))): a soft threshold. The paper's α was not to be found; 20 is ours."""

    kind: Literal["logistic"] = "logistic"
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 20.0
    """Steepness; the larger, the closer to the binary step."""
    delta: Probability = 0.7

    def weight(self, reward: float) -> float:
        x = self.alpha * (reward - self.delta)
        return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))
