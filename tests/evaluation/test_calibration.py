"""Calibration against the decoder's behaviour: in a world with a known law, and on the embedded models."""

import json
import logging
import math
import pathlib
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from rsd_core import (
    BinaryStep,
    ConfigurationError,
    Constant,
    Limits,
    Logistic,
    Path,
    RewardGuidedDecoder,
    RSDConfig,
    RunError,
    Settings,
    Step,
    parse_policy,
)
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_integrations.embedded.models import load
from rsd_integrations.evaluation import Calibration, Item, calibrate, evaluate, find_task
from rsd_integrations.evaluation.calibration import write_policy
from rsd_integrations.evaluation.recipes import find_recipe, recipe_names
from rsd_integrations.evaluation.recording import Rates, Recorded
from rsd_integrations.huggingface import HuggingFaceGenerator

pytestmark = pytest.mark.filterwarnings("ignore::rsd_core.RoleWarning")
DELTAS = (0.0, 0.2, 0.5, 0.8, 1.0)


def world() -> RewardGuidedDecoder:
    """Ten steps; a draft's reward is uniform, whatever stands before it."""

    def write(path: Path, rng: random.Random) -> str:
        return f"{path.depth} {rng.random()}\n\n"

    return RewardGuidedDecoder(
        drafter=ScriptedDrafter(write, flops_per_token=1.0),
        verifier=ScriptedVerifier(lambda path, step: random.Random(step.text).random(), flops_per_token=1.0),
        target=ScriptedTarget(write, flops_per_token=20.0),
        settings=Settings(temperature=1, limits=Limits(max_steps=10)),
    )


def items(n: int) -> list[Item]:
    return [Item(f"question {i}", "x", lambda text: True) for i in range(n)]


def test_expected_shares_and_costs_are_those_of_a_world_that_is_known() -> None:
    found = calibrate(world(), items(300))
    for delta in DELTAS:
        row = found.row(delta)
        assert row.target_share == pytest.approx(delta, abs=0.02)
        low, high = row.target_share_ci95
        assert low <= row.target_share <= high
        assert (high - low) < 0.05
        assert row.flops_paper == pytest.approx(10 * (2 * (1 + 1) + 2 * 20 * delta), rel=0.03)
    assert found.share(Constant(p=0.3)) == pytest.approx(0.7, abs=0.02)
    assert found.share(BinaryStep(delta=0.4)) == pytest.approx(0.4, abs=0.02)
    assert found.share(Logistic(alpha=1e6, delta=0.4)) == pytest.approx(found.share(BinaryStep(delta=0.4)), abs=0.01)


def test_intervals_cover_what_a_rerun_finds() -> None:
    """Of many recordings, some 95 in 100 intervals of the share hold the true one."""
    held = 0
    for seed in range(40):
        made = world().with_settings(Settings(temperature=1, seed=seed, limits=Limits(max_steps=10)))
        low, high = calibrate(made, items(25)).row(0.5).target_share_ci95
        held += low <= 0.5 <= high
    assert held >= 33


def test_estimates_hold_on_the_embedded_models(draft: HuggingFaceGenerator, target: HuggingFaceGenerator) -> None:
    drawn = find_task("embedded-dev").draw(12, 3)
    made = RewardGuidedDecoder(drafter=draft, verifier=load("verifier"), target=target)  # type: ignore[arg-type]
    found = calibrate(made, drawn)
    policy = found.cheapest()
    row = found.row(policy.delta)
    results = RewardGuidedDecoder(
        drafter=made.drafter, verifier=made.verifier, target=made.target, policy=policy
    ).run_many([item.prompt for item in drawn])
    steps = [step for result in results for step in result.steps]
    assert row.target_share == pytest.approx(sum(not step.accepted for step in steps) / len(steps), abs=0.03)
    paper = sum(result.ledger.total.flops_paper or 0 for result in results) / len(results)
    charged = sum(result.ledger.total.flops or 0 for result in results) / len(results)
    assert row.flops_paper == pytest.approx(paper, rel=0.15)
    assert row.flops == pytest.approx(charged, rel=0.25)
    right = sum(item.verdict(result.text).right is True for item, result in zip(drawn, results, strict=True)) / len(
        drawn
    )
    assert row.accuracy == pytest.approx(right, abs=0.17)


