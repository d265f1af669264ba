"""The sampled law of steps is the paper's mixture ω·P_m + ν·P_M, with ν = 1 − E_m[ω], for every policy.

A policy that learns has the weights that it should have settled on; rules change the law as they say.
"""

import asyncio
from collections import Counter

import pytest
from scipy import stats

from rsd_core import (
    AdvantageAware,
    BinaryStep,
    BudgetAware,
    Clipping,
    Constant,
    FirstSteps,
    Logistic,
    RequestBudget,
    Retry,
    RewardGuidedDecoder,
    Settings,
    Sigmoid,
    Takeover,
    WeightingPolicy,
)
from tests.core.worlds import DRAFT, REWARDS, STEPS, TARGET, Dice, Table

DRAWS = 50_000
TARGET_EXPECTS = sum(p * REWARDS[step] for p, step in zip(TARGET, STEPS, strict=True))


def mixture(weights: list[float], retries: int = 0) -> list[float]:
    """The law of one step: up to `retries` new drafts, then the target."""
    called = 1 - sum(p * w for p, w in zip(DRAFT, weights, strict=True))
    drafted = sum(called**k for k in range(retries + 1))
    return [drafted * w * m + called ** (retries + 1) * t for w, m, t in zip(weights, DRAFT, TARGET, strict=True)]


def of(policy: WeightingPolicy, retries: int = 0) -> list[float]:
    """The law by the policy's own formula."""
    return mixture([policy.weight(REWARDS[step]) for step in STEPS], retries)


def mean(first: list[float], second: list[float]) -> list[float]:
    """The law of all steps, of which half are first and half are second ones."""
    return [(a + b) / 2 for a, b in zip(first, second, strict=True)]


CASES: dict[str, tuple[WeightingPolicy, list[float]]] = {
    "constant": (Constant(p=0.35), of(Constant(p=0.35))),
    "binary_step": (BinaryStep(delta=0.7), of(BinaryStep(delta=0.7))),
    "clipping": (Clipping(), of(Clipping())),
    "sigmoid": (Sigmoid(), of(Sigmoid())),
    "logistic": (Logistic(alpha=5, delta=0.6), of(Logistic(alpha=5, delta=0.6))),
    # Rejects the lowest fifth: half of the lowest two fifths.
    "budget_aware": (BudgetAware(target_rate=0.2, memory=20_000), mixture([0.5, 1, 1, 1])),
    # Rejects a and b, whose rewards are below what the target is expected to reach, and explores the others.
    "advantage_aware": (
        AdvantageAware(explore=0.05, memory=20_000),
        mixture([0.95 * (REWARDS[step] >= TARGET_EXPECTS) for step in STEPS]),
    ),
    # The same under a budget that reaches a, where the advantage is largest, and a third of b.
    "advantage_aware_budgeted": (AdvantageAware(target_rate=0.5, explore=0, memory=20_000), mixture([0, 2 / 3, 1, 1])),
    # Two steps are expected and one call: half of the drafts at the first step; then all drafts, or none.
    "request_budget": (
        RequestBudget(calls=1, steps=2, memory=20_000),
        mean(mixture([0, 2 / 3, 1, 1]), [0.5 * m + 0.5 * t for m, t in zip(DRAFT, TARGET, strict=True)]),
    ),
    "first_steps": (FirstSteps(n=1, then=Clipping()), mean(list(TARGET), of(Clipping()))),
    # A draft of a goes to the target, and so does the second step after it.
    "takeover": (
        Takeover(cues=("a",), steps=2, then=Constant(p=1)),
        mean(
            mixture([0, 1, 1, 1]),
            [DRAFT[0] * t + (1 - DRAFT[0]) * law for t, law in zip(TARGET, mixture([0, 1, 1, 1]), strict=True)],
        ),
    ),
    "retry": (Retry(n=2, then=Logistic(alpha=5, delta=0.6)), of(Logistic(alpha=5, delta=0.6), retries=2)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_law_of_steps(name: str) -> None:
    policy, law = CASES[name]
    decoder = RewardGuidedDecoder(
        drafter=Dice(DRAFT),
        verifier=Table(),
        target=Dice(TARGET),
        policy=policy,
        settings=Settings(temperature=1, seed=20250131),
    )

    async def sample() -> Counter[str]:
        seen: Counter[str] = Counter()
        for repeat in range(DRAWS // 2):  # two steps each
            result = await decoder.arun("roll", repeat=repeat)
            seen.update(step.text for step in result.steps)
        return seen

    seen = asyncio.run(sample())
    assert sum(law) == pytest.approx(1)
    test = stats.chisquare([seen[step] for step in STEPS], [p * DRAWS for p in law])
    assert test.pvalue > 1e-3
