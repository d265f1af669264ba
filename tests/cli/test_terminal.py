"""Output for the terminal: text, whoever wrote it, and no control characters but our own."""

import io
import json
import re
import unicodedata
import warnings
from pathlib import Path
from typing import Any

import datasets
import pytest
from rich.console import Console
from rich.progress import Progress
from typer.testing import CliRunner

from rsd_core import RoleWarning, RSDError
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_integrations.cli import main, models
from rsd_integrations.cli.app import app
from rsd_integrations.cli.terminal import Terminal, say

EVIL = "\x1b[2J\x1b]0;taken\x07\x9b31m\x7f\b\r\u202e\u2066 [red]end"
SHOWN = "\\u001b[2J\\u001b]0;taken\\u0007\\u009b31m\\u007f\\u0008\\u000d\\u202e\\u2066 [red]end"


def controls(text: str) -> set[str]:
    """Characters that a terminal would execute."""
    turning = {"RLO", "LRO", "RLE", "LRE", "RLI", "LRI", "FSI", "PDI", "PDF"}
    acting = {char for char in text if unicodedata.category(char) == "Cc" or unicodedata.bidirectional(char) in turning}
    return acting - {"\n", "\t"}


@pytest.fixture
def evil(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that write such characters."""
    models: dict[str, Any] = {
        "drafter": ScriptedDrafter([f"one {EVIL}\n\n", f"two {EVIL}\n\n", f"\\boxed{{{EVIL}}}"]),
        "verifier": ScriptedVerifier([0.9, 0.1, RuntimeError(EVIL)]),
        "target": ScriptedTarget([f"other {EVIL}\n\n"]),
    }
    monkeypatch.setattr("rsd_core.methods.load", lambda spec, *_, **__: models[spec.partition(":")[2]])
    monkeypatch.setattr("rsd_integrations.cli.score.load", lambda *_, **__: ScriptedVerifier([0.9, RuntimeError(EVIL)]))


SCRIPTED = ["--draft", "scripted:draft", "--verifier", "scripted:verifier", "--target", "scripted:target"]
MODELS = ["--draft", "scripted:drafter", "--verifier", "scripted:verifier", "--target", "scripted:target"]


def lines(file: Path, *rows: Any) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.mark.usefixtures("evil")
def test_run_shows_control_characters() -> None:
    monkey = {"COLUMNS": "500"}
    shown = CliRunner().invoke(app, ["run", f"What {EVIL}?", *MODELS], env=monkey).output
    assert not controls(shown)
    for text in ("What ", "one ", "two ", "other ", "RuntimeError: "):
        assert text + SHOWN.replace("[red]end", "") in shown
    told = CliRunner().invoke(app, ["run", f"What {EVIL}?", *MODELS, "--json"]).output
    assert not controls(told)
    assert json.loads(told)["steps"][0]["text"] == f"one {EVIL}\n\n"


@pytest.mark.usefixtures("evil")
def test_score_shows_control_characters(tmp_path: Path) -> None:
    file = lines(tmp_path / "x.jsonl", {"problem": f"p {EVIL}", "steps": [f"s {EVIL}"]}, {"problem": 3, "x": EVIL})
    shown = CliRunner().invoke(app, ["score", file], env={"COLUMNS": "500"}).output
    assert not controls(shown)
    assert f"p {SHOWN}" in shown
    assert f"s {SHOWN}" in shown
    told = CliRunner().invoke(app, ["score", file, "--json"]).output
    assert not controls(told)
    assert json.loads(told.splitlines()[0])["steps"] == [f"s {EVIL}"]


def test_score_explains_control_characters(tmp_path: Path) -> None:
    file = lines(tmp_path / "x.jsonl", {"problem": f"p {EVIL}", "steps": [f"s {EVIL}"]})
    shown = CliRunner().invoke(app, ["score", file, "--explain", "--verifier", "embedded:prm"]).output
    assert "reads: " in shown
    assert not controls(shown)
    assert not controls(CliRunner().invoke(app, ["score", file, "--explain", "--json"]).output)


@pytest.mark.usefixtures("evil")
def test_eval_and_batch_show_control_characters(tmp_path: Path) -> None:
    datasets.disable_progress_bars()  # whose control characters are not ours
    task = lines(
        tmp_path / f"{EVIL.replace('[', '(').replace(']', ')')}.jsonl", {"question": f"What {EVIL}?", "answer": EVIL}
    )
    shown = CliRunner().invoke(
        app, ["eval", "--task", task, "--all", "--methods", "rsd", *MODELS], env={"COLUMNS": "500"}
    )
    assert shown.exit_code == 0, shown.output
    assert not controls(shown.output)
    named = "".join(shown.output.split())  # the title of a table is broken into lines
    assert "".join(SHOWN.replace("[", "(").replace("]", ")").split()) in named
    out = tmp_path / f"{EVIL[:9]}.out"
    shown = CliRunner().invoke(app, ["batch", lines(tmp_path / "p.jsonl", EVIL, ""), "--out", str(out), *MODELS])
    assert "1 done (1 of them degraded), 1 failed" in shown.output
    assert not controls(shown.output)


@pytest.mark.parametrize(
    "words", [["run", "q", "--draft", EVIL], ["eval", "--task", EVIL], ["run", "q", "--policy", EVIL]]
)
def test_errors_show_control_characters(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["rsd", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("Error: ")
    assert "[2J" in printed
    assert not controls(printed)


@pytest.mark.parametrize("words", [["run", "q", EVIL], ["run", f"--{EVIL}"], [EVIL], [f"--{EVIL}"]])
def test_mistakes_on_the_command_line_show_control_characters(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["rsd", *words])
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert "[2J" in printed
    assert not controls(printed)


def test_a_console_shows_what_was_forgotten() -> None:
    """Tables, markup and progress bars with raw text in them: the last line of defence."""
    out = io.StringIO()
    terminal = Terminal(file=out, force_terminal=False, width=200)
    terminal.print("[bold]name[/] \x1b]0;taken\x9c \x9b31m\u202e")
    with Progress(console=terminal) as progress:
        progress.add_task("\x1b[2J\u2067")
    assert not controls(out.getvalue())
    assert "\\u001b]0;taken\\u009c \\u009b31m\\u202e" in out.getvalue()
    styled = io.StringIO()
    Terminal(file=styled, force_terminal=True, color_system="standard").print("[bold]x[/]")
    plain = io.StringIO()
    Console(file=plain, force_terminal=True, color_system="standard").print("[bold]x[/]")
    assert styled.getvalue() == plain.getvalue() != "x\n"  # our own styles are sent


def test_warnings_of_roles_are_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("warnings.showwarning", warnings.showwarning)
    monkeypatch.setattr("sys.argv", ["rsd", "--version"])
    with pytest.raises(SystemExit):
        main()
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        show = warnings.showwarning
        show(RoleWarning(f"the drafter failed {EVIL}"), RoleWarning, "x.py", 1)
        show(UserWarning("ours"), UserWarning, models.__file__, 1)
        show(UserWarning("of others"), UserWarning, "x.py", 1)
    first, second, *others = capsys.readouterr().err.splitlines()
    assert first == f"Warning: the drafter failed {SHOWN}"
    assert second == "Warning: ours"
    assert "x.py:1: UserWarning: of others" in others[0]


def test_a_line_is_said_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    say("mine:soon: [red]x[/] " + "long " * 100)
    assert capsys.readouterr().err == "mine:soon: [red]x[/] " + "long " * 100 + "\n"


def test_the_tables_of_eval_fit_into_80_columns() -> None:
    shown = CliRunner().invoke(app, ["eval", "--n", "3", "--methods", "rsd,target", *SCRIPTED], env={"COLUMNS": "80"})
    assert shown.exit_code == 0, shown.output
    assert max(map(len, shown.output.splitlines())) <= 80
    row = r"^ +rsd +\d\.\d{3} \(\d?\.\d{3}–\d?\.\d{3}\) +\d+\.\d%( +\S+( \w)? [\d.]+x){2} +[\d.]+ (?:ms|µs|s) *$"
    assert re.search(row, shown.output, re.MULTILINE), shown.output  # no figure is cut in two


def test_a_batch_that_is_refused_draws_no_progress(tmp_path: Path) -> None:
    prompts, other = lines(tmp_path / "p.jsonl", "question"), tmp_path / "notes.txt"
    other.write_text("my notes")
    shown = CliRunner().invoke(app, ["batch", prompts, "--out", str(other), *SCRIPTED])
    assert (shown.exit_code, "0/" in shown.output) == (1, False)
    assert isinstance(shown.exception, RSDError)
