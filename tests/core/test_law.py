"""The sampled law of steps is the paper's mixture ω·P_m + ν·P_M, with ν = 1 − E_m[ω]."""

import asyncio
from collections import Counter

import pytest
from scipy import stats

from rsd_core import (
    BinaryStep,
    BudgetAware,
    Clipping,
    Constant,
    Logistic,
    RewardGuidedDecoder,
    Settings,
    Sigmoid,
    WeightingPolicy,
)
from tests.core.worlds import DRAFT, REWARDS, STEPS, TARGET, Dice, Table

DRAWS = 50_000


@pytest.mark.parametrize(
    "policy",
    [
        Constant(p=0.35),
        BinaryStep(delta=0.7),
        Clipping(),
        Sigmoid(),
        Logistic(alpha=5, delta=0.6),
        BudgetAware(target_rate=0.2, memory=20_000),
    ],
    ids=lambda policy: policy.kind,
)
def test_the_law_of_steps(policy: WeightingPolicy) -> None:
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
    weights = [policy.weight(REWARDS[step]) for step in STEPS]
    if isinstance(policy, BudgetAware):  # rejects the lowest fifth: half of the lowest two fifths
        weights = [0.5, 1, 1, 1]
    called = 1 - sum(p * w for p, w in zip(DRAFT, weights, strict=True))
    law = [w * m + called * t for w, m, t in zip(weights, DRAFT, TARGET, strict=True)]
    assert sum(law) == pytest.approx(1)
    test = stats.chisquare([seen[step] for step in STEPS], [p * DRAWS for p in law])
    assert test.pvalue > 1e-3
