"""Thresholds that keep an accuracy target: how often the promise is kept, and the error if none can be made."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression
from scipy.stats import beta
from typer.testing import CliRunner

from rsd_core import BinaryStep, ConfigurationError, RunError, parse_policy
from rsd_integrations.cli.app import app
from rsd_integrations.evaluation import Calibration
from rsd_integrations.evaluation.accuracy_target import Graded, Kept, _isotonic, cheapest, kept, weakest
from rsd_integrations.evaluation.recording import Rates, Recorded
from tests.cli.test_cli import SCRIPTED

RATES = Rates(1.0, 1.0, 1.0)
GRID = [i / 50 for i in range(51)]
TARGET = 0.85


def rises(level: float) -> float:
    return min(1.0, 0.2 + level)


def jumps(level: float) -> float:
    return 0.97 if level > 0.4 else 0.2


def flat(level: float) -> float:
    """The verifier knows nothing, and the drafter is a little worse than the target."""
    return 0.8


@pytest.mark.parametrize("law", [rises, jumps, flat])
@pytest.mark.parametrize("share", [0.9, 0.98])
def test_what_is_promised_is_kept_nineteen_times_in_twenty(law: Any, share: float) -> None:
    """Against the accuracy of each threshold in a world that is known, over many recordings of 100 problems."""
    levels = (np.arange(2000) + 0.5) / 2000
    right = np.array([law(level) for level in levels])
    truth = {delta: (np.where(levels >= delta, right, TARGET).mean()) / TARGET for delta in GRID}
    rng, broken, runs = random.Random(7), 0, 150
    for seed in range(runs):
        drawn = [rng.random() for _ in range(100)]
        problems = [Graded(level, rng.random() < law(level), rng.random() < TARGET) for level in drawn]
        held = cheapest(kept(problems, GRID, resamples=200, seed=seed), share)
        broken += held is not None and truth[held.delta] < share
    assert broken <= 14  # of 150, more with a chance below 1 in 100 where it is one in twenty


@given(st.integers(0, 10**6), st.integers(1, 40))
def test_bounds_are_below_what_is_seen_and_all_to_the_target_keeps_all(seed: int, n: int) -> None:
    rng = random.Random(seed)
    problems = [Graded(rng.choice((0.2, 0.5, 0.9)), rng.random() < 0.7, rng.random() < 0.8) for _ in range(n)]
    problems.append(Graded(0.5, True, True))
    curve = kept(problems, [0.0, 0.5, 1.0], resamples=50)
    target = sum(problem.target_right for problem in problems)
    drafter = sum(problem.draft_right for problem in problems)
    assert curve[0].expected == pytest.approx(drafter / target)  # the regression keeps the mean
    assert (curve[2].expected, curve[2].at_least) == (1, 1)
    assert curve == kept(problems, [0.0, 0.5, 1.0], resamples=50)


@given(st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=1, max_size=40))
def test_the_regression_is_scipys(answers: list[tuple[int, bool]]) -> None:
    ranked = sorted(answers, key=lambda answer: answer[0])
    levels = [float(level) for level, _ in ranked]
    mine = _isotonic(np.array([right for _, right in ranked], dtype=np.float64), levels)
    _, place, counts = np.unique(levels, return_inverse=True, return_counts=True)
    rights = np.bincount(place, [right for _, right in ranked])
    assert mine == pytest.approx(isotonic_regression(rights / counts, weights=counts).x[place])


@pytest.mark.parametrize("n", [20, 149])
def test_without_a_loss_the_bound_is_the_exact_one_of_a_proportion(n: int) -> None:
    """Clopper and Pearson's, one-sided: 0.05 ** (1 / n)."""
    (one,) = kept([Graded(0.9, True, True)] * n, [0.5], resamples=20_000)
    assert (
        one.at_least == pytest.approx(beta.ppf(0.05, n, 1), abs=0.2 / n) == pytest.approx(0.05 ** (1 / n), abs=0.2 / n)
    )


def test_the_first_threshold_that_fails_ends_the_search() -> None:
    curve = [Kept(0.9, 1.0, 1.0), Kept(0.7, 1.0, 0.97), Kept(0.5, 1.0, 0.99), Kept(0.8, 1.0, 0.985)]
    assert cheapest(curve, 0.98) == curve[3]
    assert cheapest(curve, 0.97) == curve[2]
    assert cheapest(curve[1:2], 0.98) is None


def test_steps_without_a_reward_go_where_the_settings_send_them() -> None:
    assert weakest((0.9, None, 0.4), replaced=True) == -float("inf")
    assert weakest((0.9, None, 0.4), replaced=False) == 0.4
    assert weakest((None,), replaced=False) == float("inf")


