"""What computing more is worth, and what it costs: the value of computation, one action ahead."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from rsd_core.policies.base import RequestView
from rsd_core.policies.online_quantile import Learned
from rsd_core.policies.regression import Regression

Unit = Literal["flops", "seconds", "money"]
Action = Literal["accept", "target", "another", "verify"]


def improvement(mean: float, deviation: float, best: float) -> float:
    """E[max(X, best)] − best: what one more draw is expected to bring where the better one is kept.

    Args:
        mean: Of X, a normal variable.
        deviation: Of X, at least 0.
        best: What there is already.
    """
    if deviation <= 0:
        return max(0.0, mean - best)
    z = (mean - best) / deviation
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return max(0.0, (mean - best) * (1 + math.erf(z / math.sqrt(2))) / 2 + deviation * density)


def spent(request: RequestView, unit: Unit) -> float:
    """What a request cost so far, all roles together: in TFLOPs, in seconds of models at work, or in money."""
    ledger = request.ledger
    if unit == "seconds":
        return ledger.drafter.seconds + ledger.verifier.seconds + ledger.target.seconds
    if unit == "money":
        return ledger.sum_of("cost") or 0.0
    return (ledger.sum_of("flops") or 0.0) / 1e12


@dataclass(frozen=True, slots=True)
class Note:
    """An action whose outcome is awaited."""

    index: int
    action: Action
    reward: float
    features: tuple[float, ...]
    spent: float


class Outcomes(Learned):
    """What came of the actions of all requests that share a policy, and what each of them cost.

    Args:
        prior: The reward that is expected of a draft before any was seen.
        fading: Of old observations, see `Regression`.
    """

    def __init__(self, prior: float, fading: float) -> None:
        super().__init__(prior, fading)
        self._prior = prior
        self.another = Regression(prior, fading)
        """From a draft's reward to that of another one for the same step."""
        self.verdict = Regression(0.0, fading, low=-1.0)
        """By how much the dearer verifier's reward differs."""
        self._answer = Regression(0.0, fading, size=3, low=-1.0)
        self._costs: dict[str, float] = {}

    def cost(self, action: str) -> float:
        """What an action costs, everything that it brings about included; 0 before it was tried."""
        return self._costs.get(action, 0.0)

    def paid(self, action: str, amount: float) -> None:
        """Take in what an action cost; the latest twenty or so count most."""
        with self.lock:
            last = self._costs.get(action, amount)
            self._costs[action] = last + (amount - last) / 20

    def answer(self, last: float, steps: int) -> float:
        """The reward that the beginning of the answer is expected to have after so many steps of thought.

        Before anything was seen, an answer without thought is taken to be worth nothing, and each further step of
        thought less than the one before: prior · n / (n + 1) after n steps.
        """
        return self._prior * steps / (steps + 1) + self._answer.predict((1.0, last, 1 / (1 + steps)))

    def answered(self, last: float, steps: int, reward: float) -> None:
        """Take in the reward of the beginning of an answer."""
        self._answer.add((1.0, last, 1 / (1 + steps)), reward - self._prior * steps / (steps + 1))
