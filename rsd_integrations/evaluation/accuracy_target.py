"""The cheapest threshold that holds an accuracy target (the idea of UCCI, arXiv 2605.18796).

The target is a share of the accuracy of the target model alone. Under a threshold an answer is the drafter's where its
weakest step reaches the threshold, and is taken to go as the target's where it does not.

What is expected supposes that a drafted answer is right no less often the higher its weakest reward is (isotonic
regression). What is kept at least does not: that regression is too hopeful at its upper end, where thresholds are. It
is the lower end of a Bayesian bootstrap over problems (Rubin 1981), in which each problem gets a random weight, drafter
and target staying a pair. One more drafted answer, which is wrong, stands for what was not seen, as in the exact
interval of a proportion: few problems prove little.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rsd_core import ConfigurationError

Array = npt.NDArray[np.float64]
RISK = 0.05
"""How often the lower bound may be above the truth."""


@dataclass(frozen=True, slots=True)
class Graded:
    """A problem whose answer is known."""

    weakest: float
    """The least reward of the drafter's steps; minus infinity where one is replaced whatever the threshold."""
    draft_right: bool
    target_right: bool


@dataclass(frozen=True, slots=True)
class Kept:
    """What a threshold keeps of the target's accuracy, as a share of it."""

    delta: float
    expected: float
    at_least: float
    """With a confidence of 95 %."""


def kept(problems: Sequence[Graded], deltas: Sequence[float], resamples: int = 2000, seed: int = 0) -> list[Kept]:
    """What each threshold keeps of the target's accuracy.

    Args:
        problems: Problems with known answers, drafter and target on the same ones.
        deltas: The thresholds.
        resamples: Draws of the bootstrap.
        seed: The same seed draws the same weights.

    Raises:
        ConfigurationError: There are no such problems, or the target solves none of them.
    """
    if not any(problem.target_right for problem in problems):
        raise ConfigurationError(
            f"the target solves none of {len(problems)} problems with known answers, so there is no accuracy to hold"
        )
    ranked = sorted(problems, key=lambda problem: problem.weakest)
    levels = [problem.weakest for problem in ranked]
    drafted = np.array([problem.draft_right for problem in ranked], dtype=np.float64)
    target = np.array([problem.target_right for problem in ranked], dtype=np.float64)
    first = np.searchsorted(levels, deltas)  # of the problems that reach a threshold

    def reaching(mass: Array) -> Array:
        """The sum of what reaches each threshold."""
        sums = np.cumsum(mass[..., ::-1], axis=-1)[..., ::-1]
        return np.concatenate((sums, np.zeros((*sums.shape[:-1], 1))), axis=-1)[..., first]

    weights = np.random.default_rng(seed).exponential(size=(resamples, len(ranked) + 1))
    unseen, weights = weights[:, :1], weights[:, 1:]
    own = reaching(weights * drafted)
    own *= (all_ := reaching(weights)) / (all_ + unseen)
    held = weights @ target
    bounds = np.quantile((own + held[:, None] - reaching(weights * target)) / held[:, None], RISK, axis=0)
    expected = (reaching(_isotonic(drafted, levels)) + target.sum() - reaching(target)) / target.sum()
    return [Kept(float(d), float(m), float(low)) for d, m, low in zip(deltas, expected, bounds, strict=True)]


def cheapest(curve: Sequence[Kept], share: float) -> Kept | None:
    """The lowest threshold that holds a share of the target's accuracy.

    Thresholds are tried from the highest on, and the first one that does not hold ends it: so that, of many that are
    tried, one that holds by chance is as rare as with a single one (fixed-sequence testing).

    Args:
        curve: What thresholds keep, in any order.
        share: Of the target's accuracy, in (0, 1].
    """
    held = None
    for one in sorted(curve, key=lambda one: -one.delta):
        if one.at_least < share:
            break
        held = one
    return held


def weakest(rewards: Sequence[float | None], *, replaced: bool) -> float:
    """The least reward of an answer's steps.

    Args:
        rewards: Of its steps; None where the verifier abstained.
        replaced: Whether a step without a reward goes to the target, whatever the threshold.
    """
    if replaced and None in rewards:
        return -math.inf
    return min((reward for reward in rewards if reward is not None), default=math.inf)


def _isotonic(right: Array, levels: Sequence[float]) -> Array:
    """How often a drafted answer is right, which does not fall as its weakest reward rises; ties are one.

    Levels next to each other are pooled until none is below the one before (the algorithm pool-adjacent-violators).
    """
    _, place, counts = np.unique(levels, return_inverse=True, return_counts=True)
    pools: list[tuple[float, float, int]] = []  # right answers, answers, levels
    for rights, answers in zip(np.bincount(place, right), counts, strict=True):
        pool = (float(rights), float(answers), 1)
        while pools and pools[-1][0] * pool[1] >= pool[0] * pools[-1][1]:
            before = pools.pop()
            pool = (before[0] + pool[0], before[1] + pool[1], before[2] + pool[2])
        pools.append(pool)
    fitted: Array = np.repeat([rights / answers for rights, answers, _ in pools], [size for *_, size in pools])
    return fitted[place]
