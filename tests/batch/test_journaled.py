"""A batch in a file: every result exactly once, however the run ended."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rsd_core import ConfigurationError, PromptError, RewardGuidedDecoder, RSDConfig, RSDError, Settings
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_integrations.batch import arun_journaled, as_problems, read_problems, read_results, read_rows, run_journaled
from rsd_integrations.cli.app import app

SCRIPTED = RSDConfig(drafter="scripted:draft", verifier="scripted:verifier", target="scripted:target")


def write(file: Path, *lines: Any) -> Path:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_results_come_back_as_they_were(tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"
    problems = as_problems(["one", [("system", "be brief"), ("user", "two")], "one"], ["a", None, None])
    told = run_journaled(SCRIPTED, problems, out)
    assert (told.total, told.found, told.done, told.failed, told.degraded) == (3, 0, 3, 0, 0)
    expected = SCRIPTED.build().run("one")
    results = read_results(out)
    assert list(results) == [problem.id for problem in problems]
    assert results["a"].steps == expected.steps
    assert results["a"].ledger.drafter.generated == expected.ledger.drafter.generated


def test_the_same_prompt_again_is_another_problem() -> None:
    first, again = as_problems(["same", "same"])
    assert (first.repeat, again.repeat) == (0, 1)
    assert first.key != again.key
    assert as_problems(["other", "same"])[1].key == first.key  # wherever it stands in the file


def test_prompts_may_be_added_and_changed_ones_are_solved_again(tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"
    run_journaled(SCRIPTED, as_problems(["one", "two"], ["a", "b"]), out)
    told = run_journaled(SCRIPTED, as_problems(["one", "two, changed", "three"], ["a", "b", "c"]), out)
    assert (told.found, told.done) == (1, 2)


def test_nothing_is_loaded_where_nothing_is_left_to_do(tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"
    run_journaled(SCRIPTED, as_problems(["one"]), out)

    def build() -> RewardGuidedDecoder:
        raise AssertionError("not needed")

    about = {"config": SCRIPTED.model_dump(mode="json")}
    assert asyncio.run(arun_journaled(build, as_problems(["one"]), out, about)).found == 1


def test_other_settings_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"
    run_journaled(SCRIPTED, as_problems(["one"]), out)
    other = SCRIPTED.model_copy(update={"settings": Settings(temperature=0.7)})
    with pytest.raises(
        ConfigurationError, match=r"belongs to another run: its config\.settings\.temperature is 0\.0, not 0\.7"
    ):
        run_journaled(other, as_problems(["one"]), out)


def test_the_rest_of_a_run_may_ask_its_servers_otherwise(tmp_path: Path) -> None:
    """A user who needs more patience after an outage keeps the finished work."""
    out, spec = tmp_path / "results.jsonl", "openai{}:m@http://127.0.0.1:9/v1"
    run_journaled(SCRIPTED, as_problems(["one"]), out)
    head, *rows = out.read_text().splitlines()
    patient = SCRIPTED.model_copy(update={"target": spec.format(",retries=3,patience=1800,concurrency=4")})
    out.write_text("\n".join([head.replace("scripted:target", spec.format(",patience=5")), *rows]) + "\n")
    assert run_journaled(patient, as_problems(["one"]), out).found == 1
    other = SCRIPTED.model_copy(update={"target": spec.format(",template.thinking=true")})
    with pytest.raises(ConfigurationError, match=r"belongs to another run: its config\.target is"):
        run_journaled(other, as_problems(["one"]), out)


def test_a_difference_at_the_end_of_a_long_spec_is_shown(tmp_path: Path) -> None:
    out, spec = tmp_path / "results.jsonl", f"openai,tokenizer={'long/' * 30}:m@http://127.0.0.1:{{}}/v1"
    run_journaled(SCRIPTED, as_problems(["one"]), out)
    out.write_text(out.read_text().replace("scripted:target", spec.format(8001)))
    other = SCRIPTED.model_copy(update={"target": spec.format(8002)})
    with pytest.raises(ConfigurationError, match=r'target is "….*:8001/v1", not "….*:8002/v1"'):
        run_journaled(other, as_problems(["one"]), out)


@pytest.mark.parametrize("torn", ['{"id": "b", "key": "x", "res', "\x00\x00\x00"])
def test_a_torn_line_is_neither_a_result_nor_an_error(tmp_path: Path, torn: str) -> None:
    out = tmp_path / "results.jsonl"
    run_journaled(SCRIPTED, as_problems(["one"], ["a"]), out)
    whole = out.read_text()
    out.write_text(whole + torn)
    told = run_journaled(SCRIPTED, as_problems(["one", "two"], ["a", "b"]), out)
    assert (told.found, told.done) == (1, 1)
    assert out.read_text().startswith(whole)
    assert set(read_results(out)) == {"a", "b"}


def test_other_files_are_refused_and_left_unchanged(tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"
    out.write_text("my notes\n")
    with pytest.raises(ConfigurationError, match="not a journal of this program but text"):
        run_journaled(SCRIPTED, as_problems(["one"]), out)
    assert out.read_text() == "my notes\n"


def test_a_failed_problem_is_noted_with_its_text_and_retried(tmp_path: Path) -> None:
    out, broken = tmp_path / "results.jsonl", [True]

    def target(path: Any, rng: Any) -> str | Exception:
        return RuntimeError("gone") if broken[0] and path.prompt[0].content == "bad" else "end"

    def build() -> RewardGuidedDecoder:
        return RewardGuidedDecoder(
            drafter=ScriptedDrafter(["fine\n\n", "no"]),
            verifier=ScriptedVerifier([0.9, 0.1]),
            target=ScriptedTarget(target),
            settings=Settings(target_retries=0),
        )

    problems = as_problems(["good", "bad"], ["good", "bad"])

    def go(**options: Any) -> tuple[int, int, int]:
        told = asyncio.run(arun_journaled(build, problems, out, {}, **options))
        return told.found, told.done, told.failed

    assert go() == (0, 1, 1)
    (failed,) = [row for row in read_rows(out) if "error" in row]
    assert "gone" in failed["error"]
    assert read_results(out)["bad"].text == "fine\n\n"
    assert read_results(out)["bad"].finish_reason == "error"
    assert go(retry_failed=False) == (2, 0, 0)
    assert go() == (1, 0, 1)
    broken[0] = False
    assert go() == (1, 1, 0)
    assert read_results(out)["bad"].text == "fine\n\nend"
    assert [row["id"] for row in read_rows(out)[1:]] in (["good", *["bad"] * 3], ["bad", "good", *["bad"] * 2])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"question": "one"}', "line 2 is not a prompt: it has no `prompt`"),
        ("3", "line 2 is not a prompt: it is int"),
        ("null", "line 2 is not a prompt: it is NoneType"),
        ('"  "', "line 2 is not a prompt: The prompt is empty"),
        ('{"prompt": ""}', "line 2 is not a prompt: The prompt is empty"),
        ('{"prompt": [{"content": "x"}]}', "line 2 is not a prompt: "),
        ("{", "line 2 is not a prompt: it is not JSON"),
    ],
)
def test_an_invalid_prompt_is_a_row_with_an_error(tmp_path: Path, line: str, words: str) -> None:
    file, out = tmp_path / "prompts.jsonl", tmp_path / "results.jsonl"
    file.write_text(f'"one"\n{line}\n{{"prompt": "three", "id": "c"}}\n')
    for found, rows in ((0, 3), (2, 3)):  # noted once, and told each time
        told = run_journaled(SCRIPTED, read_problems(file), out)
        assert (told.found, told.done, told.failed, told.refused) == (found, 2 - found, 1, 1)
        assert len(read_rows(out)[1:]) == rows
    (bad,) = [row for row in read_rows(out)[1:] if "error" in row]
    assert bad["id"] == "line 2"
    assert bad["error"].startswith(words)
    assert read_results(out)["c"].answer == "10"
    with pytest.raises(ConfigurationError) as strict:
        read_problems(file, strict=True)
    assert words in str(strict.value)
    assert '{"prompt": TEXT or MESSAGES' in str(strict.value)


def test_a_bad_line_keeps_its_name_and_is_solved_once_it_is_fixed(tmp_path: Path) -> None:
    file, out = tmp_path / "prompts.jsonl", tmp_path / "results.jsonl"
    run_journaled(SCRIPTED, read_problems(write(file, {"prompt": " ", "id": 7})), out)
    assert read_results(out)["7"].finish_reason == "error"
    told = run_journaled(SCRIPTED, read_problems(write(file, {"prompt": "mended", "id": 7})), out)
    assert (told.found, told.done, told.failed) == (0, 1, 0)
    assert read_results(out)["7"].answer == "10"


def test_nothing_is_loaded_for_invalid_prompts(tmp_path: Path) -> None:
    config = RSDConfig(drafter="hf:no/such", verifier="scripted:verifier", target="scripted:target")
    told = run_journaled(config, read_problems(write(tmp_path / "p.jsonl", "", 3)), tmp_path / "out.jsonl")
    assert (told.done, told.failed) == (0, 2)


def test_names_that_stand_for_two_prompts_and_empty_prompts_are_refused(tmp_path: Path) -> None:
    for first in ("one", ""):
        lines = [{"prompt": first, "id": "a"}, {"prompt": "two", "id": "a"}]
        with pytest.raises(ConfigurationError, match=r"prompts\.jsonl: several prompts have the id 'a'"):
            read_problems(write(tmp_path / "prompts.jsonl", *lines))
    with pytest.raises(PromptError):
        as_problems([""])


def test_prompts_are_read_as_json_lines_are_defined(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_bytes('\ufeff"one\u2028or\x85two"\r\n{"prompt": "ünï \u2029 数"}'.encode())
    assert [problem.prompt[0].content for problem in read_problems(file)] == ["one\u2028or\x85two", "ünï \u2029 数"]


def test_prompts_of_other_files_and_columns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "prompts.csv"
    file.write_text("id,Question,note\n007,What is 1+1?,\n8,,empty\n")
    first, second = read_problems(file)
    assert (first.id, first.prompt[0].content) == ("007", "What is 1+1?")
    assert (second.id, str(second.error).startswith("line 3 is not a prompt: The prompt is empty")) == ("8", True)
    assert caplog.messages == [f"{file}: prompts are read from the column 'Question'; --prompt names another one"]
    assert [problem.prompt[0].content for problem in read_problems(file, prompt="note") if not problem.error] == [
        "empty"
    ]
    file.write_text("id,prompt\n,one\n,two\n")
    assert len({problem.id for problem in read_problems(file)}) == 2  # an empty cell is not a name
    file.write_text("id,note\n1,x\n")
    with pytest.raises(
        ConfigurationError, match=r"none of its columns looks like prompts \('id', 'note'\).*--prompt COLUMN"
    ):
        read_problems(file)
    with pytest.raises(ConfigurationError, match=r"prompts\.csv has no column 'nope'; it has 'id', 'note'"):
        read_problems(file, prompt="nope")


def test_the_command_refuses_a_file_without_rows(tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"
    words = ["batch", str(write(tmp_path / "prompts.jsonl")), "--out", str(out), "--draft", "hf:no/such"]
    refused = CliRunner().invoke(app, words)
    assert isinstance(refused.exception, ConfigurationError)
    assert "prompts.jsonl has no rows; it needs one for each prompt" in str(refused.exception)
    assert not out.exists()


def test_the_command_asks_for_other_lines_where_only_lines_were_wrong(tmp_path: Path) -> None:
    prompts = write(tmp_path / "prompts.jsonl", "one", {"prompt": 5})
    words = ["batch", str(prompts), "--out", str(tmp_path / "results.jsonl"), "--draft", "scripted:draft"]
    words += ["--verifier", "scripted:verifier", "--target", "scripted:target"]
    failed = CliRunner().invoke(app, words)
    assert "1 of 2 problems failed" in str(failed.exception)
    assert "Correct these lines, then run again" in str(failed.exception)


def test_the_command(tmp_path: Path) -> None:
    prompts = write(tmp_path / "prompts.jsonl", "one", {"prompt": "two", "id": 2})
    out = tmp_path / "results.jsonl"
    words = ["batch", str(prompts), "--out", str(out), "--draft", "scripted:draft", "--lookahead", "1"]
    words += ["--verifier", "scripted:verifier", "--target", "scripted:target"]
    for told in ("0 found, 2 done (0 of them degraded), 0 failed", "2 found, 0 done"):
        shown = CliRunner().invoke(app, words)
        assert shown.exit_code == 0, shown.output
        assert told in " ".join(shown.output.split())
    assert read_results(out)["2"].answer == "10"
    refused = CliRunner().invoke(app, [*words, "--hedge", "0.5"])
    assert isinstance(refused.exception, RSDError)


SLOW = """
import sys
from pathlib import Path
from rsd_core import RewardGuidedDecoder
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_integrations.batch import arun_journaled, as_problems
import asyncio

