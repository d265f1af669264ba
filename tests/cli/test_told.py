"""What a command leaves out, replaces or ignores, it tells: options that have no effect are refused."""

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from rsd_core import Path as StepPath
from rsd_core import RSDConfig, RSDError, Step
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_integrations.cli.app import app, main
from rsd_integrations.cli.run import _know_no_system_prompt
from rsd_integrations.cli.serve import _served
from rsd_integrations.cli.speculation import _texts

SCRIPTED = ["--draft", "scripted:draft", "--target", "scripted:target", "--verifier", "scripted:verifier"]


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    made: dict[str, Any] = {
        "scripted:draft": ScriptedDrafter(["one\n\n", "\\boxed{1}"]),
        "scripted:verifier": ScriptedVerifier([0.9]),
        "scripted:target": ScriptedTarget(["x\n\n", "\\boxed{1}"]),
    }
    for place in ("rsd_core.methods.load", "rsd_integrations.cli.score.load"):
        monkeypatch.setattr(place, lambda spec, *_, **__: made[spec])
    return made


@pytest.fixture
def few(tmp_path: Path) -> str:
    return written(tmp_path / "few.jsonl", *({"question": f"q {i}", "answer": "1"} for i in range(3)))


def written(file: Path, *rows: object) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def gone_at_the_last(path: StepPath, _: Step) -> float:
    if "q 2" in path.prompt[-1].content:
        raise ConnectionError("gone")
    return 0.9


def rsd(*words: str) -> Result:
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "300"})


def test_commands_show_what_degrades_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("warnings.showwarning", warnings.showwarning)
    monkeypatch.setattr("sys.argv", ["rsd", "--version"])
    with pytest.raises(SystemExit):
        main()
    capsys.readouterr()
    ours, core = logging.getLogger("rsd_integrations.ray.pool"), logging.getLogger("rsd_core.calls")
    for died, why in ((3, "gone"), (2, "gone"), (1, "no memory"), *((1, RSDError(f"{n} MiB")) for n in (2, 3))):
        ours.warning("an actor died; its %d requests are repeated: %s", died, why)
    ours.info("a retry")
    core.warning("step %d: %s", 1, "drafter_error")  # summed up at the end
    core.error("an observer failed")
    assert capsys.readouterr().err.splitlines() == [
        "Warning: an actor died; its 3 requests are repeated: gone",
        "Warning: an actor died; its 1 requests are repeated: no memory",
        "Warning: an actor died; its 1 requests are repeated: 2 MiB",
        "Error: an observer failed",
    ]


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize(
    ("option", "told"), [("--threshold", "--policy binary_step:0.7"), ("--data", "name a file of problems with --task")]
)
def test_options_of_processbench_are_refused_elsewhere(few: str, option: str, told: str) -> None:
    shown = rsd("eval", "--task", few, "--all", "--methods", "target", option, "0.7", *SCRIPTED)
    assert isinstance(shown.exception, RSDError)
    assert f"{option} 0.7 is only for --task processbench; " in str(shown.exception)
    assert told in str(shown.exception)


@pytest.mark.usefixtures("models")
def test_processbench_refuses_what_would_have_no_effect(tmp_path: Path) -> None:
    words = ["eval", "--task", "processbench", "--data", written(tmp_path / "math.jsonl", LABELLED)]
    words += ["--verifier", "scripted:verifier"]
    further = ["--seed", "0", "--policy", "sigmoid", "--max-tokens", "5", "--draft", "scripted:draft"]
    shown = rsd(*words, *further)
    assert "--seed, --draft, --policy, --max-tokens are for the other tasks" in str(shown.exception)
    assert "--n 3 and --all contradict each other" in str(rsd(*words, "--n", "3", "--all").exception)
    assert rsd(*words, "--all", "--concurrency", "1").exit_code == 0


LABELLED = {"problem": "p", "steps": ["a", "b"], "label": 1}


def test_processbench_tells_how_many_steps_got_no_reward(models: dict[str, Any], tmp_path: Path) -> None:
    file, figures = written(tmp_path / "math.jsonl", LABELLED, LABELLED | {"label": -1}), tmp_path / "x.json"
    words = ["eval", "--task", "processbench", "--data", file, "--verifier", "scripted:verifier"]
    models["scripted:verifier"] = ScriptedVerifier(lambda _, step: None if step.text.startswith("a") else 0.1)
    shown = rsd(*words, "--json", str(figures))
    assert "Warning: 2 of 4 steps got no reward, and count as right" in shown.stderr
    split = json.loads(figures.read_text())["splits"]["math"]
    assert (split["steps"], split["steps_without_reward"]) == (4, 2)
    models["scripted:verifier"] = ScriptedVerifier([0.9])
    assert "no reward" not in rsd(*words).stderr


