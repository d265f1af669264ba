"""The journal: other files are not touched, one process writes, and a complete row is never lost."""

import errno
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rsd_core import ConfigurationError, Limits, RSDConfig, RSDError, Settings
from rsd_integrations.batch import Journal, as_problems, read_results, read_rows, run_journaled
from rsd_integrations.evaluation import Item, Task, evaluate

SCRIPTED = RSDConfig(drafter="scripted:draft", verifier="scripted:verifier", target="scripted:target")
ABOUT = {"batch": 1, "config": {"x": 1}}
OLD = Path(__file__).parent / "journals"
"""Written by the build before this form of the journal."""


class Seats(Task):
    """Problems that the scripted models answer, one of three correctly."""

    def draw(self, n: int | None, seed: int) -> list[Item]:
        return [
            Item(f"How many seats in hall {i}?", "10", lambda text, i=i: i % 3 == 0 and "{10}" in text)  # type: ignore[misc]
            for i in range(n or 0)
        ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"accuracy": 0.9, "n": 100}', "JSON"),
        (b'{\n "accuracy": 0.9\n}\n', "JSON"),
        (b'{"question": "one"}\n{"question": "two"}\n', 'JSON Lines of something else, beginning with "{'),
        (b"PAR1\x15\x04\x15\x10", "a Parquet file"),
        (b"my only note", 'text that begins with "my only note"'),
        (b"my notes\nof a year\n", 'text that begins with "my notes"'),
        (b"\x00\xff\x00\xfe", "binary data"),
        ('"One prompt.\u2028"'.encode(), "JSON"),
        (b'["one"]', "JSON"),
        (b'{"batch": 3, "loss": 0.25}\n', "newer|holds results"),
        (b"[" * 100_000, "text that begins"),
    ],
)
def test_other_files_are_refused_and_not_a_byte_of_them_changes(tmp_path: Path, content: bytes, told: str) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_bytes(content)
    before = file.stat()
    with pytest.raises(ConfigurationError, match=told) as batch:
        run_journaled(SCRIPTED, as_problems(["one"]), file)
    with pytest.raises(ConfigurationError, match=told):
        evaluate(SCRIPTED, Seats(), ["rsd"], 1, 1, journal=file)
    assert str(file) in str(batch.value)
    assert "\n" not in str(batch.value)
    assert (file.read_bytes(), file.stat().st_ino, file.stat().st_mtime_ns) == (
        *(content, before.st_ino, before.st_mtime_ns),
    )
    assert os.listdir(tmp_path) == ["mine.jsonl"]


def test_a_journal_of_the_other_command_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    run_journaled(SCRIPTED, as_problems(["one"]), file)
    with pytest.raises(ConfigurationError, match="holds results of `rsd batch`, not a journal of `rsd eval`"):
        evaluate(SCRIPTED, Seats(), ["rsd"], 1, 1, journal=file)
    file.unlink()
    evaluate(SCRIPTED, Seats(), ["rsd"], 1, 1, journal=file)
    with pytest.raises(ConfigurationError, match="contains a journal of `rsd eval`, not results of `rsd batch`"):
        read_results(file)
    file.write_text("")
    assert read_results(file) == {}


def test_folders_and_devices_are_not_journals(tmp_path: Path) -> None:
    for file, told in (
        (tmp_path, "a folder"),
        (Path("/dev/null"), "not a regular file"),
        (tmp_path / "no/x", "not exist"),
    ):
        with pytest.raises(ConfigurationError, match=told):
            Journal(file, ABOUT)


HOLDER = """
import sys, time
from pathlib import Path
from rsd_integrations.batch import Journal
with Journal(Path(sys.argv[1]), {"batch": 1, "config": {"x": 1}}) as journal:
    for i in range(10**9):
        journal.add({"id": i})
        print(i, flush=True)
        time.sleep(0.001)
"""


