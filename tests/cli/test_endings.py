"""How commands end: Ctrl-C says how to continue, a role that never works is an error, contradictions are refused."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rsd_core import Path as StepPath
from rsd_core import RSDError, Step, VerifierError
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_integrations.batch import read_results, read_rows
from rsd_integrations.cli.app import app
from rsd_integrations.cli.options import read_mapping

SCRIPTED = ["--draft", "scripted:draft", "--target", "scripted:target", "--verifier", "scripted:verifier"]
SLOW = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background jobs ignore Ctrl-C
import rsd_core.methods
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
import rsd_integrations.cli.score

log = open(sys.argv.pop(1), "a", buffering=1)

class Logged(ScriptedVerifier):
    async def score(self, path, candidates):
        scores = await super().score(path, candidates)
        log.write("scored\\n")
        return scores

models = {
    "scripted:draft": ScriptedDrafter(["one\\n\\n", "two"]),
    "scripted:verifier": Logged([0.9], delay=0.05),
    "scripted:target": ScriptedTarget(["x\\n\\n", "y"]),
}
load = lambda spec, *_, **__: models[spec]
rsd_core.methods.load = rsd_integrations.cli.score.load = load
from rsd_integrations.cli import main
main()
"""


def interrupted(
    tmp_path: Path, *words: str, rows: Path | None = None, by: signal.Signals = signal.SIGINT
) -> subprocess.CompletedProcess[str]:
    """A command with slow models, and Ctrl-C once it has worked for a while, or has written some rows."""
    log = tmp_path / "log"
    watched = rows or log
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "1000"}
    command = [sys.executable, "-c", SLOW, str(log), *words]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True, env=env) as process:
        deadline = time.monotonic() + 120
        while not watched.exists() or watched.read_text().count("\n") < 6:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(by)
        out, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    return subprocess.CompletedProcess(command, process.returncode, out, err)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.jsonl"
    rows = [{"prompt": f"q {i}", "question": f"q {i}", "answer": "1", "steps": ["a", "b"]} for i in range(200)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.mark.parametrize(
    ("by", "code", "word"), [(signal.SIGINT, 130, "Interrupted"), (signal.SIGTERM, 143, "Terminated")]
)
def test_a_batch_that_is_ended_says_how_to_go_on(
    tmp_path: Path, prompts: Path, by: signal.Signals, code: int, word: str
) -> None:
    out = tmp_path / "out.jsonl"
    done = interrupted(tmp_path, "batch", str(prompts), "--out", str(out), "--concurrency", "2", *SCRIPTED, by=by)
    rows = len(read_rows(out)) - 1
    assert done.returncode == code
    assert f"{word}. {rows} of 200 problems are in {out}; the same command continues from there" in done.stderr
    assert 0 < rows < 200
    assert not list(tmp_path.glob(".*"))  # and no lock remains


def test_an_interrupted_evaluation_says_how_to_go_on(tmp_path: Path, prompts: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    words = ["eval", "--task", str(prompts), "--all", "--methods", "rsd", "--concurrency", "2", *SCRIPTED]
    done = interrupted(tmp_path, *words, "--journal", str(journal), rows=journal)
    rows = len(read_rows(journal)) - 1
    assert done.returncode == 130
    assert f"Interrupted. {rows} answers are in {journal}; the same command continues from there" in done.stderr
    (tmp_path / "log").unlink()
    done = interrupted(tmp_path, *words)
    assert done.returncode == 130
    assert "answers are lost; with --journal FILE, the same command would continue from them" in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["calibrate", "--all", "--concurrency", "1", *SCRIPTED, "--task"],
            "problems are lost, and nothing is written; run again",
        ),
        (
            ["score", "--json", "--verifier", "scripted:verifier"],
            "{here} of 200 solutions are printed; to continue, give the others, from entry {next} of {file}",
        ),
    ],
)
def test_other_interrupted_commands_end_cleanly(tmp_path: Path, prompts: Path, words: list[str], told: str) -> None:
    done = interrupted(tmp_path, *words, str(prompts))
    assert done.returncode == 130
    printed = [json.loads(line) for line in done.stdout.splitlines()]
    assert told.format(here=len(printed), next=len(printed) + 1, file=prompts) in " ".join(done.stderr.split())