def test_a_budget_begins_with_the_rewards_recorded(tmp_path: pathlib.Path) -> None:
    budget = calibrate(world(), items(100)).budget(0.3)
    assert [budget.weight(reward) for reward in (0.2, 0.4)] == [0, 1]
    file = tmp_path / "policy.json"
    write_policy(budget, file)
    assert parse_policy(str(file)) == budget


def test_recipes_are_sound() -> None:
    assert "paper-math-7b" in recipe_names()
    for name in recipe_names():
        recipe = find_recipe(name)
        assert recipe["config"]["drafter"].startswith("hf:")
        assert recipe["config"]["verifier"].startswith("prm:")


def test_evaluation_takes_a_policy_file(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "policy.json"
    write_policy(BinaryStep(delta=0.5), file)
    config = find_recipe("paper-math-7b")["config"] | {
        role: f"scripted:{name}"
        for role, name in (("drafter", "draft"), ("verifier", "verifier"), ("target", "target"))
    }
    report = evaluate(RSDConfig.parse(config | {"policy": str(file)}), "embedded", ["rsd", f"rsd@{file}"], 2, 1)
    assert report.methods["rsd"].by_target == report.methods[f"rsd@{file}"].by_target == 2


def test_the_threshold_chosen_is_safe_and_cheap() -> None:
    """Wrong answers have one step of reward below 0.3, right ones none below 0.6."""
    rng = random.Random(1)
    problems = []
    for i in range(200):
        wrong = i % 4 == 0
        rewards = [rng.uniform(0.6, 1) for _ in range(6)]
        if wrong:
            rewards[rng.randrange(6)] = rng.uniform(0.0, 0.3)
        problems.append(Recorded(tuple(rewards), (0.8,) * 6, not wrong, i % 50 != 1, sizes=(10,) * 6, read=20))
    rates = Rates(1.0, 1.0, 1.0)
    delta = Calibration(tuple(problems), rates, rates).cheapest().delta
    assert 0.3 <= delta <= 0.6
    unknown = [replace(problem, draft_right=None, target_right=None) for problem in problems]
    fifth = Calibration(tuple(unknown), rates, rates)
    assert fifth.row(fifth.cheapest().delta).target_share == pytest.approx(0.2, abs=0.05)


# -- decisions at their edges -----------------------------------------------------------------------------------------

NO_RATES = Rates(1.0, 1.0, 1.0)


def recorded(*drafted: float | None, right: bool | None = True, target_right: bool | None = True) -> Recorded:
    """A problem with the given number of steps, whose drafts along the target's answer are the same."""
    return Recorded(drafted, drafted, right, target_right, (10,) * len(drafted), read=20)


def test_a_reward_at_the_threshold_is_accepted_as_the_policy_accepts_it() -> None:
    assert BinaryStep(delta=0.5).weight(0.5) == 1
    found = Calibration((recorded(0.5, 0.5), recorded(0.9, 0.5)), NO_RATES, NO_RATES)
    assert found.row(0.5).target_share == 0 == found.share(BinaryStep(delta=0.5))
    assert found.row(0.500001).target_share == 3 / 4  # both steps of the first problem, the second of the other
    # Also after the answer has gone over to the target.
    late = Calibration((replace(recorded(0.1, 0.5), beside=(0.1, 0.5)),), NO_RATES, NO_RATES)
    assert late.row(0.5).target_share == 1 / 2


def test_a_threshold_has_to_be_better_by_a_standard_error() -> None:
    """Two problems that only the drafter solves, one that only the target does: by chance, as likely as not."""
    problems = [recorded(0.5) for _ in range(97)]
    problems += [recorded(0.5, target_right=False)] * 2 + [recorded(0.5, right=False)]
    found = Calibration(tuple(problems), NO_RATES, NO_RATES)
    deviation = math.sqrt((3 - 100 * 0.01**2) / 99)  # of the gaps 1, 1, -1 and 97 times 0, whose mean is 0.01
    assert found._surplus(0.0) == pytest.approx(0.01 - deviation / math.sqrt(100))
    assert found.cheapest().delta > 0.5  # the target, then, and not the drafter that looks better
    surely = Calibration((*problems, *[recorded(0.5, target_right=False)] * 6), NO_RATES, NO_RATES)
    assert surely.cheapest().delta <= 0.5


def test_answers_that_are_not_known_are_neither_right_nor_wrong() -> None:
    known = [recorded(0.5), recorded(0.5, right=False, target_right=False)]
    unknown = [recorded(0.5, right=None, target_right=None)] * 6
    for problems in (known + unknown, unknown + known):
        row = Calibration(tuple(problems), NO_RATES, NO_RATES).row(0.0)
        assert row.accuracy == 1 / 2
    assert Calibration(tuple(unknown), NO_RATES, NO_RATES).row(0.0).accuracy is None


# -- roles that fail, verifiers that abstain --------------------------------------------------------------------------


def halls(n: int) -> list[Item]:
    return [Item(f"How many seats in hall {i}?", "10", lambda text: "10" in text) for i in range(n)]


def seats(verifier: Any = None, drafter: Any = None, target: Any = None, **settings: Any) -> RewardGuidedDecoder:
    """The drafter's second step of two is wrong and has a low reward."""
    return RewardGuidedDecoder(
        drafter=ScriptedDrafter(drafter or ["3*4=12.\n\n", "12-2=9."]),
        verifier=ScriptedVerifier(verifier or [0.9, 0.2]),
        target=ScriptedTarget(target or ["3*4=12.\n\n", "12-2=10."]),
        settings=Settings(**settings),
    )


@pytest.mark.parametrize(
    ("decoder", "words"),
    [
        (
            seats(verifier=[RuntimeError("401 no such key")]),
            ["the verifier failed at 16 of 16 steps, in 4 of 4 problems", "RuntimeError: 401 no such key"],
        ),
        (
            seats(drafter=[ConnectionError("refused")]),
            ["the drafter failed at 16 of 16 steps, in 4 of 4 problems", "ConnectionError: refused"],
        ),
        (
            seats(target=[RuntimeError("out of memory")], target_retries=0),
            ["the target failed at 4 of 12 steps, in 4 of 4 problems", "out of memory"],
        ),
        (
            seats(limits=Limits(max_target_calls=1)),
            ["a limit on the target was reached at 4 of 16 steps, in 4 of 4 problems", "max_target_calls"],
        ),
        (seats(verifier=[None]), ["the verifier 'scripted verifier' abstained at every step of 4 problems"]),
    ],
)
@pytest.mark.parametrize("rule", ["target", "accept", "raise"])
def test_a_role_that_never_works_calibrates_nothing(decoder: RewardGuidedDecoder, words: list[str], rule: Any) -> None:
    decoder = decoder.with_settings(decoder.settings.updated(on_verifier_error=rule))
    with pytest.raises(RunError, match=r"^nothing can be calibrated: ") as caught:
        calibrate(decoder, halls(4))
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


def test_a_broken_set_up_is_seen_before_all_is_paid_for() -> None:
    decoder = seats(verifier=[RuntimeError("down")])
    with pytest.raises(RunError, match="in 2 of 2 problems"):
        calibrate(decoder, halls(100), concurrency=2)
    assert isinstance(decoder.drafter, ScriptedDrafter)
    assert len(decoder.drafter.calls) <= 8


def failing(*broken: int) -> Callable[[Path, Step], float]:
    """A verifier that fails at the second step of some problems."""

    def score(path: Path, step: Step) -> float:
        if path.depth and path.prompt[-1].content in [f"How many seats in hall {i}?" for i in broken]:
            raise RuntimeError("timed out")
        return (0.9, 0.2)[path.depth]

    return score


def test_problems_in_which_a_role_failed_are_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "rsd_integrations.evaluation"):
        found = calibrate(seats(verifier=failing(1, 4)), halls(6))
    clean = calibrate(seats(), halls(4))
    assert found.problems == clean.problems
    assert found.row(0.5) == clean.row(0.5)
    assert [one.problem for one in found.left_out] == [1, 4]
    assert found.left_out[0].reason == "the verifier failed: RuntimeError: timed out"
    assert "2 of 6 problems are left out" in caplog.text
    assert json.loads(json.dumps(found.to_dict()))["left_out"][1]["problem"] == 4
    with pytest.raises(RunError, match=r"the verifier failed at 8 of 24 steps, in 4 of 6 problems"):
        calibrate(seats(verifier=failing(0, 1, 2, 3)), halls(6))


