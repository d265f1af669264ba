"""Computation at a price: the rule itself, its spending in known worlds, and its actions."""

import random
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from rsd_core import (
    AdvantageAware,
    BinaryStep,
    ConfigurationError,
    Limits,
    Path,
    Price,
    Result,
    RewardGuidedDecoder,
    Settings,
    Step,
    StepDrafted,
    StepRejected,
    Thinking,
    Usage,
    WeightingPolicy,
)
from rsd_core.policies import Decision, RequestView
from rsd_core.policies.computation import improvement
from rsd_core.request import Request
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_core.thoughts.markers import MARKERS
from rsd_integrations.verifiers.combine import Cached, Cascade

unit = st.floats(0, 1)
STEP = Step("a step\n\n", "delimiter", size=3)


def expectation(mean: float, deviation: float, least: float) -> float:
    """E[max(X, least)] of a normal X, from the truncated and censored moments that SciPy knows."""
    law = stats.norm(mean, deviation)
    tail = law.sf(least)
    above = stats.truncnorm((least - mean) / deviation, float("inf"), mean, deviation).mean() if tail > 1e-12 else least
    return float(least * (1 - tail) + above * tail)


@given(unit, st.floats(0.01, 1), unit)
def test_the_better_of_two_is_expected_as_scipy_says(mean: float, deviation: float, best: float) -> None:
    gain = improvement(mean, deviation, best)
    assert gain == pytest.approx(expectation(mean, deviation, best) - best, abs=1e-6)
    assert gain >= max(0.0, mean - best) == improvement(mean, 0.0, best)
    assert improvement(mean, deviation + 0.1, best) >= gain - 1e-12  # sums are rounded
    assert gain >= improvement(mean, deviation, best + 0.1) - 1e-12


def taught(seed: int, price: float, drafts: int = 3) -> AdvantageAware:
    """A policy that has seen something of every action."""
    policy, rng = AdvantageAware(reward_per_cost=price, drafts=drafts, explore=0), random.Random(seed)
    for _ in range(rng.randint(0, 30)):
        features = (1.0, rng.random(), rng.random(), 1 / rng.randint(1, 5))
        policy._expected.add(features, rng.random())
        policy._outcomes.another.add(features, rng.random())
        policy._outcomes.verdict.add(features, rng.uniform(-0.5, 0.5))
    for action in ("target", "another", "verify"):
        policy._outcomes.paid(action, rng.random())
    return policy


def moment(attempt: int = 0, *, unverified: bool = False) -> Request:
    request = Request((), Settings(), 0)
    request.attempt, request.unverified = attempt, unverified
    return request


@given(st.integers(0, 10**6), unit, st.floats(1e-3, 10), st.integers(0, 3), st.booleans())
def test_what_is_done_is_worth_most_after_its_cost(
    seed: int, reward: float, price: float, attempt: int, unverified: bool
) -> None:
    policy = taught(seed, price)
    outcomes, features = policy._outcomes, (1.0, reward, 1.0, 1.0)

    def verdict(value: float) -> float:
        return min(1, max(0, value + outcomes.verdict.predict((1.0, value, 1.0, 1.0))))

    accept = verdict(reward) if unverified else reward
    target = verdict(policy.expected(reward)) - price * outcomes.cost("target")
    worth = {"accept": accept, "target": target}
    if attempt < 2:
        other, spread = verdict(outcomes.another.predict(features)), outcomes.another.deviation
        worth["another"] = expectation(other, spread, max(accept, target)) - price * outcomes.cost("another")
    if unverified:
        worth["verify"] = expectation(accept, outcomes.verdict.deviation, target) - price * outcomes.cost("verify")
    first, second = sorted(worth.values())[-1:-3:-1]
    assume(first - second > 1e-6)
    assert worth[policy.decide(STEP, reward, moment(attempt, unverified=unverified))] == first


@given(st.integers(0, 10**6), unit, st.floats(1e-3, 10), st.floats(1, 10))
def test_a_higher_price_never_calls_a_target_that_a_lower_one_does_not(
    seed: int, reward: float, price: float, more: float
) -> None:
    cheap, dear = (taught(seed, one, drafts=1) for one in (price, price * more))
    if cheap.decide(STEP, reward, moment()) == "accept":
        assert dear.decide(STEP, reward, moment()) == "accept"
    assert taught(seed, 1e9, drafts=1).weight(reward) == 1
    assert cheap.weight(reward) == (cheap.decide(STEP, reward, moment()) == "accept")


# -- worlds that are known --------------------------------------------------------------------------------------------

DRAFT_COST, TARGET_COST, STEPS = 0.02, 1.0, 10


