"""The value of computation, one action ahead: what more computation gains, and what it costs."""

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
    """E[max(X, best)] − best: the expected gain of one more draw if the better one is kept.

    Args:
        mean: Mean of X, a normal variable.
        deviation: Standard deviation of X, at least 0.
        best: The value already in hand.
    """
    if deviation <= 0:
        return max(0.0, mean - best)
    z = (mean - best) / deviation
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return max(0.0, (mean - best) * (1 + math.erf(z / math.sqrt(2))) / 2 + deviation * density)


def spent(request: RequestView, unit: Unit) -> float:
    """The cost of a request so far, all roles together: in TFLOPs, in seconds of model time, or in money."""
    ledger = request.ledger
    if unit == "seconds":
        return ledger.drafter.seconds + ledger.verifier.seconds + ledger.target.seconds
    if unit == "money":
        return ledger.sum_of("cost") or 0.0
    return (ledger.sum_of("flops") or 0.0) / 1e12


@dataclass(frozen=True, slots=True)
class Note:
    """An action with a pending outcome."""

    index: int
    action: Action
    reward: float
    features: tuple[float, ...]
    spent: float


class Outcomes(Learned):
    """Outcomes and costs of the actions of all requests that share a policy.

    Args:
        prior: The expected reward of a draft before any observation.
        fading: Weight of old observations (see `Regression`).
    """

    def __init__(self, prior: float, fading: float) -> None:
        super().__init__(prior, fading)
        self._prior = prior
        self.another = Regression(prior, fading)
        """Predicts another draft's reward from a draft's reward for the same step."""
        self.verdict = Regression(0.0, fading, low=-1.0)
        """Predicts by how much the stronger verifier's reward differs."""
        self._answer = Regression(0.0, fading, size=3, low=-1.0)
        self._costs: dict[str, float] = {}

    def cost(self, action: str) -> float:
        """The cost of an action, including everything it causes; 0 before it was tried."""
        return self._costs.get(action, 0.0)

    def paid(self, action: str, amount: float) -> None:
        """Add the cost of an action; the latest twenty or so count most."""
        with self.lock:
            last = self._costs.get(action, amount)
            self._costs[action] = last + (amount - last) / 20

    def answer(self, last: float, steps: int) -> float:
        """Expected reward of the beginning of the answer after this many steps of thought.

        Before any observation, an answer without thought is taken to be worth nothing, and each further step of thought
        adds less than the one before: prior · n / (n + 1) after n steps.
        """
        return self._prior * steps / (steps + 1) + self._answer.predict((1.0, last, 1 / (1 + steps)))

    def answered(self, last: float, steps: int, reward: float) -> None:
        """Add the reward of the beginning of an answer."""
        self._answer.add((1.0, last, 1 / (1 + steps)), reward - self._prior * steps / (steps + 1))
