"""The cheapest threshold that meets an accuracy target (the idea of UCCI, arXiv 2605.18796).

The accuracy target is a share of the accuracy of the target model alone. Under a threshold, an answer is the drafter's
if its weakest step reaches the threshold; otherwise it is assumed to be correct if the target's is.

The expected share assumes that drafted answers are correct no less often the higher their weakest reward is (isotonic
regression). The lower bound does not, because that regression is too optimistic at its upper end, where thresholds are.
It is the lower end of a Bayesian bootstrap over problems (Rubin 1981), in which each problem gets a random weight, and
drafter and target stay paired. One additional wrong drafted answer stands for what was not seen, as in the exact
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
"""How often the lower bound may be above the true value."""


@dataclass(frozen=True, slots=True)
class Graded:
    """A problem whose answer is known."""

    weakest: float
    """The lowest reward of the drafter's steps; minus infinity if one is replaced whatever the threshold."""
    draft_right: bool
    target_right: bool


@dataclass(frozen=True, slots=True)
class Kept:
    """How much of the target's accuracy a threshold keeps, as a share of it."""

    delta: float
    expected: float
    at_least: float
    """With 95 % confidence."""


def kept(problems: Sequence[Graded], deltas: Sequence[float], resamples: int = 2000, seed: int = 0) -> list[Kept]:
    """How much of the target's accuracy each threshold keeps.

    Args:
        problems: Problems with known answers, drafter and target on the same ones.
        deltas: The thresholds.
        resamples: Draws of the bootstrap.
        seed: Equal seeds draw equal weights.

    Raises:
        ConfigurationError: There are no problems, or the target solves none of them.
    """
    if not any(problem.target_right for problem in problems):
        raise ConfigurationError(
            f"the target solves none of {len(problems)} problems with known answers, so there is no accuracy to keep"
        )
    ranked = sorted(problems, key=lambda problem: problem.weakest)
    levels = [problem.weakest for problem in ranked]
    drafted = np.array([problem.draft_right for problem in ranked], dtype=np.float64)
    target = np.array([problem.target_right for problem in ranked], dtype=np.float64)
    first = np.searchsorted(levels, deltas)  # of the problems that reach a threshold

    def reaching(mass: Array) -> Array:
        """The total mass of the problems that reach each threshold."""
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
    """The lowest threshold that keeps a share of the target's accuracy.

    Thresholds are tried from the highest down to the first one that fails. This way, trying many makes it no more
    likely that one passes by chance than trying a single one (fixed-sequence testing).

    Args:
        curve: How much thresholds keep, in any order.
        share: Share of the target's accuracy, in (0, 1].
    """
    held = None
    for one in sorted(curve, key=lambda one: -one.delta):
        if one.at_least < share:
            break
        held = one
    return held


def weakest(rewards: Sequence[float | None], *, replaced: bool) -> float:
    """The lowest reward of an answer's steps.

    Args:
        rewards: Rewards of its steps; None if the verifier abstained.
        replaced: Whether a step without a reward goes to the target, whatever the threshold.
    """
    if replaced and None in rewards:
        return -math.inf
    return min((reward for reward in rewards if reward is not None), default=math.inf)


def _isotonic(right: Array, levels: Sequence[float]) -> Array:
    """How often a drafted answer is correct, never decreasing with its weakest reward; ties are pooled.

    Neighbouring levels are pooled until none is below the previous one (the pool-adjacent-violators algorithm).
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