def worth(text: str) -> float:
    """Drafts are worth anything, steps of the target some 0.9."""
    draw = random.Random(text).random()
    return 0.8 + 0.2 * draw if text.startswith("TARGET") else draw


def world(policy: WeightingPolicy) -> RewardGuidedDecoder:
    """A draft costs 0.02 TFLOPs, a target's step 1."""

    class Counted(ScriptedDrafter, ScriptedTarget):
        """Each step is one token, and nothing of its path is read; it costs the same in each unit."""

        async def generate(self, path, request):  # type: ignore[no-untyped-def]
            made = await super().generate(path, request)
            cost = (self.flops_per_token or 0) / 1e12
            self.price = Price(prompt=0, generated=cost * 1e6)
            return type(made)(made.steps, Usage(computed=1, generated=1, seconds=cost))

    return RewardGuidedDecoder(
        drafter=Counted(lambda path, rng: f"draft {rng.random()}\n\n", flops_per_token=DRAFT_COST * 1e12),
        verifier=ScriptedVerifier(lambda path, step: worth(step.text), flops_per_token=0.0),
        target=Counted(lambda path, rng: f"TARGET {rng.random()}\n\n", flops_per_token=TARGET_COST * 1e12),
        policy=policy,
        settings=Settings(temperature=1, retry_temperature=1, limits=Limits(max_steps=STEPS)),
    )