def recordings(n: int, *, draft_right: Any = True, target_right: Any = True) -> Calibration:
    """Wrong answers of the drafter have one reward below 0.3, right ones none below 0.6."""
    rng, problems = random.Random(3), []
    for i in range(n):
        right = draft_right and i % 4 > 0
        rewards = [rng.uniform(0.6, 1) for _ in range(5)] + [rng.uniform(0.6, 1) if right else rng.uniform(0, 0.3)]
        known = None if draft_right is None else right
        problems.append(Recorded(tuple(rewards), (0.8,) * 6, known, target_right, sizes=(10,) * 6, read=20))
    return Calibration(tuple(problems), RATES, RATES)


def test_the_cheapest_threshold_that_holds_is_found() -> None:
    held = recordings(200).holding(0.98)
    assert 0.2 <= held.delta <= 0.35
    assert held.expected == pytest.approx(1, abs=0.01)
    assert held.at_least >= 0.98
    assert recordings(200).holding(0.5).delta == 0


def test_if_none_holds_the_error_says_how_close_one_comes() -> None:
    """All rewards are the same, so a threshold takes all of the drafter's answers or none."""
    alike = [Recorded((0.5,), (0.5,), i % 4 > 0, True, sizes=(10,), read=20) for i in range(40)]
    found = Calibration(tuple(alike), RATES, RATES)
    assert found.holding(0.5).delta == 0
    words = r"keeps 98.0% .* on 40 problems .* δ = 0 is expected to keep 75.0%, and at least 6\d\.\d%\. Record more"
    with pytest.raises(RunError, match=words):
        found.holding(0.98)
    dear = Calibration(tuple(alike), Rates(100.0, 100.0, 1.0), RATES)
    with pytest.raises(RunError, match="is expected to cost less than the target alone on these 40 problems"):
        dear.holding(0.5)
    with pytest.raises(ConfigurationError, match="none of these 9 has one"):
        recordings(9, draft_right=None, target_right=None).holding(0.9)
    with pytest.raises(ConfigurationError, match="solves none of 9 problems"):
        recordings(9, target_right=False).holding(0.9)
    with pytest.raises(ConfigurationError, match=r"accuracy=1\.5"):
        recordings(9).holding(1.5)


@pytest.fixture
def questions(tmp_path: Path) -> str:
    file = tmp_path / "questions.jsonl"
    rows = [{"question": f"How many seats in hall {i}?", "answer": "10"} for i in range(40)]
    file.write_text("\n".join(json.dumps(row) for row in rows))
    return str(file)


@pytest.mark.parametrize(("accuracy", "lowest", "highest"), [(0.9, 0, 0), (0.98, 0.1, 0.95)])
def test_the_command_writes_the_threshold_that_holds(
    questions: str, tmp_path: Path, accuracy: float, lowest: float, highest: float
) -> None:
    """Forty right answers prove nine tenths. For more, the drafter's second step has to go, whose reward is 0.1."""
    out, figures = tmp_path / "policy.json", tmp_path / "figures.json"
    words = ["calibrate", "--task", f"dataset:{questions}", *SCRIPTED, "--all", "--accuracy", str(accuracy)]
    written = ["--out", str(out), "--json", str(figures)]
    shown = CliRunner().invoke(app, [*words, *written, "--target", "scripted,flops_per_token=1e3:target"])
    assert shown.exit_code == 0, shown.output
    policy = parse_policy(str(out))
    assert isinstance(policy, BinaryStep)
    assert lowest <= policy.delta <= highest
    data = json.loads(figures.read_text())
    (row,) = [one for one in data["kept"] if one["delta"] == policy.delta]
    assert row["at_least"] >= accuracy
    assert "at least" in " ".join(shown.output.split())
    out.unlink()
    refused = CliRunner().invoke(app, [*words, *written])  # with models that all cost the same
    assert refused.exit_code != 0
    assert "no threshold of" in f"{refused.output} {refused.exception}"
    assert not out.exists()
    assert json.loads(figures.read_text())["policy"] is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--accuracy", "98"], "--accuracy 98.0: must be a share of the target's accuracy, in (0, 1], such as 0.98"),
        (["--accuracy", "0.9", "--target-share", "0.1"], "give one of them"),
        (["--accuracy", "0.9", "--task", "QUESTIONS,answer="], "--accuracy needs problems with known answers"),
    ],
)
def test_an_impossible_accuracy_is_reported_before_anything_is_recorded(
    options: list[str], words: str, questions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    options = [option.replace("QUESTIONS", f"dataset:{questions}") for option in options]
    shown = CliRunner().invoke(app, ["calibrate", "--task", f"dataset:{questions}", *SCRIPTED, "--all", *options])
    assert shown.exit_code != 0
    assert words in " ".join(f"{shown.output} {shown.exception}".split())