def test_a_handled_fault_of_the_target_spoils_nothing() -> None:
    shaky = iter([RuntimeError("once"), "3*4=12.\n\n", "12-2=10."])
    found = calibrate(seats(target=lambda path, rng: next(shaky)), halls(1))
    assert found.left_out == ()
    assert found.problems[0].target_right


@pytest.mark.parametrize(("rule", "shares"), [("target", [1 / 2, 1 / 2, 1]), ("accept", [0, 0, 1 / 2])])
def test_a_step_without_a_reward_goes_as_the_settings_say_whatever_the_threshold(
    rule: Any, shares: list[float]
) -> None:
    """Of two steps, the verifier has an opinion on the second."""
    decoder = seats(verifier=[None, 0.5], on_abstain=rule)
    found = calibrate(decoder, halls(2))
    assert found.problems[0].drafted == (None, 0.5)
    assert found.problems[0].beside == (None, 0.5)
    for delta, share in zip((0.0, 0.5, 0.6), shares, strict=True):
        assert found.row(delta).target_share == share
        policy = BinaryStep(delta=delta)
        assert found.share(policy) == share
        steps = RewardGuidedDecoder(
            drafter=decoder.drafter,
            verifier=decoder.verifier,
            target=decoder.target,
            policy=policy,
            settings=decoder.settings,
        ).run("How many seats in hall 0?").steps  # fmt: skip
        assert sum(step.author == "target" for step in steps) / len(steps) == share
    assert set(found.budget(0.5).warm_start) == {0.5}