log = open(sys.argv[2], "a", buffering=1)

class Logged(ScriptedDrafter):
    async def generate(self, path, request):
        made = await super().generate(path, request)
        if path.depth == 1:
            log.write(path.prompt[0].content + "\\n")
        return made

def build():
    return RewardGuidedDecoder(drafter=Logged(["one\\n\\n", "two"], delay=0.01),
        verifier=ScriptedVerifier([0.9], delay=0.01), target=ScriptedTarget(["x"]))

problems = as_problems([f"question {i}" for i in range(200)])
print(asyncio.run(arun_journaled(build, problems, Path(sys.argv[1]), {}, concurrency=8)))
"""


def test_a_killed_run_goes_on_and_repeats_nothing_finished(tmp_path: Path) -> None:
    out, log = tmp_path / "results.jsonl", tmp_path / "log"
    command = [sys.executable, "-c", SLOW, str(out), str(log)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    kills = 0
    for wanted in (30, 100):
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not out.exists() or out.read_bytes().count(b"\n") < wanted:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        finished = {row["id"] for row in read_rows(out)[1:]}
        assert wanted - 1 <= len(finished) < 200
        before = Counter(log.read_text().split("\n"))
    subprocess.run(command, env=env, check=True, capture_output=True)
    rows = read_rows(out)[1:]
    assert len(rows) == len({row["id"] for row in rows}) == 200
    # Written twice are at most those that were in flight when a run was killed.
    written = Counter(log.read_text().split("\n"))
    assert sum(written[name] > 1 for name in written if name) <= 8 * kills
    assert sum(before.values()) < sum(written.values())


def test_settings_that_make_no_decoder_are_in_no_file(tmp_path: Path) -> None:
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    prompts.write_text('"one"\n""\n')
    config = RSDConfig(drafter="openai:m@http://user:secret@127.0.0.1:9/v1", verifier="scripted:verifier")
    with pytest.raises(ConfigurationError, match="must not contain a password"):
        run_journaled(config, read_problems(prompts), out)
    assert not out.exists()
