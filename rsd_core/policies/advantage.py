"""Accept what the target would not do better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr

from rsd_core.paths import Step
from rsd_core.policies.base import Decision, Probability, RequestView, WeightingPolicy
from rsd_core.policies.online_quantile import Budget, Learned
from rsd_core.results import StepRecord


class AdvantageAware(WeightingPolicy):
    """Accept a draft whose reward is at least what the target is expected to reach here.

    E_RSD[r] = R_M + E_m[ω (r − R_M)], with R_M the expected reward of the target's step: without a budget ω should be
    1 exactly where r ≥ R_M. A low reward alone is no reason to call a target that would do no better. Under a budget
    of γ target calls per step, the calls go where the advantage R_M − r is largest.

    R_M is learned online: the verifier scores the target's own steps, and ridge regression predicts that score from
    the drafted step's reward, that of the step before, which tells whether the answer is already spoiled, and the
    position. What was learned is shared by all requests of the policy object.
    """

    kind: Literal["advantage_aware"] = "advantage_aware"
    target_rate: Probability | None = None
    """γ: the most that may go to the target, as a share of steps; None is no budget."""
    prior: Probability = 0.7
    """What the target is taken to reach before it was seen."""
    explore: Probability = 0.02
    """Share of good drafts rejected all the same: only so is learned what the target would have reached there."""
    memory: Annotated[int, Field(ge=2)] = 1000
    """How many of the target's latest steps count in the estimate, and rewards in the budget's quantile."""
    horizon: Annotated[int, Field(ge=1)] = 100
    """Steps over which a deviation from the budget is made good."""

    _expected: Regression = PrivateAttr()
    _budget: Budget = PrivateAttr()

    def model_post_init(self, context: Any) -> None:  # noqa: ARG002
        """Begin with the prior."""
        self._expected = Regression(self.prior, 1 - 1 / self.memory)
        self._budget = Budget(1.0 if self.target_rate is None else self.target_rate, self.horizon, self.memory)

    def expected(self, reward: float, before: Sequence[StepRecord] = ()) -> float:
        """R_M: the reward that the target is expected to reach after some steps, where a draft has the given reward."""
        return self._expected.predict(_features(reward, before))

    def weight(self, reward: float) -> float:
        """ω at the first step of an answer."""
        advantage = self.expected(reward) - reward
        if advantage <= 0:
            return 1 - self._exploration
        return 0.0 if self.target_rate is None else self._budget.weight(-advantage)

    def decide(self, step: Step, reward: float, request: RequestView) -> Decision:  # noqa: ARG002
        advantage = self.expected(reward, request.records) - reward
        if advantage <= 0 and request.coin < self._exploration:
            self._budget.force()
            return "target"
        if self.target_rate is None:
            return "accept" if advantage <= 0 else "target"
        return "accept" if self._budget.decide(-advantage, request.coin, surely=advantage <= 0) else "target"

    @property
    def _exploration(self) -> float:
        return self.explore if self.target_rate is None else min(self.explore, self.target_rate)

    def on_target_forced(self) -> None:
        self._budget.force()

    @property
    def learns(self) -> bool:
        return True

    @property
    def scores_target(self) -> bool:
        return True

    def learn(self, reward: float | None, request: RequestView) -> None:
        *before, last = request.records
        if reward is not None and last.reward is not None:
            self._expected.add(_features(last.reward, before), reward)


def _features(reward: float, before: Sequence[StepRecord]) -> tuple[float, ...]:
    last = before[-1].own_reward if before else None
    return (1.0, reward, 1.0 if last is None else last, 1 / (1 + len(before)))


class Regression(Learned):
    """Ridge regression of a few features, in which old observations fade."""

    def __init__(self, prior: float, fading: float, size: int = 4) -> None:
        super().__init__(prior, fading, size)
        self._prior, self._fading, self._size = prior, fading, size
        self._moments = [[0.0] * (size + 1) for _ in range(size)]
        """Sums of x xᵀ, with the sums of x y as the last column."""
        self._slopes = [0.0] * size

    def add(self, features: tuple[float, ...], value: float) -> None:
        """Take an observation in."""
        with self.lock:
            row = (*features, value - self._prior)
            self._moments = [
                [self._fading * sum_ + a * b for sum_, b in zip(sums, row, strict=True)]
                for sums, a in zip(self._moments, features, strict=True)
            ]
            self._slopes = self._solve()

    def predict(self, features: tuple[float, ...]) -> float:
        """The expected value, in [0, 1]."""
        value = self._prior + sum(slope * x for slope, x in zip(self._slopes, features, strict=True))
        return min(1.0, max(0.0, value))

    def _solve(self) -> list[float]:
        """Solve the normal equations by elimination; the ridge keeps every pivot away from 0.

        The prior counts as one observation; slopes are held back less, since rewards vary little.
        """
        rows = [
            [sum_ + (i == j) * (0.1 if i else 1.0) for j, sum_ in enumerate(row)] for i, row in enumerate(self._moments)
        ]
        for i, pivot in enumerate(rows):
            for j, row in enumerate(rows):
                if i != j:
                    factor = row[i] / pivot[i]
                    rows[j] = [a - factor * b for a, b in zip(row, pivot, strict=True)]
        return [row[-1] / row[i] for i, row in enumerate(rows)]