@pytest.mark.parametrize(("answer", "why"), [(None, "no answer is known"), ("1", "no threshold is expected to be")])
def test_calibrate_tells_that_it_could_not_choose_by_accuracy(
    models: dict[str, Any], tmp_path: Path, answer: str | None, why: str
) -> None:
    models["scripted:draft"] = ScriptedDrafter(["one\n\n", "\\boxed{2}"])  # wrong, but with good rewards
    rows = [{"question": f"q {i}", "answer": answer} for i in range(3)]
    task = f"dataset:{written(tmp_path / 'x.jsonl', *rows)}"
    models["scripted:verifier"] = ScriptedVerifier([1.0])
    shown = rsd("calibrate", "--task", task if answer else f"{task},answer=none", "--all", *SCRIPTED)
    assert f", the closest to a fifth of the steps by the target (0%): {why}" in shown.stdout
    models["scripted:draft"] = ScriptedDrafter(["one\n\n", "\\boxed{1}"])
    if answer:
        assert "fifth" not in rsd("calibrate", "--task", task, "--all", *SCRIPTED).stdout


def test_compare_tells_what_its_figures_do_not_show(models: dict[str, Any], few: str, tmp_path: Path) -> None:
    a, b = str(tmp_path / "a.csv"), str(tmp_path / "b.csv")
    words = ["eval", "--task", few, "--all", *SCRIPTED]
    assert rsd(*words, "--methods", "rsd;target", "--rows", a).exit_code == 0
    assert "Warning" not in rsd("compare", f"{a}@rsd", f"{a}@target").stderr
    (tmp_path / "x.yaml").write_text("settings: {on_verifier_error: raise}")
    models["scripted:verifier"] = ScriptedVerifier(gone_at_the_last)
    rsd(*words, "--methods", "rsd;draft", "--rows", b, "--config", str(tmp_path / "x.yaml"))
    shown = rsd("compare", a, b)
    assert shown.exit_code == 0
    assert shown.stderr.splitlines() == [
        f"Warning: only {a} has target, which is not compared",
        f"Warning: only {b} has draft, which is not compared",
        f"Warning: {b}, rsd: 1 of 3 answers failed and were graded as far as they were written",
    ]
    assert "only" not in rsd("compare", f"{a}@rsd", b).stderr  # as asked for


def test_compare_tells_which_answers_have_no_grade(tmp_path: Path) -> None:
    models = ["--draft", "embedded:draft", "--target", "embedded:draft"]
    file = written(tmp_path / "x.jsonl", {"question": "1 + 1?", "answer": "2"}, {"question": "2 + 2?", "answer": None})
    rows = str(tmp_path / "rows.jsonl")
    assert rsd("eval", "--task", file, "--all", "--methods", "draft;target", "--rows", rows, *models).exit_code == 0
    shown = rsd("compare", f"{rows}@draft", f"{rows}@target")
    assert f"Warning: {rows}, target: 1 of 2 answers have no grade and are left out" in shown.stderr


def test_a_batch_tells_that_failed_problems_were_kept(models: dict[str, Any], few: str, tmp_path: Path) -> None:
    settings = tmp_path / "x.yaml"
    settings.write_text("settings: {on_verifier_error: raise}")
    words = ["batch", few, "--out", str(tmp_path / "out.jsonl"), "--config", str(settings), *SCRIPTED]
    models["scripted:verifier"] = ScriptedVerifier(gone_at_the_last)
    rsd(*words)
    shown = rsd(*words, "--keep-failed")
    assert "3 found (1 of them failed), 0 done (0 of them degraded), 0 failed" in shown.stderr
    models["scripted:verifier"] = ScriptedVerifier([0.9])
    assert "2 found, 1 done" in rsd(*words).stderr


def test_the_system_prompt_is_decided_by_models_that_write() -> None:
    far = "openai:m@http://127.0.0.1:1/v1"
    for method, roles, none in (
        ("target", {"target": far}, False),
        ("draft", {"drafter": far}, False),
        ("rsd", {"target": far}, True),
        ("target", {"drafter": far}, True),
    ):
        config = RSDConfig.parse({**roles, **({} if method == "rsd" else {"method": method})})
        assert _know_no_system_prompt(config) == none, (method, roles)


