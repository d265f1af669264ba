"""The process that grades: timed, replaced, and gone with its caller."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from rsd_core import RSDConfig
from rsd_integrations.evaluation import Item, Task, evaluate, markdown
from rsd_integrations.evaluation import grading_process as grading
from rsd_integrations.evaluation.graders import math
from rsd_integrations.evaluation.grading_process import GradingError, GradingLimit

ENDLESS = "9^{9^{9^9}}"
"""Longer than anybody waits, in C code that no thread interrupts."""
SCRIPTED = RSDConfig(drafter="scripted:draft", verifier="scripted:verifier", target="scripted:target")


def pid() -> int:
    assert grading._process is not None
    return grading._process._process.pid


def is_gone(number: int, seconds: float = 20) -> bool:
    """Whether there is no such process, not even a zombie."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.kill(number, 0)
            if Path(f"/proc/{number}/stat").exists() and ") Z " in Path(f"/proc/{number}/stat").read_text():
                return True  # a child of ours that was orphaned, in a container whose first process does not reap
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_what_does_not_end_is_ended_and_the_next_answer_is_graded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert math("x+1", "\\boxed{1+x}")
    before = pid()
    monkeypatch.setitem(grading.SECONDS, "math", 0.5)
    with pytest.raises(GradingLimit, match=r"the grader 'math' took longer than 0\.5 s on '.*10\}'"):
        math(ENDLESS, "\\boxed{10}")
    with pytest.raises(ProcessLookupError):  # waited for: no zombie
        os.kill(before, 0)
    monkeypatch.undo()
    assert math("x+1", "\\boxed{1+x}")
    assert pid() != before


def test_one_process_serves_all_threads_and_one_that_was_killed_is_replaced() -> None:
    math("x+1", "\\boxed{1+x}")
    before = pid()
    with ThreadPoolExecutor(8) as pool:
        judged = list(pool.map(lambda i: math(f"{i}x+1", f"\\boxed{{1+{i % 5}x}}"), range(2, 26)))
    assert judged == [i == i % 5 for i in range(2, 26)]
    assert pid() == before
    os.kill(before, signal.SIGKILL)
    assert math("x+1", "\\boxed{1+x}")
    assert pid() != before


def test_what_a_grader_of_a_package_does_is_its_own_affair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd_graders.py").write_text(
        "import os, sys\n"
        "def prints(reference, text): print(reference); return reference in text\n"
        "def hungry(reference, text): raise MemoryError\n"
        "def dies(reference, text): os._exit(3)\n"
        "def leaves(reference, text): sys.exit(0)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert grading.grade_elsewhere("odd_graders:prints", "it", "10", "it is 10")
    for name, kind, words in (
        ("hungry", GradingLimit, "it exceeded its limits on 'text': MemoryError"),
        ("dies", GradingLimit, "it ended its process on 'text'"),
        ("leaves", GradingError, "it failed on 'text': SystemExit"),
        ("gone", GradingError, "it failed on 'text': AttributeError"),
    ):
        with pytest.raises(kind, match=words):
            grading.grade_elsewhere(f"odd_graders:{name}", "it", "10", "text")
    assert grading.grade_elsewhere("odd_graders:prints", "it", "10", "it is 10")


class Halls(Task):
    """Problems of each kind: with an answer, without one, and with an unusable one."""

    def draw(self, n: int | None, seed: int) -> list[Item]:
        references = ["10", ENDLESS, None, "11"]
        return [self._item(i, reference) for i, reference in enumerate(references[:n])]

    def _item(self, i: int, reference: str | None) -> Item:
        if reference is None:
            return Item(f"Seats in hall {i}?", None, None)
        return Item(f"Seats in hall {i}?", reference, partial(math, reference), grader="math")


def test_an_answer_that_cannot_be_graded_is_neither_right_nor_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    math("10", "\\boxed{5+5}")
    monkeypatch.setitem(grading.SECONDS, "math", 0.5)
    file = tmp_path / "journal.jsonl"
    report = evaluate(SCRIPTED, Halls(), ["draft"], 4, 1, journal=file)
    assert [report.outcomes["draft"][i].correct for i in range(4)] == [True, None, None, False]
    assert [bool(report.outcomes["draft"][i].ungraded) for i in range(4)] == [False, True, False, False]
    draft = report.methods["draft"]
    assert (draft.n, draft.graded, draft.right, draft.accuracy) == (4, 2, 1, 0.5)
    assert report.graded_as == (
        "graded as math (3); accuracy over 3 of 4 problems: the others have no answer; "
        "not counted: 1 answer that could not be graded"
    )
    assert (
        "the answer could not be graded 1 time in 1 of 4 answers, most recently with \"the grader 'math' took"
        in markdown(report)
    )
    monkeypatch.setattr(f"{__name__}.ENDLESS", "10")  # fixed: the same journal is graded again, and nothing decoded
    before = file.read_bytes()
    assert evaluate(SCRIPTED, Halls(), ["draft"], 4, 1, journal=file).methods["draft"].accuracy == 2 / 3
    assert file.read_bytes() == before


def test_problems_without_answers_have_no_accuracy() -> None:
    class Open(Task):
        def draw(self, n: int | None, seed: int) -> list[Item]:
            return [Item(f"Why {i}?", None, None) for i in range(n or 0)]

    report = evaluate(SCRIPTED, Open(), ["draft", "target"], 3, 1)
    assert report.to_dict()["methods"]["draft"]["accuracy"] is None
    assert report.comparisons() == {}
    assert "| draft | – | – |" in markdown(report)
    report.add("draft", 0, replace(report.outcomes["draft"][0], correct=True))
    report.add("target", 0, replace(report.outcomes["target"][0], correct=False))
    assert (report.comparisons()["draft"].n, report.comparisons()["draft"].difference) == (1, 1)


def test_a_grader_that_never_works_ends_the_evaluation_at_once() -> None:
    class Broken(Task):
        def draw(self, n: int | None, seed: int) -> list[Item]:
            def grade(text: str) -> bool:
                raise GradingError("the grader 'mine' failed")

            return [Item(f"Seats {i}?", "10", grade) for i in range(n or 0)]

    with pytest.raises(GradingError, match="'mine' failed"):
        evaluate(SCRIPTED, Broken(), ["draft"], 3, 1)


CALLER = """
import os, sys, threading
from rsd_integrations.evaluation import grading_process as grading
from rsd_integrations.evaluation.graders import math

assert math("x+1", "\\\\boxed{1+x}")
if sys.argv[1] == "leave":
    child = os.fork()
    if child == 0:  # it starts its own, and leaves the other alone
        os._exit(0 if grading._process is None and math("x+1", "\\\\boxed{1+x}") and not grading._end() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert math("x+2", "\\\\boxed{2+x}")
grading.SECONDS["math"] = 2.0
if sys.argv[1] == "busy":
    threading.Thread(target=math, args=("9^{9^{9^9}}", "\\\\boxed{10}"), daemon=True).start()
print(grading._process._process.pid, flush=True)
if sys.argv[1] != "leave":
    sys.stdin.read()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the callers fork")
@pytest.mark.parametrize("how", ["leave", "busy"])
def test_it_ends_with_its_caller_however_that_ends(tmp_path: Path, how: str) -> None:
    script = tmp_path / "caller.py"  # without `if __name__ == "__main__"`
    script.write_text(CALLER)
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", str(script), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as caller:
        assert caller.stdout is not None
        worker = int(caller.stdout.readline())
        if how != "leave":
            time.sleep(0.3)
            caller.kill()
        caller.wait()
    assert is_gone(worker)
