"""Calibration against what the decoder does: on a world whose law is known, and on the embedded models."""

import pathlib
import random
from dataclasses import replace

import pytest

from rsd_core import (
    BinaryStep,
    Constant,
    Limits,
    Logistic,
    Path,
    RewardGuidedDecoder,
    RSDConfig,
    Settings,
    parse_policy,
)
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_integrations.embedded.models import load
from rsd_integrations.evaluation import Calibration, Item, calibrate, evaluate, find_task
from rsd_integrations.evaluation.calibration import Rates, Recorded, write_policy
from rsd_integrations.evaluation.recipes import find_recipe, recipe_names
from rsd_integrations.huggingface import HuggingFaceGenerator

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
    right = sum(item.grade(result.text) for item, result in zip(drawn, results, strict=True)) / len(drawn)
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
