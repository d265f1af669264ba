"""Intervals and tests for methods that answered the same problems."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Interval = tuple[float, float]
RESAMPLES = 10_000
MCNEMAR, SIGN_FLIPS = "McNemar's exact test", "sign-flip test over problems"
"""The test for equal accuracy with one answer per problem, and with several."""
Z = NormalDist().inv_cdf(0.975)
"""Standard deviations that an interval of 95 % reaches to either side."""


def wilson(right: int, n: int) -> Interval:
    """The 95 % Wilson score interval of a proportion; (0, 1) if nothing was counted.

    Raises:
        ValueError: `right` is not from 0 to `n`.
    """
    if not 0 <= right <= n:
        raise ValueError(f"{right} right answers of {n}: the first must not be negative, nor greater than the second")
    if n == 0:
        return 0.0, 1.0
    share = right / n
    middle = share + Z * Z / (2 * n)
    reach = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    scale = 1 + Z * Z / n
    # At the ends, rounding would leave 1e-17 in place of 0.
    return (0.0 if right == 0 else (middle - reach) / scale), (1.0 if right == n else (middle + reach) / scale)


def bootstrap(columns: npt.ArrayLike, resamples: int = RESAMPLES, seed: int = 0) -> npt.NDArray[np.float64]:
    """Sums of columns over problems drawn with replacement, whole rows at a time, so that pairs stay paired.

    Args:
        columns: One row per problem.
        resamples: Number of draws.
        seed: Equal seeds draw equal problems.

    Returns:
        One row per resample, one column per column.
    """
    values = np.asarray(columns, dtype=np.float64)
    rng, n = np.random.default_rng(seed), len(values)
    sums = np.empty((resamples, values.shape[1]))
    for first in range(0, resamples, 500):
        drawn = rng.integers(0, n, (min(500, resamples - first), n))
        sums[first : first + len(drawn)] = values[drawn].sum(axis=1)
    return sums


def interval(samples: npt.NDArray[np.float64]) -> Interval:
    """The middle 95 % of resampled values."""
    low, high = np.quantile(samples, (0.025, 0.975))
    return float(low), float(high)


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact McNemar test, two-sided: the probability of such an uneven split of disagreements between equals."""
    both = only_first + only_second
    tail = sum(math.comb(both, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / (1 << both))  # whole numbers, which divide exactly however large they are


def sign_flips(gaps: Sequence[float], resamples: int = RESAMPLES, seed: int = 0) -> float:
    """Randomisation test of paired differences, two-sided: the probability of such a large mean if signs are random."""
    values = np.asarray(gaps, dtype=np.float64)
    rng, at_least = np.random.default_rng(seed), 0
    for first in range(0, resamples, 500):
        signs = rng.choice((-1.0, 1.0), (min(500, resamples - first), len(values)))
        at_least += int((np.abs(signs @ values) >= abs(values.sum()) - 1e-9).sum())
    return (at_least + 1) / (resamples + 1)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One method against another over the same problems, with 95 % intervals by paired bootstrap."""

    n: int
    """Problems."""
    difference: float
    """Accuracy of the method minus that of the other."""
    ci95: Interval
    p_value: float
    """For equal accuracy, by McNemar's exact test; with several answers per problem, by a sign-flip test."""
    only_first: int
    """Problems that only the method solved; with several answers per problem, that it solved more often."""
    only_second: int
    """The same for the other method."""
    fewer_flops: float | None
    """The other's FLOPs divided by the method's, everything charged."""
    fewer_flops_ci95: Interval | None
    fewer_flops_paper: float | None
    """The same, by the paper's convention."""
    fewer_flops_paper_ci95: Interval | None


Figures = tuple[bool, float | None, float | None]
"""Right or wrong, FLOPs, and FLOPs by the paper's convention."""


def compare(
    first: Sequence[Figures], second: Sequence[Figures], problems: Sequence[object] | None = None
) -> Comparison:
    """Compare two methods, answer by answer.

    Args:
        first: The answers of the method.
        second: Those of the other method, to the same problems in the same order.
        problems: The problem of each answer, if there are several per problem: problems are what is resampled.
    """
    gaps: defaultdict[object, list[int]] = defaultdict(list)
    sums = defaultdict[object, list[float]](lambda: [0.0] * 4)
    known = [True] * 4
    for problem, a, b in zip(problems or range(len(first)), first, second, strict=True):
        gaps[problem].append(a[0] - b[0])
        for i, cost in enumerate((*a[1:], *b[1:])):
            known[i] = known[i] and cost is not None
            sums[problem][i] += cost or 0.0
    means = {problem: sum(own) / len(own) for problem, own in gaps.items()}
    n, columns = len(means), [[mean, *sums[problem]] for problem, mean in means.items()]
    resampled = bootstrap(columns)
    total = np.asarray(columns, dtype=np.float64).sum(axis=0)

    def ratio(i: int) -> tuple[float | None, Interval | None]:
        if not (known[i] and known[i + 2] and total[1 + i] > 0):
            return None, None
        spread = resampled[:, 3 + i] / np.maximum(resampled[:, 1 + i], 1e-12)
        return float(total[3 + i] / total[1 + i]), interval(spread)

    won, lost = sum(mean > 0 for mean in means.values()), sum(mean < 0 for mean in means.values())
    p_value = mcnemar(won, lost) if n == len(first) else sign_flips(list(means.values()))
    difference = sum(means.values()) / n
    return Comparison(n, difference, interval(resampled[:, 0] / n), p_value, won, lost, *ratio(0), *ratio(1))