def lived(made: RewardGuidedDecoder, n: int = 60) -> tuple[float, float, list[Result]]:
    """Mean reward of a step and its mean cost, once the policy has learned."""
    results = [made.run(f"question {i}") for i in range(n)][n // 3 :]
    steps = [step for result in results for step in result.steps]
    reward = sum(worth(step.text) for step in steps) / len(steps)
    return reward, sum(result.ledger.total.flops or 0 for result in results) / 1e12 / len(steps), results


def test_spending_follows_the_price() -> None:
    """Ten times the price, fewer calls, less reward; and what is left after the cost is more than others leave."""
    found = {price: lived(world(AdvantageAware(reward_per_cost=price, explore=0.02))) for price in (0.01, 0.1, 0.6, 60)}
    costs, rewards = [cost for _, cost, _ in found.values()], [reward for reward, _, _ in found.values()]
    assert sorted(costs, reverse=True) == costs
    assert sorted(rewards, reverse=True) == rewards
    assert costs[0] > 3 * costs[2]
    assert costs[-1] < 0.1
    fixed = [lived(world(BinaryStep(delta=delta)), 40) for delta in (0.0, 0.3, 0.5, 0.7, 0.85, 1.0)]
    for price, (reward, cost, _) in found.items():
        explored = 0.02 * price * TARGET_COST
        assert reward - price * cost > max(other - price * paid for other, paid, _ in fixed) - 0.01 - explored


@pytest.mark.parametrize("unit", ["flops", "seconds", "money"])
def test_costs_are_those_of_the_ledger_in_any_unit(unit: Any) -> None:
    priced = world(BinaryStep())
    for model in (priced.drafter, priced.verifier, priced.target):
        model.price = Price(prompt=0, generated=0)
    policy = AdvantageAware(reward_per_cost=0.1, cost_in=unit)
    made = RewardGuidedDecoder(
        drafter=priced.drafter, verifier=priced.verifier, target=priced.target, policy=policy, settings=priced.settings
    )
    lived(made, 20)
    assert policy._outcomes.cost("target") == pytest.approx(TARGET_COST)
    assert policy._outcomes.cost("another") == pytest.approx(DRAFT_COST)


def test_a_policy_with_a_price_decides_alike_each_time() -> None:
    first, second = ([r.text for r in lived(world(AdvantageAware(reward_per_cost=0.1)), 12)[2]] for _ in range(2))
    assert first == second


# -- another draft ----------------------------------------------------------------------------------------------------


class Insists(WeightingPolicy):
    """Wants some drafts of a step, then keeps the best."""

    kind: str = "insists"
    drafts: int = 3

    def weight(self, reward: float) -> float:
        return 1.0

    def decide(self, step: Step, reward: float, request: RequestView) -> Decision:
        return "another" if request.attempt + 1 < self.drafts else "accept"


def competing(rewards: list[float | Exception | None], **settings: Any) -> RewardGuidedDecoder:
    numbers, scores = iter(range(9)), iter(rewards)
    return RewardGuidedDecoder(
        drafter=ScriptedDrafter(lambda path, rng: f"draft {next(numbers)}"),
        verifier=ScriptedVerifier(lambda path, step: next(scores)),
        target=ScriptedTarget(["target"]),
        policy=Insists(),
        settings=Settings.model_validate(settings),
    )


@pytest.mark.parametrize(
    ("rewards", "kept"), [([0.5, 0.3, 0.4], 0), ([0.1, 0.3, 0.2], 1), ([0.1, 0.2, 0.2], 1), ([0.1, 0.2, 0.9], 2)]
)
def test_the_best_of_the_drafts_is_kept_and_the_others_are_discarded(rewards: list[Any], kept: int) -> None:
    events = list(competing(rewards).stream("question"))
    result = events[-1].result  # type: ignore[attr-defined]
    assert (result.text, result.steps[0].reward) == (f"draft {kept}", rewards[kept])
    assert [len(event.candidates) for event in events if isinstance(event, StepDrafted)] == [1, 1, 1]
    assert not any(isinstance(event, StepRejected) for event in events)
    assert result.ledger.drafter.discarded == result.ledger.verifier.discarded == 2 * 3
    assert result.ledger.target.calls == 0


@pytest.mark.filterwarnings("ignore::rsd_core.RoleWarning")
def test_a_draft_that_waits_survives_faults_of_those_after_it() -> None:
    result = competing([0.5, RuntimeError("gone"), None]).run("question")
    assert result.text == "draft 0"
    assert [item.kind for item in result.degradations] == ["verifier_error"]
    assert result.ledger.drafter.discarded == 2 * 3
    result = competing([0.5, 0.6], limits=Limits(max_flops=1e-9)).run("question")
    assert result.ledger.drafter.generated == result.ledger.drafter.discarded + sum(s.size for s in result.steps)


# -- the stronger verifier --------------------------------------------------------------------------------------------


def judged(cheap: Any, dear: Any, policy: WeightingPolicy | None = None) -> RewardGuidedDecoder:
    members = [ScriptedVerifier(cheap, flops_per_token=1e9), ScriptedVerifier(dear, flops_per_token=1e12)]
    return RewardGuidedDecoder(
        drafter=ScriptedDrafter(lambda path, rng: f"draft {rng.random()}\n\n", flops_per_token=1e9),
        verifier=Cascade(members, ask="policy"),
        target=ScriptedTarget(lambda path, rng: f"TARGET {rng.random()}\n\n", flops_per_token=2e12),
        policy=policy or AdvantageAware(reward_per_cost=1e-3, explore=0.05, drafts=1),
        settings=Settings(temperature=1, limits=Limits(max_steps=STEPS)),
    )


def asked(made: RewardGuidedDecoder, n: int = 40) -> float:
    """How often the stronger verifier is asked about a draft, once the policy knows what that brings."""
    runs = [made.run(f"question {i}") for i in range(n)]
    dear = made.verifier.stronger
    assert isinstance(dear, ScriptedVerifier)
    begun = len(dear.calls)
    runs = [made.run(f"question {i}") for i in range(n, 2 * n)]
    return (len(dear.calls) - begun) / sum(len(result.steps) for result in runs)


def test_the_stronger_verifier_is_asked_where_it_tells_something_new() -> None:
    def other(path: Path, step: Step) -> float:
        return 0.9 if "TARGET" in step.text else random.Random(f"{step.text} again").random()

    def cheap(path: Path, step: Step) -> float:
        return 0.9 if "TARGET" in step.text else 0.5

    informed, told_nothing = judged(cheap, other), judged(cheap, cheap)
    assert asked(informed) > 0.5
    assert asked(told_nothing) < 0.15  # it is explored now and then
    dear = judged(cheap, other, AdvantageAware(reward_per_cost=10, explore=0.05, drafts=1))
    assert asked(dear) < 0.15


class Verifies(Insists):
    """Asks the stronger verifier where it may, and goes by what that says."""

    kind: str = "verifies"

    def decide(self, step: Step, reward: float, request: RequestView) -> Decision:
        if request.unverified:
            return "verify"
        return "accept" if reward >= 0.5 else "target"

    @property
    def verifies(self) -> bool:
        return True


@pytest.mark.filterwarnings("ignore::rsd_core.RoleWarning")
@pytest.mark.parametrize(
    ("verdict", "author", "reward"),
    [(0.9, "draft", 0.9), (0.1, "target", 0.1), (None, "draft", 0.6), (RuntimeError("gone"), "draft", 0.6)],
)
def test_the_stronger_verdict_counts_and_is_charged_at_its_own_rate(verdict: Any, author: str, reward: float) -> None:
    result = judged([0.6], [verdict], Verifies()).run("question")
    assert {(step.author, step.reward) for step in result.steps} == {(author, reward)}
    account = result.ledger.verifier
    assert account.calls == 2 * STEPS
    failed = isinstance(verdict, Exception)
    assert account.flops == pytest.approx(STEPS * 2 * (1e9 + (0 if failed else 1e12)))


def test_verifiers_that_leave_it_to_the_policy_need_one_that_decides() -> None:
    with pytest.raises(ConfigurationError, match="never does; give the cascade ask=range"):
        judged([0.5], [0.5], BinaryStep())
    with pytest.raises(ConfigurationError, match="remove ask=policy inside"):
        Cached(judged([0.5], [0.5]).verifier)
    with pytest.raises(ConfigurationError, match="ask=range or ask=policy"):
        Cascade([ScriptedVerifier([1.0])] * 2, ask="me")  # type: ignore[arg-type]


# -- thoughts that end early ------------------------------------------------------------------------------------------


def thinker(policy: WeightingPolicy) -> RewardGuidedDecoder:
    """Eight steps of thought, of which the answer needs two."""

    def write(path: Path, rng: random.Random) -> str:
        if "</think>" in path.text:
            return f"answer after {sum('think' in step.text for step in path.steps)} {rng.random()}"
        return f"think {rng.random()}{'</think>' if path.depth == 7 else ''}\n\n"

    def worth(path: Path, step: Step) -> float:
        return min(0.9, 0.45 * sum("think " in one.text for one in path.steps)) if "answer" in step.text else 0.8

    thinking = Thinking(MARKERS["think"], opening="<think>\n")
    return RewardGuidedDecoder(
        drafter=ScriptedDrafter(write, thinking=thinking, flops_per_token=1e10),
        verifier=ScriptedVerifier(worth, flops_per_token=0.0),
        target=ScriptedTarget(write, thinking=thinking, flops_per_token=1e12),
        policy=policy,
        settings=Settings(temperature=1),
    )


def test_a_thought_ends_where_one_more_step_is_not_worth_its_cost() -> None:
    made = thinker(AdvantageAware(reward_per_cost=0.05, stops=True, explore=0.1, drafts=1))
    results = [made.run(f"question {i}") for i in range(150)][100:]
    thoughts = [sum("think " in step.text for step in result.steps) for result in results]
    assert 2 <= sum(thoughts) / len(thoughts) < 6
    assert all("answer" in result.text for result in results)
    assert any(
        item.message == "the policy ended the thought early" for result in results for item in result.degradations
    )
    never = thinker(AdvantageAware(reward_per_cost=0.05, drafts=1)).run("question")
    assert sum("think " in step.text for step in never.steps) == 8


class Quits(Insists):
    """Ends whatever is being written."""

    kind: str = "quits"

    def route(self, request: RequestView) -> Any:
        return "answer"


class Closes(Insists):
    """Ends a thought after two steps."""

    kind: str = "closes"
    drafts: int = 1

    def route(self, request: RequestView) -> Any:
        return "answer" if request.kind == "thought" and len(request.records) == 2 else "draft"


def test_a_thought_that_a_policy_ends_is_closed_in_the_models_own_way() -> None:
    result = thinker(Closes()).run("question")
    assert [step.author for step in result.steps] == ["draft", "draft", "limit", "draft"]
    assert [step.kind for step in result.steps] == ["thought", "thought", "thought", "answer"]
    assert result.raw_text.startswith("<think>\nthink ")
    assert result.raw_text.count("</think>") == 1
    assert [(item.step, item.kind) for item in result.degradations] == [(2, "thought_limit")]
    limited = thinker(Closes()).with_settings(Settings(temperature=1, limits=Limits(max_thought_tokens=4)))
    assert limited.run("question").raw_text == result.raw_text


def test_only_a_thought_can_be_ended() -> None:
    with pytest.raises(Exception, match=r"returned 'answer', not one of: draft, target$"):
        thinker(Quits()).run("question")


# -- as data ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reward_per_cost": 0.1, "target_rate": 0.2}, "give a share of the steps, or a price"),
        ({"stops": True}, "stops=true needs a price"),
        ({"reward_per_cost": 0}, "greater than 0"),
        ({"reward_per_cost": 0.1, "cost_in": "flopz"}, "did you mean 'flops'"),
    ],
)
def test_a_price_that_makes_no_sense_is_reported(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        AdvantageAware.model_validate(options)


def test_costs_have_to_be_known() -> None:
    with pytest.raises(ConfigurationError, match=r"needs the price of every model; unknown for \['scripted drafter'"):
        world(AdvantageAware(reward_per_cost=0.1, cost_in="money"))
    made = world(BinaryStep())
    made.target.flops_per_token = None
    with pytest.raises(ConfigurationError, match=r"needs the flops_per_token of every model; unknown for \['scripted"):
        RewardGuidedDecoder(
            drafter=made.drafter, verifier=made.verifier, target=made.target, policy=AdvantageAware(reward_per_cost=1)
        )
