"""Online ridge regression, and its typical error."""

from __future__ import annotations

import math

from rsd_core.policies.online_quantile import Learned


class Regression(Learned):
    """Ridge regression on a few features, in which old observations fade.

    Args:
        prior: Prediction before any observation.
        fading: Weight of all older observations when a new one comes, in (0, 1).
        size: Number of features; the first is always 1.
        low: The smallest prediction; the largest is 1.
    """

    _UNSURE = 0.25
    """Deviation assumed before any observation; it counts as one observation."""

    def __init__(self, prior: float, fading: float, size: int = 4, low: float = 0.0) -> None:
        super().__init__(prior, fading, size, low)
        self._prior, self._fading, self._size, self._low = prior, fading, size, low
        self._moments = [[0.0] * (size + 1) for _ in range(size)]
        """Sums of x xᵀ, with the sums of x y as the last column."""
        self._slopes = [0.0] * size
        self._errors = self._seen = 0.0

    def add(self, features: tuple[float, ...], value: float) -> None:
        """Add an observation."""
        with self.lock:
            self._errors = self._fading * self._errors + (value - self.predict(features)) ** 2
            self._seen = self._fading * self._seen + 1
            row = (*features, value - self._prior)
            self._moments = [
                [self._fading * sum_ + a * b for sum_, b in zip(sums, row, strict=True)]
                for sums, a in zip(self._moments, features, strict=True)
            ]
            self._slopes = self._solve()

    def predict(self, features: tuple[float, ...]) -> float:
        """The expected value."""
        value = self._prior + sum(slope * x for slope, x in zip(self._slopes, features, strict=True))
        return min(1.0, max(self._low, value))

    @property
    def deviation(self) -> float:
        """Root mean square error of the predictions."""
        return math.sqrt((self._errors + self._UNSURE**2) / (self._seen + 1))

    def _solve(self) -> list[float]:
        """Solve the normal equations by elimination; the ridge keeps every pivot away from 0.

        The prior counts as one observation; slopes are penalised less, since rewards vary little.
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
