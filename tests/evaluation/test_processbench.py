"""ProcessBench on a small file of known outcome, and the scoring of given solutions."""

import json
from pathlib import Path as Folder

import pytest
from typer.testing import CliRunner

from rsd_core import ConfigurationError, RSDError, RunError
from rsd_core.blocking import wait_for
from rsd_core.testing import ScriptedVerifier
from rsd_integrations.cli.app import app
from rsd_integrations.evaluation.processbench import evaluate_processbench, read_splits
from rsd_integrations.evaluation.scoring import read_solutions

QUESTION = "Mia has 45 apples. On Monday she buys 12 more. How many apples does Mia have now?"


def rsd(*words: str) -> str:
    result = CliRunner().invoke(app, words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def entry(steps: list[str], label: object) -> dict[str, object]:
    return {"id": "x", "problem": "p", "steps": steps, "label": label, "final_answer_correct": label == -1}


def write(folder: Folder, **splits: list[dict[str, object]]) -> Folder:
    for name, rows in splits.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


# A step's text is its reward. With errors: found, named too early, named too late, missed. Without: 2 of 3 left alone.
GSM8K = [
    entry(["0.9", "0.2", "0.1"], 1),
    entry(["0.3", "0.2", "0.9"], 1),
    entry(["0.9", "0.8", "0.1"], 1),
    entry(["0.9", "0.9"], 0),
    entry(["0.9", "0.7"], -1),
    entry(["0.5"], -1),
    entry(["0.9", "0.1"], -1),
]
MATH = [entry(["0.1"], 0), entry(["0.9"], -1)]


def by_text() -> ScriptedVerifier:
    return ScriptedVerifier(lambda _path, step: None if step.text.strip() == "?" else float(step.text))


def test_f1_is_the_harmonic_mean_of_both_accuracies(tmp_path: Folder) -> None:
    splits = read_splits(write(tmp_path, gsm8k=GSM8K, math=MATH))
    report = wait_for(evaluate_processbench(by_text(), splits, 0.5))
    first, second = report.splits
    assert (first.wrong, first.right) == (4, 3)
    assert first.error_accuracy == pytest.approx(1 / 4)
    assert first.correct_accuracy == pytest.approx(2 / 3)
    assert first.f1 == pytest.approx(2 * (1 / 4) * (2 / 3) / (1 / 4 + 2 / 3))
    assert second.f1 == 1
    assert report.average == pytest.approx((first.f1 + 1) / 2)


def test_the_threshold_may_be_chosen_on_gsm8k(tmp_path: Folder) -> None:
    splits = read_splits(write(tmp_path, gsm8k=[entry(["0.6", "0.4"], 0), entry(["0.8"], -1)], math=MATH))
    assert wait_for(evaluate_processbench(by_text(), splits, 0.5)).splits[0].f1 == 0
    report = wait_for(evaluate_processbench(by_text(), splits, None))
    assert 0.6 < report.threshold <= 0.8
    assert report.splits[0].f1 == 1
    assert report.chosen_on == "gsm8k"
    with pytest.raises(ConfigurationError, match="gsm8k"):
        wait_for(evaluate_processbench(by_text(), {"math": splits["math"]}, None))
    with pytest.raises(ConfigurationError, match=r"threshold=7"):
        wait_for(evaluate_processbench(by_text(), splits, 7))


def test_a_step_without_a_reward_is_not_named(tmp_path: Folder) -> None:
    splits = read_splits(write(tmp_path, math=[entry(["?", "0.1"], 1), entry(["?"], -1)]))
    assert wait_for(evaluate_processbench(by_text(), splits, 0.5)).average == 1


def test_what_cannot_be_scored_is_not_solved_and_is_reported(tmp_path: Folder) -> None:
    splits = read_splits(write(tmp_path, math=[*MATH, entry(["0.9"], -1)]))
    said: list[float | Exception | None] = [0.1, 0.9, RSDError("too long")]
    calls = iter(said)
    report = wait_for(evaluate_processbench(ScriptedVerifier(lambda _path, _step: next(calls)), splits, 0.5))
    assert report.splits[0].failed == 1
    assert report.splits[0].correct_accuracy == 0.5
    assert report.errors == ("too long",)


def test_a_verifier_that_fails_at_every_solution_has_no_score(tmp_path: Folder) -> None:
    splits = read_splits(write(tmp_path, gsm8k=GSM8K, math=MATH))
    broken = ScriptedVerifier([RuntimeError("401 no such key")])
    with pytest.raises(RunError, match=r"no solution could be scored: .* failed at all 9, .*RuntimeError: 401 no such"):
        wait_for(evaluate_processbench(broken, splits, 0.5))


def test_the_command_prints_what_the_authors_would(tmp_path: Folder) -> None:
    right = [f"On Monday she buys 12 more: {sum_}." for sum_ in ("45+12=57", "45+12=58")]
    rows = [
        {"problem": QUESTION, "steps": [right[0], "The answer is \\boxed{57}."], "label": -1},
        {"problem": QUESTION, "steps": [right[1], "The answer is \\boxed{58}."], "label": 0},
        {"problem": QUESTION, "steps": ["Hm.", "So 1+1=3."], "label": 1},
        {"problem": QUESTION, "steps": ["So 1+1=3."], "label": -1},
    ]
    (tmp_path / "gsm8k.json").write_text(json.dumps(rows))
    out = tmp_path / "out.json"
    shown = rsd(
        *("eval", "--task", "processbench", "--data", str(tmp_path / "gsm8k.json")),
        *("--verifier", "rule:arithmetic", "--json", str(out)),
    )
    assert "66.7" in shown
    told = json.loads(out.read_text())
    assert told["average_f1"] == pytest.approx(2 / 3)
    assert told["splits"]["gsm8k"]["error_accuracy"] == 1
    assert told["splits"]["gsm8k"]["correct_accuracy"] == 0.5


@pytest.mark.parametrize("label", [None, 2, -2, "1"])
def test_labels_that_are_not_steps_are_refused(tmp_path: Folder, label: object) -> None:
    with pytest.raises(ConfigurationError, match="entry 1: label"):
        read_splits(write(tmp_path, math=[entry(["0.1", "0.2"], label)]))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"problem": "p"}', "line 1: it has neither"),
        ('{"solution": "s"}', "line 1: it has no `problem`, but `solution`"),
        ('{"problem": "p", "step": ["a"]}', "line 1: it has neither `steps` nor a `solution`, but `problem`, `step`"),
        ('"problem"', "line 1: it is not a problem with a solution"),
        ('[{"problem": "p", "steps": ["a"]}, {"problem": "p"}]', "entry 2: it has neither"),
        ('{"problem": "p", "steps": ["a", " "]}', "none of them blank"),
        ('{"problem": "", "solution": "s"}', "line 1: .* empty"),
        ("{", "Expecting"),
        ("", "empty"),
        ("3", "line 1: it is not a problem with a solution"),
    ],
)
def test_wrong_files_are_reported(tmp_path: Folder, line: str, told: str) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text(line)
    with pytest.raises(ConfigurationError, match=told):
        read_solutions(file)