def test_a_corpus_that_is_no_text_in_utf_8_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "corpus.txt"
    file.write_bytes("Größe".encode("latin-1"))
    with pytest.raises(RSDError, match=r"corpus\.txt is not a text in UTF-8 \(.*at byte 2\)"):
        list(_texts([file], "text"))
    file.write_text("Größe", encoding="utf-8-sig")
    assert list(_texts([file], "text")) == ["Größe"]


def test_two_numbers_of_requests_in_flight_are_refused(few: str, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    words = ["batch", few, "--out", str(tmp_path / "out.jsonl"), "--ray", "--actors", "count=1,concurrency=3"]
    told = str(rsd(*words, "--concurrency", "8", *SCRIPTED).exception)
    assert "--concurrency 8 and --actors count=1,concurrency=3 contradict each other" in told


@pytest.mark.usefixtures("models")
def test_eval_tells_that_the_method_of_a_configuration_is_not_used(few: str, tmp_path: Path) -> None:
    config = tmp_path / "x.yaml"
    config.write_text("method: target\n")
    shown = rsd("eval", "--task", few, "--all", "--methods", "draft", "--config", str(config), *SCRIPTED)
    assert f"the method in --config {config} is not used here; --methods names those to compare" in shown.stderr


NOTHING: dict[str, str | None] = dict.fromkeys(("draft", "target", "verifier", "policy"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--method", "target", "--policy", "sigmoid"], "the method 'target' does not use --policy: remove it"),
        (
            ["--method", "target", "--lookahead", "3", "--hedge", "0.5", "--verifier", "scripted:verifier"],
            "the method 'target' does not use --lookahead, --hedge: remove them",
        ),
        (["--method", "rsd@sigmoid", "--policy", "clipping"], "the method 'rsd@sigmoid' does not use --policy"),
        (["--method", "gsi:4", "--lookahead", "1"], "the method 'gsi' does not use --lookahead"),
        (["--method", "majority:4,temperature=1", "--temperature", "0.5"], "'majority' does not use --temperature"),
        (["--method", "first_steps:2", "--hedge", "0.5"], "the method 'first_steps' does not use --hedge"),
    ],
)
def test_options_that_the_method_does_not_use_are_refused(tmp_path: Path, words: list[str], told: str) -> None:
    prompts = written(tmp_path / "prompts.jsonl", "q")
    for command in (["run", "q"], ["batch", prompts, "--out", str(tmp_path / "out.jsonl")]):
        shown = rsd(*command, *words)
        assert isinstance(shown.exception, RSDError)
        assert told in str(shown.exception)
    if not {"--lookahead", "--hedge", "--temperature"} & set(words):
        with pytest.raises(RSDError, match="does not use"):
            _served(None, {**NOTHING, words[2].strip("-"): words[3]}, words[1])


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize(
    "words",
    [
        ["--method", "rsd", "--policy", "sigmoid", "--lookahead", "1", "--hedge", "0.5", *SCRIPTED],
        ["--method", "target", "--target", "scripted:target", "--temperature", "0", "--lookahead", "0"],
        ["--method", "draft", "--draft", "scripted:draft", "--lookahead", "1"],
    ],
)
def test_options_that_the_method_uses_are_taken(words: list[str]) -> None:
    assert rsd("run", "q", *words).exit_code == 0


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize(
    ("method", "unused"),
    [
        ("target", "--draft, --verifier"),
        ("draft", "--target, --verifier"),
        ("rsd:verifier=scripted:verifier", "--verifier"),
    ],
)
def test_models_may_stay_where_the_method_changes_and_are_told(method: str, unused: str) -> None:
    shown = rsd("run", "q", *SCRIPTED, "--method", method)
    assert shown.exit_code == 0
    assert f"Warning: the method {method.partition(':')[0]!r} does not use {unused}\n" in shown.stderr


@pytest.mark.usefixtures("models")
def test_fields_of_a_file_that_the_method_does_not_use_are_told(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("{target: scripted:target, policy: sigmoid, settings: {lookahead: 2}}")
    shown = rsd("run", "q", "--config", str(file), "--method", "target")
    assert shown.exit_code == 0
    assert f"Warning: the method 'target' does not use policy, lookahead in --config {file}" in shown.stderr
    file.write_text("models: {alone: {method: target, policy: sigmoid}, rsd: {policy: sigmoid}}")
    with pytest.MonkeyPatch.context() as patched:
        said: list[str] = []
        patched.setattr("rsd_integrations.cli.unused.say", lambda line, _: said.append(line))
        _served(file, NOTHING, None)
    assert said == [f"Warning: the method 'target' does not use policy in --config {file}: models.alone"]


@pytest.mark.usefixtures("models")
def test_eval_refuses_options_that_none_of_the_methods_uses(few: str) -> None:
    words = ["eval", "--task", few, "--all", *SCRIPTED, "--policy", "sigmoid", "--hedge", "0.5", "--methods"]
    shown = rsd(*words, "target;rsd@clipping;draft")
    assert str(shown.exception).startswith("none of the methods uses --policy: remove it")
    assert "--policy, --hedge: remove them" in str(rsd(*words, "target;draft").exception)
    assert rsd(*words, "target;rsd").exit_code == 0


def test_options_without_effect_are_refused_by_other_commands(tmp_path: Path) -> None:
    merge = ["merge", "a", "b", str(tmp_path / "out")]
    assert "--density 0.3 only applies to --method ties" in str(rsd(*merge, "--density", "0.3").exception)
    assert "--base x only applies to --method ties" in str(rsd(*merge, "--base", "x").exception)
    distil = ["distill-exits", "embedded:prm", str(tmp_path / "x.safetensors"), "--data", "x.jsonl", "--n", "5"]
    assert "--n 5 only applies without --data" in str(rsd(*distil).exception)
    for option, value in (("--dtype", "float32"), ("--device", "cpu")):
        told = str(rsd("plan", "gguf:x.gguf", option, value).exception)
        assert f"{option} {value} only applies to checkpoints" in told


def test_whole_thoughts_are_not_asked_for_twice() -> None:
    assert "--thoughts has no effect with --json" in str(rsd("run", "q", "--json", "--thoughts").exception)


@pytest.mark.usefixtures("models")
def test_a_splitter_of_steps_is_refused(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"problem": "p", "steps": ["a"]}, {"problem": "p", "solution": "a"}]
    words = ["--verifier", "scripted:verifier", "--splitter", "line"]
    told = rsd("score", written(tmp_path / "a.jsonl", rows[0]), *words)
    assert str(told.exception).startswith("--splitter line cuts a `solution`, and all entries of")
    assert rsd("score", written(tmp_path / "b.jsonl", *rows), *words).exit_code == 0


def test_processbench_is_no_success_if_some_solutions_were_not_scored(models: dict[str, Any], tmp_path: Path) -> None:
    rows = [LABELLED, LABELLED | {"problem": "q 2"}]
    words = ["eval", "--task", "processbench", "--data", written(tmp_path / "math.jsonl", *rows)]
    models["scripted:verifier"] = ScriptedVerifier(gone_at_the_last)
    shown = rsd(*words, "--verifier", "scripted:verifier")
    assert isinstance(shown.exception, RSDError)
    assert str(shown.exception) == "1 of 2 solutions could not be scored, and count as failures"
    assert "gone" in shown.stderr


def test_a_file_without_corrections_is_told(tmp_path: Path) -> None:
    out = tmp_path / "x.json"
    words = ["corrections", "--draft", "embedded:draft", "--target", "embedded:draft", "--n", "1", "--out", str(out)]
    shown = rsd(*words)
    assert "Warning: the target replaced no token" in shown.stderr
    assert "0 pairs" in shown.stdout


def test_a_verifier_that_always_abstains_is_told(models: dict[str, Any], few: str, tmp_path: Path) -> None:
    models["scripted:verifier"] = ScriptedVerifier([None])
    journal = ["--journal", str(tmp_path / "journal.jsonl")]
    prompts = written(tmp_path / "prompts.jsonl", "q", "r")
    told = "the verifier abstained on every step that it was given (%d), so rewards decided nothing"
    for words, steps in (
        (["run", "q"], 2),
        (["batch", prompts, "--out", str(tmp_path / "out.jsonl")], 4),
        (["eval", "--task", few, "--all", "--methods", "rsd;target", *journal], 6),
        (["eval", "--task", few, "--all", "--methods", "rsd;target", *journal], 6),
    ):
        shown = rsd(*words, *SCRIPTED)
        assert shown.exit_code == 0
        lines = [line for line in shown.stderr.splitlines() if "abstained" in line]
        assert lines == ["Warning: " + "rsd: " * (words[0] == "eval") + told % steps]
    models["scripted:verifier"] = ScriptedVerifier([None, 0.9])
    assert "abstained" not in rsd("run", "q", *SCRIPTED).stderr
