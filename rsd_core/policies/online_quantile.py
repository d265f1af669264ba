"""An online quantile of recent rewards, and a budget that tracks the deviation of its spending."""

from __future__ import annotations

import bisect
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any, Self


class Learned:
    """A policy's learned state.

    Not part of the policy's data: policies are equal whatever they learned, and a deep copy or a pickle starts fresh.
    """

    def __init__(self, *start: Any) -> None:
        self._start = start
        self.lock = threading.RLock()

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self)

    __hash__ = None  # type: ignore[assignment]

    def __deepcopy__(self, memo: object) -> Self:
        return type(self)(*self._start)

    def __reduce__(self) -> tuple[type[Self], tuple[Any, ...]]:
        return type(self), self._start


class Recent:
    """The latest values, in order of arrival and of size."""

    def __init__(self, memory: int, start: Sequence[float] = ()) -> None:
        self._order = deque(start[-memory:])
        self._sorted = sorted(self._order)
        self._memory = memory

    def add(self, value: float) -> None:
        """Add a value; the oldest one is forgotten when the memory is full."""
        if len(self._order) == self._memory:
            del self._sorted[bisect.bisect_left(self._sorted, self._order.popleft())]
        self._order.append(value)
        bisect.insort(self._sorted, value)

    def weight(self, value: float, rate: float) -> float:
        """Probability of accepting a value such that a share `rate` of all values, the lowest, is rejected.

        A step function at the `rate`-quantile of the values seen, this one included. The atom at the quantile is
        accepted with partial probability, so that the share is met for discrete values too.
        """
        n = len(self._sorted) + 1
        below = bisect.bisect_left(self._sorted, value) / n
        upto = (bisect.bisect_right(self._sorted, value) + 1) / n
        return min(1.0, max(0.0, (upto - rate) / (upto - below)))


class Budget(Learned):
    """Rejects a share of the values it is shown, the lowest, and keeps to that share whatever comes.

    The debt is what may still be spent: γ for each step, less 1 for each rejected one. The quantile is taken at
    γ + debt / horizon. At or above 1 everything is rejected, at or below 0 everything is accepted, so for *every*
    sequence of values, in any order, −(horizon γ + 1) ≤ γ n − rejected ≤ horizon (1 − γ) + 1 after n of them, if none
    is accepted surely or rejected elsewhere.
    """

    def __init__(self, rate: float, horizon: int, memory: int, start: Sequence[float] = ()) -> None:
        super().__init__(rate, horizon, memory, start)
        self._rate, self._horizon = rate, horizon
        self._recent = Recent(memory, start)
        self._debt = 0.0

    def weight(self, value: float) -> float:
        """Probability of accepting the value as things stand."""
        with self.lock:
            return self._recent.weight(value, self._rate + self._debt / self._horizon)

    def decide(self, value: float, coin: float, surely: bool = False) -> bool:
        """Whether a value is accepted, `surely` or by the coin."""
        with self.lock:
            accepted = surely or coin < self.weight(value)
            self._recent.add(value)
            self._settle(accepted)
        return accepted

    def force(self) -> None:
        """Count a rejection decided elsewhere."""
        with self.lock:
            self._settle(accepted=False)

    def _settle(self, accepted: bool) -> None:
        # Long-unspent budget is not hoarded.
        self._debt = min(self._debt + self._rate - (not accepted), float(self._horizon))