def test_a_second_process_is_refused_with_the_first_ones_id_until_that_is_killed(tmp_path: Path) -> None:
    file, link = tmp_path / "x.jsonl", tmp_path / "link.jsonl"
    link.symlink_to(file)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(file)], stdout=subprocess.PIPE, text=True, env=env)
    assert holder.stdout is not None
    acknowledged = [holder.stdout.readline() for _ in range(20)]
    for name in (file, link):
        with pytest.raises(ConfigurationError, match=rf"is being written by process {holder.pid}; wait until it ends"):
            Journal(name, ABOUT)
    holder.send_signal(signal.SIGKILL)
    acknowledged += holder.communicate()[0].splitlines()
    with Journal(link, ABOUT) as journal:
        assert [row["id"] for row in journal.rows][: len(acknowledged)] == [int(line) for line in acknowledged]
        whole = len(journal.rows)
        journal.add({"id": "mine"})
        with pytest.raises(ConfigurationError, match="is being written by this process"):
            Journal(file, ABOUT)
    assert [row["id"] for row in read_rows(file)[1:]] == [*range(whole), "mine"]
    assert set(os.listdir(tmp_path)) == {"x.jsonl", "link.jsonl"}


def test_rows_are_appended_and_nothing_is_rewritten(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    with Journal(file, ABOUT) as journal:
        journal.add({"n": 1})
    before, inode = file.read_bytes(), file.stat().st_ino
    with Journal(file, ABOUT):
        pass
    assert file.read_bytes() == before
    with Journal(file, ABOUT) as journal:
        journal.add({"n": 2})
    assert file.read_bytes() == before + b'{"n": 2}\n'
    assert file.stat().st_ino == inode


def test_a_file_cut_at_any_byte_loses_the_row_that_was_cut_and_no_other(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    with Journal(file, ABOUT) as journal:
        for n in range(3):
            journal.add({"n": n})
    whole = file.read_bytes()
    lines = whole.splitlines()
    for cut in range(len(whole)):
        file.write_bytes(whole[:cut])
        finished = whole[: cut + 1].count(b"\n")  # a row that lacks nothing but its end is whole
        with Journal(file, ABOUT) as journal:
            assert [row["n"] for row in journal.rows] == list(range(max(0, finished - 1)))
            journal.add({"n": "later"})
        assert file.read_bytes().splitlines() == [*lines[: max(1, finished)], b'{"n": "later"}']


def test_the_first_line_of_another_run_cut_off_is_not_ours(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(b'{"batch": 1, "config": {"x": 2')
    with pytest.raises(ConfigurationError, match="not a journal of this program"):
        Journal(file, ABOUT)


def test_a_damaged_line_is_reported_with_its_number(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text(json.dumps(ABOUT) + '\n{"n": 1}\n{"n": {"n": 2}\n{"n": 3}\n')
    with pytest.raises(ConfigurationError, match="line 3, is damaged"):
        Journal(file, ABOUT)
    with pytest.raises(ConfigurationError, match="line 3, is damaged"):
        read_rows(file)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_rows(tmp_path / "nowhere")


def test_a_newer_journal_says_so(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text('{"batch": 2, "models": []}\n')
    with pytest.raises(ConfigurationError, match="newer rsd-decoding, in format 2; upgrade"):
        Journal(file, ABOUT)


def test_a_disk_that_fills_up_costs_no_whole_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, write, room = tmp_path / "x.jsonl", os.write, [60]

    def full(out: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = write(out, data[: room[0]])
        room[0] -= done
        return done

    monkeypatch.setattr("rsd_integrations.batch.journal.os.write", full)
    with Journal(file, ABOUT) as journal:
        journal.add({"n": 1})
        with pytest.raises(
            RSDError, match=r"x\.jsonl cannot be written: No space left on device. Its 1 rows are complete"
        ):
            journal.add({"n": 2, "text": "long" * 9})
    assert file.read_text().splitlines()[1:] == ['{"n": 1}']
    room[0] = 10**6
    with Journal(file, ABOUT) as journal:
        journal.add({"n": 2})
    assert [row["n"] for row in read_rows(file)[1:]] == [1, 2]


@pytest.mark.parametrize("rows_before", [0, 1])
def test_a_full_disk_costs_no_row_whose_end_an_earlier_writer_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_before: int
) -> None:
    file, write, is_full = tmp_path / "x.jsonl", os.write, [False]
    with Journal(file, ABOUT) as journal:
        journal.add({"n": 1, "text": "long" * 9})
    file.write_bytes(file.read_bytes()[:-1])

    def full(out: int, data: bytes) -> int:
        if is_full[0]:
            write(out, data[:3])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(out, data)

    monkeypatch.setattr("rsd_integrations.batch.journal.os.write", full)
    with Journal(file, ABOUT) as journal:
        for _ in range(rows_before):
            journal.add({"n": 2})
        is_full[0] = True
        with pytest.raises(RSDError, match=f"Its {1 + rows_before} rows are complete"):
            journal.add({"n": 3})
        assert [row["n"] for row in read_rows(file)[1:]] == [1, 2][: 1 + rows_before]
        is_full[0] = False
        journal.add({"n": 4})
    assert [row["n"] for row in read_rows(file)[1:]] == [*[1, 2][: 1 + rows_before], 4]


def test_a_journal_that_could_not_begin_begins_with_the_next_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(out: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Journal(tmp_path / "x.jsonl", ABOUT) as journal:
        with monkeypatch.context() as patch:
            patch.setattr("rsd_integrations.batch.journal.os.write", full)
            with pytest.raises(RSDError, match="Its 0 rows are complete"):
                journal.add({"n": 1})
        journal.add({"n": 2})
    assert read_rows(tmp_path / "x.jsonl") == [ABOUT, {"n": 2}]


@pytest.mark.parametrize(("every", "lines"), [(math.inf, [3]), (-1.0, [2, 3, 3])])
def test_rows_are_on_the_disk_from_time_to_time_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: float, lines: list[int]
) -> None:
    file = tmp_path / "out.jsonl"
    synced: list[int] = []

    def sync(out: int) -> None:
        if file.exists() and os.path.samestat(os.fstat(out), file.stat()):  # and not the lock's file
            synced.append(file.read_bytes().count(b"\n"))

    monkeypatch.setattr("rsd_integrations.batch.journal.SYNC_EVERY", every)
    monkeypatch.setattr(os, "fsync", sync)
    with Journal(file, ABOUT) as journal:
        journal.add({"id": "one"})
        journal.add({"id": "two"})
    assert synced == lines


def test_rows_that_do_not_reach_the_disk_at_the_end_are_reported_and_others_may_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    journal = Journal(tmp_path / "out.jsonl", ABOUT)
    journal.add({"id": "one"})
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", gone)
        with pytest.raises(RSDError, match="cannot be written: Input/output error"):
            journal.close()
    with Journal(tmp_path / "out.jsonl", ABOUT) as again:
        assert again.rows == [{"id": "one"}]


def test_a_batch_on_a_full_disk_ends_with_one_line_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, write = tmp_path / "x.jsonl", os.write
    problems = as_problems([f"question {i}" for i in range(20)])

    def full(out: int, data: bytes) -> int:
        if os.fstat(out).st_size > 5000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(out, data)

    monkeypatch.setattr("rsd_integrations.batch.journal.os.write", full)
    with pytest.raises(
        RSDError, match=r"No space left on device\. Its \d rows are complete; once that is fixed, the same"
    ):
        run_journaled(SCRIPTED, problems, file, concurrency=4)
    monkeypatch.undo()
    before = file.read_bytes()
    told = run_journaled(SCRIPTED, problems, file)
    assert 0 < told.found < 20
    assert (told.found + told.done, len(read_results(file))) == (20, 20)
    assert file.read_bytes().startswith(before)


def test_journals_of_the_previous_build_are_resumed(tmp_path: Path) -> None:
    file = tmp_path / "batch.jsonl"
    file.write_bytes((OLD / "batch-1.jsonl").read_bytes())
    problems = as_problems(["one", [("system", "be brief"), ("user", "two")], "one", "three"], ["a", None, None, None])
    limits = Limits(max_steps=100, max_tokens=4096)  # the defaults then
    config = SCRIPTED.model_copy(update={"settings": Settings(limits=limits)})
    told = run_journaled(config, problems, file)
    assert (told.found, told.done) == (3, 1)
    assert file.read_bytes().startswith((OLD / "batch-1.jsonl").read_bytes())
    file = tmp_path / "eval.jsonl"
    file.write_bytes((OLD / "eval-1.jsonl").read_bytes())
    counts: list[int] = []
    methods = ["rsd", "target", "rsd@budget_aware:0.3"]
    report = evaluate(config, Seats(), methods, 3, 1, lambda report: counts.append(report.done), journal=file)
    assert counts == [9]
    assert report.methods["rsd"].accuracy == pytest.approx(1 / 3)
    assert file.read_bytes() == (OLD / "eval-1.jsonl").read_bytes()


def test_what_is_different_about_another_run_is_named(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    run_journaled(SCRIPTED, as_problems(["one"]), file)
    other: dict[str, Any] = {**SCRIPTED.model_dump(), "settings": {"temperature": 0.7}}
    with pytest.raises(ConfigurationError, match=r"another run: its config\.settings\.temperature is 0\.0, not 0\.7"):
        run_journaled(RSDConfig(**other), as_problems(["one"]), file)


def test_two_runs_one_after_another_take_nothing_from_each_other(tmp_path: Path) -> None:
    """Many processes on one file: refused ones leave it alone, and all rows of the others are in it."""
    file = tmp_path / "x.jsonl"
    code = (
        HOLDER.replace("10**9", "5").replace("i})", "f'{sys.argv[2]}-{i}'})").replace("print(i", "print(sys.argv[2], i")
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(file), str(k)], stdout=subprocess.PIPE, stderr=-3, env=env)
        for k in range(6)
    ]
    acknowledged = [line.decode().replace(" ", "-") for one in running for line in one.communicate()[0].splitlines()]
    assert len(acknowledged) >= 5
    assert sorted(row["id"] for row in read_rows(file)[1:]) == sorted(acknowledged)
    assert time.time() - file.stat().st_mtime < 600


@pytest.mark.parametrize("row", ['{"key": [1], "result": {}}', '{"result": 1}', '{"result": {"degradations": [1]}}'])
def test_an_invalid_row_of_a_batch_is_named(tmp_path: Path, row: str) -> None:
    file = tmp_path / "x.jsonl"
    run_journaled(SCRIPTED, as_problems(["one"]), file)
    file.write_text(file.read_text() + row + "\n")
    told = re.escape(f"{file}: the row {row} is damaged; delete that line to have its work done again")
    with pytest.raises(ConfigurationError, match=told):
        run_journaled(SCRIPTED, as_problems(["one", "two"]), file)
    with pytest.raises(ConfigurationError, match=told):
        read_results(file)


@pytest.mark.parametrize(
    "row",
    ['{"method": "rsd"}', '{"method": "rsd", "problem": 1, "outcome": {"x": 1}}', '{"method": "rsd", "problem": 1}'],
)
def test_an_invalid_row_of_an_evaluation_is_named(tmp_path: Path, row: str) -> None:
    file = tmp_path / "x.jsonl"
    evaluate(SCRIPTED, Seats(), ["rsd"], 1, 1, journal=file)
    file.write_text(file.read_text() + row + "\n")
    with pytest.raises(ConfigurationError, match=re.escape(f"{file}: the row {row} is damaged; delete that line")):
        evaluate(SCRIPTED, Seats(), ["rsd"], 1, 1, journal=file)