def test_a_calibration_takes_problems() -> None:
    with pytest.raises(ConfigurationError, match="at least one problem"):
        calibrate(seats(), [])


def test_what_a_threshold_costs_is_counted_to_the_token() -> None:
    """Three steps, the second draft rejected: the target reads 20 tokens, and its own up to the step that it writes."""
    problem = Recorded((0.9, 0.1, 0.9), (0.9, 0.1, 0.9), True, True, sizes=(10, 7, 5), read=20)
    found = Calibration((problem,), Rates(0.0, 0.0, 1.0), Rates(0.0, 0.0, 1.0))
    row = found.row(0.5)
    assert row.target_share == 1 / 3
    assert (row.flops, row.flops_paper) == (20 + 10 + 7, 7)
    assert (found.row(0.05).flops, found.row(0.05).flops_paper) == (0, 0)
    every = found.row(1.0)
    assert (every.target_share, every.flops, every.flops_paper) == (1, 20 + 10 + 7 + 5, 10 + 7 + 5)


def test_a_first_rejection_past_the_end_of_the_targets_answer_is_a_replaced_step() -> None:
    problem = Recorded((0.9, 0.9, 0.1), (0.9, 0.9), True, True, sizes=(10, 7), read=20)
    found = Calibration((problem,), NO_RATES, NO_RATES)
    assert found.row(0.5).target_share == found.share(BinaryStep(delta=0.5)) == 1 / 3
    assert found.row(0.95).target_share == found.share(BinaryStep(delta=0.95)) == 1


def test_a_budget_begins_with_one_reward_of_each_step_that_is_seen() -> None:
    """Those of the drafter up to the first rejected one, and of the drafts along the target's answer after it."""
    problem = Recorded((0.9, 0.1, 0.8), (0.6, 0.2, 0.7), True, True, sizes=(10,) * 3, read=20)
    found = Calibration((problem,), NO_RATES, NO_RATES)
    assert found._seen(problem, 0.5) == (0.9, 0.1, 0.7)
    assert found._seen(problem, 0.05) == (0.9, 0.1, 0.8)
    assert found._seen(problem, 1.0) == (0.9, 0.2, 0.7)


def test_half_of_the_problems_are_enough_and_one_less_is_not() -> None:
    assert len(calibrate(seats(verifier=failing(0, 1)), halls(4)).problems) == 2
    with pytest.raises(RunError, match="in 3 of 5 problems"):
        calibrate(seats(verifier=failing(0, 1, 2)), halls(5))


def test_what_the_target_read_is_what_it_computed_and_did_not_write() -> None:
    decoder = seats()
    (problem,) = calibrate(decoder, halls(1)).problems
    account = RewardGuidedDecoder(
        drafter=decoder.drafter, verifier=decoder.verifier, target=decoder.target, policy=Constant(p=0)
    ).run("How many seats in hall 0?").ledger.target  # fmt: skip
    assert 0 < problem.read == account.computed - account.generated
    assert sum(problem.sizes) == account.generated
