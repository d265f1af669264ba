"""Files that commands write: checked before the work, never half written, and nothing computed is lost."""

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rsd_core import ConfigurationError, RSDError
from rsd_integrations.batch import Journal
from rsd_integrations.cli.app import app, main
from rsd_integrations.output_files import check_output, new_folder, write_output

SCRIPTED = ["--draft", "scripted:draft", "--target", "scripted:target", "--verifier", "scripted:verifier"]


def rsd(*words: str) -> str:
    result = CliRunner().invoke(app, words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def problems(tmp_path: Path) -> str:
    file = tmp_path / "problems.jsonl"
    file.write_text("".join(json.dumps({"question": f"Hall {i}?", "answer": "10"}) + "\n" for i in range(6)))
    return str(file)


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model may be loaded."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("rsd_core.methods.load", never)
    monkeypatch.setattr("rsd_integrations.cli.score.load", never)


COMMANDS: dict[str, list[str]] = {
    "run --html": ["run", "q"],
    "eval --json": ["eval", "--n", "1"],
    "eval --markdown": ["eval", "--n", "1"],
    "eval --plot": ["eval", "--n", "1"],
    "eval --journal": ["eval", "--n", "1"],
    "eval --json (processbench)": ["eval", "--task", "processbench", "--data", "none"],
    "calibrate --out": ["calibrate", "--n", "1"],
    "calibrate --json": ["calibrate", "--n", "1"],
    "calibrate --plot": ["calibrate", "--n", "1"],
    "batch --out": ["batch", "prompts.jsonl"],
}


def full_disk(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("fault", ["missing folder", "a folder", "read-only folder", "full disk"])
@pytest.mark.usefixtures("no_work")
def test_an_output_that_cannot_be_written_is_reported_before_the_work(
    command: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    option = command.split()[1]
    end = {"--plot": ".png", "--out": ".json"}.get(option, ".txt")
    file = tmp_path / f"x{end}"
    if fault == "missing folder":
        file, told = tmp_path / "no" / file.name, "does not exist"
    elif fault == "a folder":
        file.mkdir()
        told = "is a folder"
    elif fault == "read-only folder":
        file, told = Path(f"/proc/x{end}"), "cannot be written"
    else:
        monkeypatch.setattr("rsd_integrations.output_files.Path.write_bytes", full_disk)
        told = "No space left on device"
    with pytest.raises(RSDError, match=told) as refused:
        rsd(*COMMANDS[command], option, str(file))
    assert f"{option} {file}" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert os.listdir(tmp_path) in ([], [file.name])


@pytest.mark.usefixtures("no_work")
def test_a_plot_of_no_known_format_is_reported_before_the_work(tmp_path: Path) -> None:
    for command in ("eval", "calibrate"):
        for name in ("figure.xyz", "figure"):
            with pytest.raises(ConfigurationError, match=r"a plot's name must end with its format, one of .*png"):
                rsd(command, "--n", "1", "--plot", str(tmp_path / name))


@pytest.mark.usefixtures("no_work")
def test_two_outputs_are_two_files(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "x.json")
    with pytest.raises(RSDError, match="--json and --markdown both name"):
        rsd("eval", "--n", "1", "--json", str(tmp_path / "x.json"), "--markdown", str(tmp_path / "link"))


def test_a_recipes_further_files_are_tried_too(tmp_path: Path) -> None:
    (tmp_path / "figure-2.png").mkdir()
    with pytest.raises(RSDError, match=r"--plot .*figure-2\.png is a folder"):
        rsd("eval", "--recipe", "paper-math-7b", "--plot", str(tmp_path / "figure.png"))


def test_what_was_computed_is_written_though_the_plot_fails(
    tmp_path: Path, problems: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("no such font")

    monkeypatch.setattr("rsd_integrations.cli.evaluate.accuracy_against_cost", broken)
    monkeypatch.setattr("rsd_integrations.cli.calibrate.plot_calibration", broken)
    figures, page, policy = tmp_path / "x.json", tmp_path / "x.md", tmp_path / "policy.json"
    task = ["--task", problems, "--all", *SCRIPTED, "--plot", str(tmp_path / "x.png")]
    result = CliRunner().invoke(app, ["eval", *task, "--json", str(figures), "--markdown", str(page)])
    assert "no such font. Everything else is written" in str(result.exception)
    assert "accuracy" in result.output  # the table was printed
    assert json.loads(figures.read_text())["n"] == 6
    assert page.read_text().startswith("6 problems")
    with pytest.raises(RSDError, match="no such font"):
        rsd("calibrate", *task, "--out", str(policy), "--json", str(figures))
    assert json.loads(policy.read_text())["kind"] == "binary_step"
    assert "curve" in json.loads(figures.read_text())


def test_each_task_of_a_recipe_has_a_plot_and_a_journal(tmp_path: Path, problems: str) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "about: two tasks\nconfig: {drafter: scripted:draft, verifier: scripted:verifier, target: scripted:target}\n"
        f"tasks: ['{problems}', '{problems}']\nmethods: [rsd]\nn: 1\n"
    )
    rsd("eval", "--recipe", str(recipe), "--plot", str(tmp_path / "x.svg"), "--journal", str(tmp_path / "y.jsonl"))
    written = {file.name for file in tmp_path.iterdir()}
    assert {"x.svg", "x-2.svg", "y.jsonl", "y-2.jsonl"} <= written
    assert not {"x-3.svg", "y-3.jsonl"} & written


def test_a_recipes_first_task_is_written_though_the_second_fails(tmp_path: Path, problems: str) -> None:
    recipe, figures = tmp_path / "mine.yaml", tmp_path / "x.json"
    recipe.write_text(
        "about: two tasks\nconfig: {drafter: scripted:draft, verifier: scripted:verifier, target: scripted:target}\n"
        f"tasks: ['{problems}', '{tmp_path}/nowhere.jsonl']\nmethods: [rsd]\nn: 3\n"
    )
    with pytest.raises(RSDError, match="nowhere"):
        rsd("eval", "--recipe", str(recipe), "--json", str(figures))
    (only,) = json.loads(figures.read_text())
    assert (only["task"], only["n"]) == (problems, 3)


def test_an_earlier_file_is_whole_until_the_new_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.json"
    write_output(file, "ünï 数 \u2028")
    assert file.read_bytes() == "ünï 数 \u2028".encode()
    file.chmod(0o640)
    link = tmp_path / "link.json"
    link.symlink_to(file)
    write_output(link, "second")
    assert link.is_symlink()
    assert file.read_text() == "second"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640

    def interrupted(place: Path) -> None:
        place.write_text("half of the th")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_output(file, interrupted)
    assert file.read_text() == "second"
    assert set(os.listdir(tmp_path)) == {"x.json", "link.json"}


def test_a_file_without_room_is_put_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spare = tmp_path / "spare"
    spare.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(spare))
    with pytest.raises(
        RSDError, match=r"/dev/full cannot be written: No space left on device\. It is in .*spare"
    ) as full:
        write_output(Path("/dev/full"), "of hours")
    place = Path(str(full.value).partition("It is in ")[2].removesuffix(" instead"))
    assert place.read_text() == "of hours"
    monkeypatch.setattr("tempfile.tempdir", "/dev/null")
    with pytest.raises(RSDError, match=r"Nor can it be written elsewhere .*; make room, then run"):
        write_output(Path("/dev/full"), "of hours")


def test_devices_are_written_in_place(tmp_path: Path) -> None:
    check_output(Path("/dev/null"), "--json")
    write_output(Path("/dev/null"), "gone")
    assert Path("/dev/null").is_char_device()


def test_a_trial_leaves_nothing_and_touches_nothing(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text("mine")
    before = file.stat()
    check_output(file, "--json")
    check_output(tmp_path / "new.json", "--json")
    assert os.listdir(tmp_path) == ["x.json"]
    assert file.stat().st_mtime_ns == before.st_mtime_ns


def test_batch_and_eval_leave_other_files_alone(tmp_path: Path, problems: str) -> None:
    mine = tmp_path / "mine.json"
    mine.write_text('{"results": "of last year"}')
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('"one"\n')
    for words in (["batch", str(prompts), "--out"], ["eval", "--task", problems, "--all", "--journal"]):
        for file in (mine, prompts):
            before = file.read_bytes()
            with pytest.raises(RSDError, match="is not a journal of this program but"):
                rsd(*words, str(file), *SCRIPTED)
            assert file.read_bytes() == before


def test_score_and_batch_read_json_lines_as_they_are_defined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, out = tmp_path / "x.jsonl", tmp_path / "out.jsonl"
    rows: list[Any] = [{"problem": "p\u2028q", "prompt": "p\u2028q", "steps": ["a\x85", "b"], "id": "first"}]
    file.write_bytes(("\ufeff" + json.dumps(rows[0], ensure_ascii=False) + "\r\n").encode())
    score = ["score", str(file), "--verifier", "scripted:verifier", "--json"]
    assert json.loads(rsd(*score))["problem"] == "p\u2028q"
    rsd("batch", str(file), "--out", str(out), *SCRIPTED)
    file.write_bytes(file.read_bytes() + b'{"id": 2, "problem": " ", "steps": ["x"]}\n{\n"\xff"\n')
    shown = CliRunner().invoke(app, score)
    assert "3 of 4 entries of" in str(shown.exception)
    told = [json.loads(line) for line in shown.stdout.splitlines()]
    assert told[0]["rewards"] == [0.95, 0.95]
    assert [one.get("entry") for one in told] == [None, "line 2", "line 3", "line 4"]
    assert told[1]["id"] == 2
    assert all(one["error"] for one in told[1:])
    shown = CliRunner().invoke(app, ["batch", str(file), "--out", str(out), *SCRIPTED])
    assert "3 of 4 problems failed" in str(shown.exception)
    assert "3 lines of" in shown.output
    with pytest.raises(ConfigurationError, match=r"line 2: .*empty.* \(and 2 more\)"):
        rsd(*score, "--strict")
    with pytest.raises(ConfigurationError, match=r"line 2 is not a prompt: .* \(and 2 lines more\)"):
        rsd("batch", str(file), "--out", str(out), *SCRIPTED, "--strict")


def test_a_checkpoint_is_written_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "new" / "out"

    def filled_up(*words: object, **_: object) -> None:
        folder = next(word for word in words if isinstance(word, Path))
        (folder / "config.json").write_text("{}")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def whole(*words: object, **_: object) -> None:
        folder = next(word for word in words if isinstance(word, Path))
        (folder / "config.json").write_text("{}")

    for place, words in (("merging.merge", ["merge", "a", "b"]), ("exporting.export", ["export", "a"])):
        monkeypatch.setattr(f"rsd_integrations.huggingface.{place}", filled_up)
        with pytest.raises(
            RSDError, match=r"out cannot be written: No space left on device; make room, then run again"
        ):
            rsd(*words, str(out))
        assert not list((tmp_path / "new").iterdir())
        monkeypatch.setattr(f"rsd_integrations.huggingface.{place}", whole)
        shown = rsd(*words, str(out))
        assert f"written to {out}" in shown.replace("\n", "")
        assert os.listdir(out) == ["config.json"]
        with pytest.raises(ConfigurationError, match="already contains a checkpoint"):
            rsd(*words, str(out))
        (out / "config.json").unlink()
        out.rmdir()
    monkeypatch.undo()
    monkeypatch.setattr("rsd_integrations.huggingface.merging.merge", filled_up)
    for folder, told in (("/proc/no/x", "cannot be written"), (__file__, "is not an empty folder")):
        with pytest.raises(ConfigurationError, match=told):
            rsd("merge", "a", "b", folder)


@pytest.mark.parametrize(
    ("name", "why"), [("loop", "Too many levels of symbolic links"), ("n" * 300, "File name too long")]
)
def test_a_name_that_leads_nowhere_is_one_line(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ConfigurationError, match=f"--json .* cannot be written: {why}"):
        check_output(tmp_path / name, "--json")
    with pytest.raises(ConfigurationError, match=why):
        Journal(tmp_path / name, {})
    with pytest.raises(ConfigurationError, match=f"{why}.*; choose another folder"):
        new_folder(tmp_path / name).__enter__()


def test_a_pipe_is_written_by_the_name_that_the_shell_gives_it() -> None:
    command = f"{sys.executable} -m rsd_integrations.cli run q {' '.join(SCRIPTED)} --html /dev/stdout | tail -n 1"
    done = subprocess.run(["/bin/bash", "-c", command], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("</html>\n", "")
    command = f"{sys.executable} -m rsd_integrations.cli eval --n 1 {' '.join(SCRIPTED)} --json >(cat >&2) >/dev/null"
    done = subprocess.run(["/bin/bash", "-c", command], capture_output=True, text=True)
    assert '"task": "embedded"' in done.stderr


@pytest.mark.parametrize("words", [["--version"], ["models", "--json"], ["run", "q", *SCRIPTED]])
def test_a_full_disk_behind_the_output_is_one_line(words: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "rsd_integrations.cli", *words], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "Error: the output of this command cannot be written: No space left on device; make room, then run again"
    ]


def test_a_fault_of_this_program_is_reported_with_its_traceback_and_without_control_characters(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("\x1b[2Jgone")

    monkeypatch.setattr("rsd_integrations.cli.app.app", broken)
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr().err
    assert ended.value.code == 1
    assert "in broken" in told
    assert told.strip().endswith("ZeroDivisionError: \\u001b[2Jgone")
    assert "\x1b" not in told
