"""Weighting policies: formulas, ranges, and policies as data."""

import math
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsd_core import (
    AdvantageAware,
    BinaryStep,
    BudgetAware,
    Clipping,
    ConfigurationError,
    Constant,
    FirstSteps,
    Logistic,
    RequestBudget,
    Retry,
    RSDConfig,
    Sigmoid,
    Takeover,
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
learning = st.one_of(
    st.builds(
        BudgetAware, target_rate=st.floats(0, 1), memory=st.integers(2, 50), warm_start=st.lists(rewards).map(tuple)
    ),
    st.builds(RequestBudget, calls=st.integers(0, 9), tokens=st.none() | st.integers(0, 99)),
    st.builds(AdvantageAware, target_rate=st.none() | st.floats(0, 1), explore=st.floats(0, 1)),
    st.builds(
        AdvantageAware,
        reward_per_cost=st.floats(1e-9, 1e9),
        cost_in=st.sampled_from(["flops", "seconds", "money"]),
        drafts=st.integers(1, 4),
        stops=st.booleans(),
    ),
)
anything = st.recursive(
    st.one_of(stateless, learning),
    lambda behind: st.one_of(
        st.builds(FirstSteps, n=st.integers(0, 3), then=behind),
        st.builds(Takeover, steps=st.integers(1, 3), then=behind),
        st.builds(Retry, n=st.integers(1, 3), then=behind),
    ),
    max_leaves=3,
)


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


@given(anything, rewards, rewards)
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
        ("request_budget:calls=3,steps=6", RequestBudget(calls=3, steps=6)),
        ("advantage_aware", AdvantageAware()),
        (
            "advantage_aware:reward_per_cost=0.1,cost_in=seconds,stops=true",
            AdvantageAware(reward_per_cost=0.1, cost_in="seconds", stops=True),
        ),
        ("first_steps:2/retry/budget_aware:0.1", FirstSteps(n=2, then=Retry(then=BudgetAware(target_rate=0.1)))),
        ("takeover:wait|hold on,2/clipping", Takeover(cues=("wait", "hold on"), steps=2, then=Clipping())),
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
        ("request_budget", ["calls, tokens, flops or cost"]),
        ("clipping/sigmoid", ["clipping is not a rule"]),
        ("retry/sigmoyd", ["sigmoyd", "sigmoid"]),
        ("nowhere.json", ["nowhere.json", "cannot be read: No such file or directory"]),
    ],
)
def test_a_bad_policy_names_the_value_and_what_is_allowed(text: str, words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_policy(text)
    assert all(word in str(caught.value) for word in words)


def test_a_policy_file_is_read_wherever_a_policy_is_named(tmp_path: Path) -> None:
    policy = FirstSteps(n=1, then=BudgetAware(target_rate=0.1, warm_start=(0.2, 0.9)))
    file = tmp_path / "policy.json"
    file.write_text(policy.model_dump_json())
    assert parse_policy(str(file)) == policy
    assert RSDConfig.parse({"policy": str(file)}).policy == policy
    assert parse_policy({"kind": "retry", "then": str(file)}) == Retry(then=policy)


def test_the_report_of_a_calibration_stands_for_the_policy_that_it_chose(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    file.write_text('{"policy": {"kind": "binary_step", "delta": 0.4}, "problems": []}')
    assert parse_policy(str(file)) == BinaryStep(delta=0.4)
    file.write_text('{"policy": null, "problems": []}')
    with pytest.raises(ConfigurationError, match=r"report\.json.*chose no policy"):
        parse_policy(str(file))