# -- roles that never work ------------------------------------------------------------------------------------------


class Broken:
    """The models of the command, one of which fails at every call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.models: dict[str, Any] = {
            "scripted:draft": ScriptedDrafter(["one\n\n", "\\boxed{1}"]),
            "scripted:verifier": ScriptedVerifier([0.9]),
            "scripted:target": ScriptedTarget(["x\n\n", "\\boxed{1}"]),
        }
        for place in ("rsd_core.methods.load", "rsd_integrations.cli.score.load"):
            monkeypatch.setattr(place, lambda spec, *_, **__: self.models[spec])

    def kill(self, role: str) -> None:
        kind: Any = {"draft": ScriptedDrafter, "verifier": ScriptedVerifier}[role]
        self.models[f"scripted:{role}"] = kind([ConnectionError("401 no key")])


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Broken:
    return Broken(monkeypatch)


@pytest.fixture
def few(tmp_path: Path) -> str:
    file = tmp_path / "few.jsonl"
    rows = [{"prompt": f"q {i}", "question": f"q {i}", "answer": "1", "steps": ["a", "b"]} for i in range(3)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.mark.filterwarnings("ignore::rsd_core.RoleWarning")
@pytest.mark.parametrize(("role", "name", "calls"), [("draft", "drafter", 6), ("verifier", "verifier", 6)])
def test_a_role_that_never_works_is_an_error_of_run_batch_and_eval(
    broken: Broken, few: str, tmp_path: Path, role: str, name: str, calls: int
) -> None:
    broken.kill(role)
    told = f"the {name} failed at every one of its %d calls, the last time with 'ConnectionError: 401 no key'. Fix"
    shown = CliRunner().invoke(app, ["run", "q", *SCRIPTED, "--json"])
    assert (shown.exit_code, json.loads(shown.stdout)["answer"]) == (1, "1")
    assert "Error: " + told % (calls / 3) in shown.stderr

    out = tmp_path / "out.jsonl"
    words = ["batch", few, "--out", str(out), *SCRIPTED]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 1
    assert told % calls in shown.stderr
    journal, figures = tmp_path / "journal.jsonl", tmp_path / "x.json"
    task = ["eval", "--task", few, "--all", "--methods", "rsd", *SCRIPTED]
    task += ["--journal", str(journal), "--json", str(figures)]
    shown = CliRunner().invoke(app, task)
    assert shown.exit_code == 1
    assert f"Error: rsd: {told % calls}"[:80] in shown.stderr
    method = json.loads(figures.read_text())["methods"]["rsd"]
    assert (method["errors"], method["degraded"], method["faults"][f"{name}_error"]["count"]) == (0, 3, calls)

    broken.__init__(pytest.MonkeyPatch())  # type: ignore[misc]  # fixed: the same commands solve everything again
    shown = CliRunner().invoke(app, words)
    assert (shown.exit_code, "0 found, 3 done (0 of them degraded)" in shown.stderr) == (0, True)
    assert not any(result.degradations for result in read_results(out).values())
    shown = CliRunner().invoke(app, task)
    assert shown.exit_code == 0, shown.output
    assert json.loads(figures.read_text())["methods"]["rsd"]["degraded"] == 0


@pytest.mark.filterwarnings("ignore::rsd_core.RoleWarning")
def test_a_verifier_that_never_works_is_an_error_of_score_and_calibrate(
    broken: Broken, few: str, tmp_path: Path
) -> None:
    broken.kill("verifier")
    broken.models["scripted:verifier"] = ScriptedVerifier([VerifierError("401 no key")])
    shown = CliRunner().invoke(app, ["score", few, "--verifier", "scripted:verifier", "--json"])
    assert shown.exit_code == 1
    assert "Error: the verifier failed at every one of its 3 calls, the last time with '401 no key'" in shown.stderr
    policy = tmp_path / "policy.json"
    shown = CliRunner().invoke(app, ["calibrate", "--task", few, "--all", *SCRIPTED, "--out", str(policy)])
    assert isinstance(shown.exception, RSDError)
    assert "401 no key" in str(shown.exception)
    assert not policy.exists()


def test_a_role_that_worked_once_does_not_count_as_never_working(broken: Broken, few: str, tmp_path: Path) -> None:
    broken.models["scripted:verifier"] = ScriptedVerifier([ConnectionError("a moment"), 0.9])
    shown = CliRunner().invoke(app, ["batch", few, "--out", str(tmp_path / "out.jsonl"), *SCRIPTED])
    assert shown.exit_code == 0, shown.output
    assert "3 done (3 of them degraded)" in shown.stderr
    shown = CliRunner().invoke(app, ["eval", "--task", few, "--all", "--methods", "rsd", *SCRIPTED])
    assert shown.exit_code == 0
    told = "Warning: rsd: the verifier failed 3 times in 3 of 3 answers, most recently with 'ConnectionError: a moment'"
    assert told in shown.stderr  # since the figures are those of answers that the target helped out


def test_an_evaluation_in_which_answers_failed_is_no_success(broken: Broken, few: str, tmp_path: Path) -> None:
    def score(path: StepPath, _: Step) -> float:
        if "q 2" in path.prompt[-1].content:
            raise ConnectionError("gone")
        return 0.9

    broken.models["scripted:verifier"] = ScriptedVerifier(score)
    settings = tmp_path / "rsd.yaml"
    settings.write_text("settings: {on_verifier_error: raise}")
    figures, journal = tmp_path / "x.json", tmp_path / "journal.jsonl"
    words = ["eval", "--config", str(settings), "--task", few, "--all", "--methods", "rsd", *SCRIPTED]
    shown = CliRunner().invoke(app, [*words, "--json", str(figures)])
    assert isinstance(shown.exception, RSDError)  # exit code 2
    assert "1 of 3 answers failed and were graded as far as they were written" in str(shown.exception)
    assert "with --journal FILE, only they are retried" in str(shown.exception)
    assert "Warning: rsd: the request failed 1 time in 1 of 3 answers" in shown.stderr
    assert json.loads(figures.read_text())["methods"]["rsd"]["errors"] == 1

    shown = CliRunner().invoke(app, [*words, "--journal", str(journal)])
    assert "the same command retries them" in str(shown.exception)
    broken.models["scripted:verifier"] = ScriptedVerifier([0.9])
    assert CliRunner().invoke(app, [*words, "--journal", str(journal)]).exit_code == 0


# -- words that cannot be meant -------------------------------------------------------------------------------------


def test_contradictions_are_refused(few: str) -> None:
    for command in ("eval", "calibrate"):
        result = CliRunner().invoke(app, [command, "--task", few, "--n", "3", "--all", *SCRIPTED])
        assert "--n 3 and --all contradict each other" in str(result.exception)


def test_the_version_is_reported() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"rsd-decoding {version('rsd-decoding')}\n")


def test_help_tells_what_a_task_may_be() -> None:
    for command in ("eval", "calibrate"):
        shown = " ".join(CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "300"}).output.split())
        assert "--task" in shown
        assert "One of embedded, embedded-dev, gsm8k" in shown


@pytest.mark.parametrize(
    ("text", "words", "told"),
    [
        ("settings: {temprature: 1}\n", [], ["--config", "config.yaml", "settings", "temprature", "temperature"]),
        ("polcy: sigmoid\n", [], ["config.yaml", "polcy", "'policy'", "known are drafter, verifier, target"]),
        ("policy: {kind: binary_stp}\n", [], ["config.yaml", "binary_stp", "'binary_step'"]),
        ("a: [1\nb: 2\n", [], ["config.yaml, line 2, is not YAML"]),
        ("- 1\n", [], ["must be a mapping of fields, but is list"]),
        ("drafter: scripted:draft\n", ["--temperature", "-1"], ["invalid configuration: settings.temperature"]),
    ],
)
def test_a_bad_configuration_is_reported_with_its_place(
    text: str, words: list[str], told: list[str], tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(text)
    error = str(CliRunner().invoke(app, ["run", "q", "--config", str(config), *words]).exception)
    assert all(word in error for word in told), error
    assert "\n" not in error
    assert (str(config) in error) == (not words)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("abuot: x\n", ["abuot", "'about'", "known are about, config, tasks, methods, n"]),
        (
            "about: x\nconfig: {settings: {temprature: 1}}\ntasks: [embedded]\nmethods: [rsd]\n",
            ["temprature", "'temperature'"],
        ),
        ("about: x\nconfig: {}\ntasks: [embeded]\nmethods: [rsd]\n", ["tasks", "embeded", "'embedded'"]),
        ("about: x\nconfig: {}\ntasks: [embedded]\nmethods: [majorty]\n", ["methods", "majorty", "'majority'"]),
        ("about: x\n  config: {}\n", ["line 2", "not YAML"]),
    ],
)
def test_a_bad_recipe_is_reported_with_its_place(text: str, told: list[str], tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(text)
    error = str(CliRunner().invoke(app, ["eval", "--recipe", str(recipe)]).exception)
    assert all(word in error for word in [*told, str(recipe)]), error
    error = str(CliRunner().invoke(app, ["eval", "--recipe", "paper-math-8b"]).exception)
    assert "did you mean 'paper-math-7b'?" in error


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "drafter: scripted:draft\ntarget: scripted:target\ndrafter: embedded:draft\n",
            "line 3, is not YAML: 'drafter'",
        ),
        ('{"settings": {"seed": 1,\n "seed": 2}}', "line 2, is not YAML: 'seed'"),
        ("settings: {limits: {max_steps: 3, max_steps: 4}}", "line 1, is not YAML: 'max_steps'"),
    ],
)
def test_a_name_that_a_file_gives_twice_is_refused(text: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "twice.yaml"
    file.write_text(text)
    for command in (["run", "q", "--config"], ["eval", "--recipe"]):
        result = CliRunner().invoke(app, [*command, str(file)])
        assert f"{told} is given twice" in str(result.exception)
    file.write_text("base: &base {seed: 1}\nsettings: {<<: *base, seed: 2}\n")
    assert read_mapping(file, "--config")["settings"] == {"seed": 2}
    file.write_text("[" * 5000)
    with pytest.raises(RSDError, match="nested too deeply"):
        read_mapping(file, "--config")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["rule:arithmetic"], "no weights to load"),
        (["embedded:nope"], "embedded:nope is unknown; there are embedded:draft"),
        (["openai:m@http://127.0.0.1:1/v1"], "give specs of embedded, hf, prm, likelihood, shared"),
        (["embedded:draft", "--device", "gpu"], "device 'gpu' cannot be used here"),
    ],
)
def test_a_plan_of_nothing_is_refused(words: list[str], told: str) -> None:
    shown = CliRunner().invoke(app, ["plan", *words])
    assert isinstance(shown.exception, RSDError)
    assert told in str(shown.exception)


def test_run_tells_that_it_was_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rsd_core.methods.load", pressed)
    shown = CliRunner().invoke(app, ["run", "question", *SCRIPTED])
    assert (shown.exit_code, "Interrupted. A single run saves nothing" in shown.stderr) == (130, True)


def test_run_tells_where_its_page_is(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    shown = CliRunner().invoke(app, ["run", "question", *SCRIPTED, "--html", str(page)], env={"COLUMNS": "500"})
    assert f"written to {page}" in shown.output
