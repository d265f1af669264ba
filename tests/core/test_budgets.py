"""Policies that spend exactly their budget, for any rewards in any order."""

import asyncio
import copy
import random
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from rsd_core import (
    AdvantageAware,
    BudgetAware,
    ConfigurationError,
    Limits,
    Path,
    Price,
    RequestBudget,
    Result,
    RewardGuidedDecoder,
    Settings,
    Step,
    WeightingPolicy,
)
from rsd_core.policies.online_quantile import Budget
from rsd_core.request import Request
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from tests.benchmarks.budget import GAMMAS, LAWS, measure

STEP = Step("a step\n\n", "delimiter", size=3)
levels = st.sampled_from([0.0, 0.2, 0.2, 0.5, 0.9, 1.0]) | st.floats(0, 1)


def moment(seed: int) -> Request:
    """A fresh request, whose coin is its seed's."""
    return Request((), Settings(), seed)


def shown(policy: WeightingPolicy, rewards: list[float]) -> list[bool]:
    """What a policy accepts of a sequence of rewards."""
    return [policy.decide(STEP, reward, moment(i)) == "accept" for i, reward in enumerate(rewards)]


@given(st.lists(levels, max_size=300), st.floats(0, 1), st.integers(1, 50), st.integers(2, 40))
def test_the_share_is_kept_for_any_rewards_in_any_order(
    rewards: list[float], gamma: float, horizon: int, memory: int
) -> None:
    policy = BudgetAware(target_rate=gamma, horizon=horizon, memory=memory)
    rejected = 0
    for n, accepted in enumerate(shown(policy, rewards), 1):
        rejected += not accepted
        assert -(horizon * gamma + 1) - 1e-9 <= gamma * n - rejected <= horizon * (1 - gamma) + 1 + 1e-9


@given(st.lists(levels, min_size=1, max_size=60), st.floats(0, 1), levels)
def test_a_budget_rejects_the_lowest_share_of_what_it_saw(seen: list[float], rate: float, value: float) -> None:
    """Against an independent definition: sort the atoms, and cut off a mass of `rate` from below."""
    budget = Budget(rate, 10**9, 1000, seen)  # such a horizon leaves the rate as it is
    every = sorted([*seen, value])
    below, atom = sum(other < value for other in every), every.count(value)
    cut = rate * len(every)
    assert budget.weight(value) == pytest.approx(1 - min(1, max(0, (cut - below) / atom)))


@pytest.mark.parametrize("law", LAWS)
def test_the_realised_share_is_the_budget(law: str) -> None:
    """Through the decoder, 64 requests at a time; `python -m tests.benchmarks.budget` has all of them."""
    tolerance = 0.03 if law in ("drifting", "sorted") else 0.01
    for gamma in (GAMMAS[0], GAMMAS[-1]):
        assert measure(law, gamma, 64) == pytest.approx(gamma, abs=tolerance)