def test_processbench_needs_its_data() -> None:
    with pytest.raises(RSDError, match="--data"):
        rsd("eval", "--task", "processbench")
    with pytest.raises(RSDError, match="--methods, --plot are for the other tasks"):
        rsd("eval", "--task", "processbench", "--data", "x.json", "--methods", "rsd", "--plot", "x.png")


# -- rsd score ------------------------------------------------------------------------------------------------------


@pytest.fixture
def solutions(tmp_path: Folder) -> Folder:
    file = tmp_path / "solutions.jsonl"
    rows: list[dict[str, object]] = [
        {
            "id": 7,
            "problem": QUESTION,
            "solution": "On Monday she buys 12 more: 45+12=57.\n\nThe answer is \\boxed{57}.",
        },
        {"question": [{"role": "user", "content": QUESTION}], "steps": ["On Monday she buys 12 more: 45+12=58."]},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_score_prints_rewards_and_aggregates(solutions: Folder) -> None:
    told = [json.loads(line) for line in rsd("score", str(solutions), "--json").splitlines()]
    assert told[0]["id"] == 7
    assert [len(one["rewards"]) for one in told] == [2, 1]
    first = told[0]["rewards"]
    assert told[0]["aggregates"]["product"] == pytest.approx(first[0] * first[1])
    assert told[0]["aggregates"]["last"] == first[1]
    assert first[0] > told[1]["rewards"][0]
    shown = rsd("score", str(solutions))
    assert f"{first[0]:.4f}" in shown


def test_score_explains_text_and_positions(solutions: Folder) -> None:
    lines = rsd("score", str(solutions), "--verifier", "embedded:prm", "--json", "--explain").splitlines()
    explained = json.loads(lines[0])["explained"]
    assert explained[1]["text"].count("<extra_0>") == 2
    (at,) = explained[1]["read"]
    assert explained[1]["tokens"][at][1] == "<extra_0>"
    assert explained[1]["text"].startswith("<|im_start|>user\nMia has 45 apples.")
    shown = rsd("score", str(solutions), "--verifier", "embedded:prm", "--explain")
    assert "<extra_0>" in shown
    assert f"at position {at} of {len(explained[1]['tokens'])}" in " ".join(shown.split())
    likelihood = rsd("score", str(solutions), "--verifier", "embedded:verifier", "--json", "--explain").splitlines()
    first = json.loads(likelihood[0])["explained"][0]
    assert [name for _, name in first["tokens"]][first["read"][-1] + 1] == ".ĊĊ"


def test_score_goes_on_after_a_solution_that_cannot_be_scored(solutions: Folder) -> None:
    row = {"problem": QUESTION, "steps": ["apples " * 600]}
    solutions.write_text(json.dumps(row) + "\n" + solutions.read_text())
    result = CliRunner().invoke(app, ["score", str(solutions), "--verifier", "embedded:prm", "--json"])
    assert isinstance(result.exception, RSDError)
    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert "context" in told[0]["error"]
    assert told[1]["rewards"] is not None


def test_score_refuses_invalid_verifiers(solutions: Folder) -> None:
    with pytest.raises(RSDError, match="judge:embedded:draft"):
        rsd("score", str(solutions), "--verifier", "embedded:draft")
    with pytest.raises(RSDError, match="names no model"):
        rsd("score", str(solutions), "--verifier", "nothing")


def test_models_as_json_tell_formats() -> None:
    told = json.loads(rsd("models", "--json"))
    formats = told["prm_formats"]
    assert set(formats["math-shepherd"]) >= {"models", "separator", "read_position", "threshold"}
    assert formats["skywork-prm"]["separator"] == "\n"
    assert {"launch/ThinkPRM-1.5B"} <= set(told["critics"]["thinkprm"]["models"])
    listed = [model for one in formats.values() for model in one["models"]]
    assert len(listed) == len(set(listed)) == len({model.rpartition("/")[2].lower() for model in listed})
