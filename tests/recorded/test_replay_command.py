"""`rsd eval --record` and `--replay`, and the record that ships."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rsd_core import Path as StepPath
from rsd_core import RSDConfig, RSDError, Step, load
from rsd_core.testing import ScriptedVerifier
from rsd_integrations.cli.app import app
from rsd_integrations.evaluation import Evaluation, evaluate
from rsd_integrations.recorded import RECORDED_RUNS, MissingCallError, Replay
from tests.recorded.test_recorded import figures

SCRIPTED = ["--draft", "scripted:draft", "--target", "scripted:target", "--verifier", "scripted:verifier"]


def rsd(*words: str) -> str:
    result = CliRunner().invoke(app, words, env={"COLUMNS": "80"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def told(file: Path) -> Any:
    data = json.loads(file.read_text())
    data.pop("replayed", None)
    del data["totals"]["seconds"]
    return data


@pytest.fixture
def problems(tmp_path: Path) -> str:
    file = tmp_path / "problems.jsonl"
    file.write_text("".join(json.dumps({"question": f"Hall {i}?", "answer": "10"}) + "\n" for i in range(6)))
    return f"dataset:{file},system="


def test_a_replay_repeats_what_was_recorded_unless_told_otherwise(
    problems: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, live, again = (tmp_path / name for name in ("run.jsonl.gz", "live.json", "again.json"))
    words = ["--task", problems, "--all", "--seed", "5", "--seeds", "2", "--policy", "constant:0.5", *SCRIPTED]
    shown = rsd("eval", *words, "--methods", "rsd;target", "--record", str(record), "--json", str(live))
    assert f"written to {record}" in " ".join(shown.split())

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("rsd_core.methods.load", never)
    monkeypatch.setattr("rsd_integrations.recorded.recorder.load", never)
    shown = rsd("eval", "--replay", str(record), "--json", str(again), "--rows", str(tmp_path / "rows.csv"))
    assert max(map(len, shown.partition("written to")[0].splitlines())) <= 80
    assert "Replayed from" in shown
    without = [{k: v for k, v in told(file).items() if k not in ("methods", "problems")} for file in (live, again)]
    assert without[0] == without[1]
    accuracy = [{name: m["accuracy"] for name, m in told(file)["methods"].items()} for file in (live, again)]
    assert accuracy[0] == accuracy[1]
    assert len(Evaluation.load(tmp_path / "rows.csv").rows) == 2 * 2 * 6
    rsd("eval", "--replay", str(record), "--policy", "always_target", "--methods", "rsd", "--json", str(again))
    assert told(again)["methods"]["rsd"]["target_share"] == 1  # of calls that `target` made
    with pytest.raises(MissingCallError, match="generate of the drafter scripted:draft"):
        rsd("eval", "--replay", str(record), "--methods", "rsd", "--temperature", "0.5")


def test_the_tasks_of_a_recipe_are_recorded_into_one_file(problems: str, tmp_path: Path) -> None:
    recipe, record, figures_file = tmp_path / "mine.yaml", tmp_path / "run.jsonl.gz", tmp_path / "x.json"
    recipe.write_text(
        "about: two tasks\nconfig: {drafter: scripted:draft, verifier: scripted:verifier, target: scripted:target}\n"
        f"tasks: ['{problems}', embedded]\nmethods: [rsd]\nn: 2\n"
    )
    rsd("eval", "--recipe", str(recipe), "--record", str(record))
    rsd("eval", "--recipe", str(recipe), "--methods", "draft", "--record", str(record))
    rsd("eval", "--replay", str(record), "--json", str(figures_file))
    first, second = json.loads(figures_file.read_text())
    assert (first["task"], second["task"]) == (problems, "embedded")
    assert [list(one["methods"]) for one in (first, second)] == [["rsd", "draft"]] * 2
    rsd("eval", "--replay", str(record), "--task", "embedded", "--json", str(figures_file))
    assert json.loads(figures_file.read_text())["task"] == "embedded"


def test_options_without_a_meaning_in_a_replay_are_refused(tmp_path: Path) -> None:
    for option in ("--journal", "--record", "--recipe"):
        with pytest.raises(RSDError, match=f"--replay asks no model; remove {option}"):
            rsd("eval", "--replay", "embedded", option, str(tmp_path / "x"))
    with pytest.raises(RSDError, match="--record, --seeds are for the other tasks"):
        rsd("eval", "--task", "processbench", "--record", "x", "--seeds", "2")


def test_a_replay_of_failed_answers_names_no_journal_which_it_does_not_take(
    problems: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def score(path: StepPath, _: Step) -> float:
        if "Hall 3" in path.prompt[-1].content:
            raise ConnectionError("gone")
        return 0.9

    def loaded(spec: str, *more: Any) -> Any:
        return ScriptedVerifier(score) if spec == "scripted:verifier" else load(spec, *more)

    monkeypatch.setattr("rsd_integrations.recorded.recorder.load", loaded)
    settings, record = tmp_path / "rsd.yaml", str(tmp_path / "run.jsonl.gz")
    settings.write_text("settings: {on_verifier_error: raise}")
    words = ["--config", str(settings), "--task", problems, "--all", "--methods", "rsd", *SCRIPTED]
    with pytest.raises(RSDError, match=r"1 of 6 answers failed .*with --journal FILE"):
        rsd("eval", *words, "--record", record)
    with pytest.raises(RSDError, match=r"1 of 6 answers failed .*: record the run anew$"):
        rsd("eval", "--replay", record)


def apart(figures: Any) -> tuple[Any, list[float]]:
    """Figures without their rewards, and the rewards."""
    outcomes = [outcome for problem in figures["problems"] for outcome in problem["methods"].values()]
    return figures, [reward for outcome in outcomes for reward in outcome.pop("rewards")]


def test_the_record_that_ships_is_of_the_models_that_ship() -> None:
    """The first problems live, in today's engine, give the recorded answers, rewards and FLOPs."""
    assert "embedded" in RECORDED_RUNS
    replay = Replay("embedded")
    (run,) = replay.record.runs
    methods = [method for method in run["methods"] if not method.startswith(("majority", "best_of_n"))]
    live = evaluate(RSDConfig(), run["task"], methods, 2, run["seed"])
    replayed = evaluate(RSDConfig(), run["task"], methods, 2, run["seed"], replay=replay)
    (recorded, recorded_rewards), (own, rewards) = (apart(figures(report)) for report in (replayed, live))
    assert recorded == own
    assert rewards == pytest.approx(recorded_rewards, abs=1e-5)  # processors round in different ways
    assert run["n"] == 200
    whole = evaluate(RSDConfig(), run["task"], run["methods"], run["n"], run["seed"], replay=Replay("embedded"))
    assert whole.methods["target"].accuracy == pytest.approx(0.98, abs=0.03)
    assert whole.methods["draft"].accuracy < whole.methods["rsd@binary_step:0.9"].accuracy  # type: ignore[operator]


def test_a_recorded_task_that_is_in_another_folder_is_to_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.csv").write_text("question,answer\nHow many seats?,10\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    rsd("eval", "--task", "mine.csv", "--all", *SCRIPTED, "--methods", "draft", "--record", "run.jsonl.gz")
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(RSDError, match=r"the recorded task 'mine.csv' is not here: .* or name it with --task"):
        rsd("eval", "--replay", "../run.jsonl.gz")
    assert "draft" in rsd("eval", "--replay", "../run.jsonl.gz", "--task", "../mine.csv")