def test_the_share_is_kept_when_threads_decide_at_once() -> None:
    policy, rejected = BudgetAware(target_rate=0.3), list[int]()

    def decide(first: int) -> None:
        rng = random.Random(first)
        rejected.append(sum(not ok for ok in shown(policy, [rng.random() for _ in range(500)])))

    threads = [threading.Thread(target=decide, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(rejected) / 4000 == pytest.approx(0.3, abs=101 / 4000)


def test_a_warm_start_knows_the_threshold_at_once() -> None:
    rewards = tuple(i / 100 for i in range(100))
    warm = BudgetAware(target_rate=0.2, warm_start=rewards)
    assert [warm.weight(reward) for reward in (0.1, 0.3)] == [0, 1]
    assert 0 < BudgetAware(target_rate=0.2).weight(0.1) < 1


def test_a_copy_of_a_budget_has_seen_nothing() -> None:
    policy = BudgetAware(target_rate=0.5, warm_start=(0.9, 0.9))
    fresh = policy.weight(0.3)
    shown(policy, [0.1] * 100)
    assert policy.weight(0.3) != fresh
    assert copy.deepcopy(policy).weight(0.3) == fresh


def test_steps_forced_on_the_target_are_paid_from_the_budget() -> None:
    policy, rng = BudgetAware(target_rate=0.3), random.Random(5)
    written = 0
    for i in range(1000):
        if i % 10 == 0:  # a routing rule takes every tenth step
            policy.on_target_forced()
            written += 1
        else:
            written += policy.decide(STEP, rng.random(), moment(i)) == "target"
    assert written / 1000 == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("seed", range(60))
def test_the_step_is_optimal_under_the_budget(seed: int) -> None:
    """Against a linear program: maximise E_RSD[r] over all ω with ν ≤ γ (Proposition 2.3)."""
    rng = random.Random(seed)
    atoms = sorted(rng.choice((rng.random(), 0.5)) for _ in range(rng.randint(2, 8)))
    mass = [rng.random() for _ in atoms]
    mass = [m / sum(mass) for m in mass]
    gamma, target = rng.random(), rng.random()
    # E_RSD[r] = R_M + E_m[ω (r − R_M)], and ν = 1 − E_m[ω].
    best = linprog(
        [-m * (r - target) for m, r in zip(mass, atoms, strict=True)],
        A_ub=[[-m for m in mass]],
        b_ub=[gamma - 1],
        bounds=(0, 1),
    )
    # The budget's own quantile over this law, and acceptance of all that beats the target.
    repeats = [round(m * 20_000) for m in mass]
    law = [r for r, count in zip(atoms, repeats, strict=True) for _ in range(count)]
    budget = Budget(gamma, 10**9, len(law) + 1, law)
    weights = [1.0 if r >= target else budget.weight(r) for r in atoms]
    gained = sum(m * w * (r - target) for m, w, r in zip(mass, weights, atoms, strict=True))
    called = 1 - sum(m * w for m, w in zip(mass, weights, strict=True))
    assert called <= gamma + 1e-3
    assert gained == pytest.approx(-best.fun, abs=1e-3)


def decoder(policy: WeightingPolicy, **settings: object) -> RewardGuidedDecoder:
    """Steps of one to nine words by either model, and rewards that have nothing to do with them."""

    def write(path: Path, rng: random.Random) -> str:
        end = "" if rng.random() < 0.1 else "\n\n"
        return " ".join(["word"] * rng.randint(1, 9)) + f" {rng.random()}{end}"

    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter(write),
        verifier=ScriptedVerifier(lambda path, step: random.Random(step.text).random()),
        target=ScriptedTarget(write, flops_per_token=10.0),
        policy=policy,
        settings=Settings.model_validate({"temperature": 1, **settings}),
    )
    made.target.price = Price(prompt=1e6, generated=3e6, cached=1e5)
    return made


def runs(made: RewardGuidedDecoder, n: int, seed: int = 0) -> list[Result]:
    return asyncio.run(made.arun_many(["a question"] * n, concurrency=8, seed=seed))


@given(
    st.integers(0, 10**6),
    st.fixed_dictionaries(
        {},
        optional={
            "calls": st.integers(0, 6),
            "tokens": st.integers(0, 60),
            "flops": st.floats(1, 3000),
            "cost": st.floats(1, 300),
        },
    ).filter(bool),
)
def test_hard_budgets_are_never_exceeded(seed: int, budget: dict[str, float]) -> None:
    made = decoder(RequestBudget.model_validate(budget), retry_temperature=1)
    for result in runs(made, 4, seed):
        spent = result.ledger.target
        assert spent.calls <= budget.get("calls", spent.calls)
        assert spent.generated <= budget.get("tokens", spent.generated)
        assert spent.flops is not None
        assert spent.cost is not None
        assert spent.flops <= budget.get("flops", spent.flops)
        assert spent.cost <= budget.get("cost", spent.cost) + 1e-6


@given(st.integers(0, 10**6), st.integers(0, 40), st.floats(1, 2000))
def test_limits_on_the_target_hold_under_any_policy(seed: int, tokens: int, flops: float) -> None:
    limits = Limits(max_target_tokens=tokens, max_target_flops=flops)
    for policy in (BudgetAware(target_rate=0.9), RequestBudget(calls=2)):
        for result in runs(decoder(policy, limits=limits), 3, seed):
            assert result.ledger.target.generated <= tokens
            assert (result.ledger.target.flops or 0) <= flops
            if isinstance(policy, RequestBudget):
                assert result.ledger.target.calls <= 2


def test_a_request_budget_is_spent_over_the_whole_answer_and_where_rewards_are_low() -> None:
    results = runs(decoder(RequestBudget(calls=3)), 400)
    long = [result for result in results[200:] if len(result.steps) >= 8]
    assert sum(result.ledger.target.calls for result in long) / len(long) > 2  # it is used
    late = [step.author == "target" for result in long for step in result.steps[4:]]
    assert sum(late) / len(late) > 0.05  # not all at the beginning
    replaced = [step.reward for r in results for step in r.steps if step.author == "target" and step.reward is not None]
    kept = [step.reward for r in results for step in r.steps if step.author == "draft" and step.reward is not None]
    assert sum(replaced) / len(replaced) < 0.5 * sum(kept) / len(kept)


def test_a_budget_of_flops_needs_a_target_of_known_size() -> None:
    made = decoder(RequestBudget(flops=100))
    made.target.flops_per_token = None
    with pytest.raises(ConfigurationError, match="flops_per_token"):
        made.run("a question")


def test_advantage_is_learned_from_the_targets_own_steps() -> None:
    """The target is not called for an answer that is beyond repair, however low the rewards."""

    def spoiled(path: Path) -> bool:
        return path.depth >= 4 and path.prompt[-1].content.endswith("spoiled")

    def score(path: Path, step: Step) -> float:
        if spoiled(path):
            return 0.0 if "TARGET" in step.text else 0.2
        return 0.9 if "TARGET" in step.text else 0.4

    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter(lambda path, rng: f"draft {rng.random()}\n\n"),
        verifier=ScriptedVerifier(score),
        target=ScriptedTarget(lambda path, rng: f"TARGET {rng.random()}\n\n"),
        policy=AdvantageAware(explore=0.05, memory=300),
        settings=Settings(temperature=1, limits=Limits(max_steps=8)),
    )
    prompts = [f"{i} {'sound' if i % 2 else 'spoiled'}" for i in range(200)]
    results = asyncio.run(made.arun_many(prompts, concurrency=8))[100:]
    share = {
        kind: [sum(r.steps[i].author == "target" for r in results[first::2]) / 50 for i in range(8)]
        for kind, first in (("spoiled", 0), ("sound", 1))
    }
    assert min(share["sound"] + share["spoiled"][:4]) > 0.9
    assert max(share["spoiled"][5:]) < 0.4  # one step later the rewards have told
    assert {step.target_reward for r in results for step in r.steps if step.author == "target"} <= {0.0, 0.9}


def test_advantage_under_a_budget_keeps_the_budget() -> None:
    made = decoder(AdvantageAware(target_rate=0.2, prior=1.0))
    results = runs(made, 500)
    steps = [step for result in results for step in result.steps]
    share = sum(step.author == "target" for step in steps) / len(steps)
    assert 0.1 < share <= 0.2 + 101 / len(steps)
