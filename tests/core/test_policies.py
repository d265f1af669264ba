"""Weighting policies: formulas, ranges, and policies as data."""

import copy
import math
import pickle
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsd_core import (
    BinaryStep,
    BudgetAware,
    Clipping,
    ConfigurationError,
    Constant,
    Logistic,
    RSDConfig,
    Sigmoid,
    WeightingPolicy,
    parse_policy,
)

rewards = st.floats(0, 1)
stateless = st.one_of(
    st.builds(Constant, p=st.floats(0, 1)),
    st.builds(BinaryStep, delta=st.floats(0, 1)),
    st.just(Clipping()),
    st.just(Sigmoid()),
    st.builds(Logistic, alpha=st.floats(0.1, 1e6), delta=st.floats(0, 1)),
)
anything = st.one_of(stateless, st.builds(BudgetAware, target_rate=st.floats(0, 1), memory=st.integers(2, 50)))


@pytest.mark.parametrize(
    ("policy", "reward", "weight"),
    [
        (Constant(p=0.3), 0.9, 0.3),
        (BinaryStep(delta=0.7), 0.7, 1.0),  # a reward equal to the threshold is accepted
        (BinaryStep(delta=0.7), math.nextafter(0.7, 0), 0.0),
        (Clipping(), 0.25, 0.25),
        (Clipping(), 1.0, 1.0),
        (Sigmoid(), 1.0, 0.5),
        (Sigmoid(), 0.25, 0.2),
        (Logistic(alpha=10, delta=0.5), 0.5, 0.5),
        (Logistic(alpha=math.log(3) * 10, delta=0.5), 0.6, 0.75),
    ],
)
def test_formula(policy: WeightingPolicy, reward: float, weight: float) -> None:
    assert policy.weight(reward) == pytest.approx(weight)


@given(stateless, rewards, rewards)
def test_weights_are_probabilities_that_do_not_decrease(policy: WeightingPolicy, a: float, b: float) -> None:
    low, high = policy.weight(min(a, b)), policy.weight(max(a, b))
    assert 0 <= low <= high <= 1


@given(anything)
def test_a_policy_survives_as_data(policy: WeightingPolicy) -> None:
    assert parse_policy(policy.model_dump(mode="json")) == policy
    config = RSDConfig.parse({"policy": policy.model_dump()})
    assert RSDConfig.model_validate_json(config.model_dump_json()) == config
    assert pickle.loads(pickle.dumps(policy)) == policy


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("binary_step", BinaryStep()),
        ("binary_step:0.4", BinaryStep(delta=0.4)),
        ("logistic:30,delta=0.6", Logistic(alpha=30, delta=0.6)),
        ("budget_aware:target_rate=0.1", BudgetAware(target_rate=0.1)),
        (" constant:1 ", Constant(p=1)),
    ],
)
def test_policies_as_text(text: str, policy: WeightingPolicy) -> None:
    assert parse_policy(text) == policy


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("binary_step:1.2", ["1.2", "less than or equal to 1"]),
        ("binary_step:nan", ["nan"]),
        ("treshold:0.7", ["treshold", "binary_step"]),
        ("constant:0.1,0.2", ["constant", "more values"]),
        ("clipping:low=1", ["low"]),
        ("logistic:alpha=-1", ["alpha", "greater than 0"]),
    ],
)
def test_a_bad_policy_names_the_value_and_what_is_allowed(text: str, words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_policy(text)
    assert all(word in str(caught.value) for word in words)


def draw(law: str, rng: random.Random) -> float:
    if law == "bimodal":
        return min(1.0, max(0.0, rng.gauss(rng.choice((0.2, 0.9)), 0.05)))
    return rng.random() if law == "uniform" else rng.choice((0.1, 0.5, 0.5, 0.9, 0.9, 0.9))


@pytest.mark.parametrize("gamma", [0.05, 0.1, 0.3, 0.5])
@pytest.mark.parametrize("law", ["uniform", "bimodal", "tied"])
def test_the_budget_is_met(gamma: float, law: str) -> None:
    rng = random.Random(f"{gamma}{law}")
    policy = BudgetAware(target_rate=gamma)
    rejected = sum(rng.random() >= policy.weight(draw(law, rng)) for _ in range(5000))
    # Four standard errors of 5,000 independent coins.
    assert rejected / 5000 == pytest.approx(gamma, abs=4 * math.sqrt(gamma * (1 - gamma) / 5000))


def test_a_copy_of_a_budget_has_seen_nothing() -> None:
    policy = BudgetAware(target_rate=0.5)
    for _ in range(100):
        policy.weight(0.9)
    fresh = BudgetAware(target_rate=0.5).weight(0.3)
    assert policy.weight(0.3) != fresh
    assert copy.deepcopy(policy).weight(0.3) == fresh
