"""Concurrent calls of an evaluation: each result as it is ready, and nothing continues after an error."""

import asyncio
import errno
import json
import os
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from rsd_core import RSDConfig, RSDError
from rsd_core.blocking import iterate, wait_for
from rsd_core.testing import ScriptedDrafter, ScriptedVerifier
from rsd_integrations.batch import Journal, read_rows
from rsd_integrations.evaluation import Item, Task, evaluate
from rsd_integrations.evaluation.scoring import read_solutions, score_all
from rsd_integrations.evaluation.side_by_side import as_ready

SCRIPTED = RSDConfig(drafter="scripted:draft", verifier="scripted:verifier", target="scripted:target")
LEARNING = "rsd@budget_aware:0.3"


class Seats(Task):
    """Problems that the scripted models answer, one of three correctly."""

    def draw(self, n: int | None, seed: int) -> list[Item]:
        return [
            Item(f"How many seats in hall {i}?", "10", lambda text, i=i: i % 3 == 0 and "{10}" in text)  # type: ignore[misc]
            for i in range(n or 0)
        ]


class Busy:
    """A call that takes a while, and knows how many are in flight."""

    def __init__(self, fails: int | None = None) -> None:
        self.inside = self.most = self.begun = 0
        self.fails = fails

    async def __call__(self, i: int) -> int:
        self.begun += 1
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await asyncio.sleep(0.01 * (3 - i % 3))
            if i == self.fails:
                raise RuntimeError(f"call {i}")
            return 10 * i
        finally:
            self.inside -= 1


async def test_results_come_as_they_are_ready_and_no_more_calls_at_once_than_asked_for() -> None:
    busy = Busy()
    pairs = [pair async for pair in as_ready(busy, range(9), at_once=3)]
    assert sorted(pairs) == [(i, 10 * i) for i in range(9)]
    assert pairs[0] == (2, 20)
    assert (busy.most, busy.inside) == (3, 0)
    assert [pair async for pair in as_ready(busy, range(0), at_once=3)] == []


async def test_after_an_error_and_when_nobody_waits_any_more_nothing_works_on() -> None:
    busy = Busy(fails=4)
    seen: list[tuple[int, int]] = []

    async def consume() -> None:
        async for pair in as_ready(busy, range(100), at_once=5):
            seen.append(pair)  # noqa: PERF401 - what came before the error

    with pytest.raises(RuntimeError, match="call 4"):
        await consume()
    assert seen
    assert busy.inside == 0
    assert busy.begun < 20
    busy = Busy()
    async with aclosing(as_ready(busy, range(100), at_once=5)) as calls:
        async for _ in calls:
            break
    assert busy.inside == 0
    assert busy.begun < 20
    assert len(asyncio.all_tasks()) == 1


async def test_a_cancelled_caller_leaves_nothing_behind() -> None:
    busy = Busy()

    async def consume() -> None:
        async for _ in as_ready(busy, range(100), at_once=5):
            pass

    task = asyncio.ensure_future(consume())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert busy.inside == 0
    assert len(asyncio.all_tasks()) == 1


def test_solutions_are_scored_in_their_order_and_none_after_the_caller_has_left(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text("".join(json.dumps({"problem": f"{i}", "steps": ["a"]}) + "\n" for i in range(40)))
    scored: list[str] = []

    class Slow(ScriptedVerifier):
        async def score(self, path: Any, candidates: Any) -> Any:
            await asyncio.sleep(0.01 * (int(path.prompt[0].content) % 4))
            scored.append(path.prompt[0].content)
            return await super().score(path, candidates)

    solutions = read_solutions(file)
    assert [i for i, _ in iterate(score_all(Slow([0.5]), solutions))] == list(range(40))
    assert scored != [str(i) for i in range(40)]  # they were in flight together
    scored.clear()
    left = iterate(score_all(Slow([0.5]), solutions, concurrency=2))
    next(left)
    left.close()
    count = len(scored)
    wait_for(asyncio.sleep(0.1))
    assert len(scored) == count < 10


def test_an_evaluation_that_cannot_note_an_answer_ends_with_all_of_its_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, calls, rows = tmp_path / "journal.jsonl", [0], [0]
    add = Journal.add

    def draft(path: Any, rng: Any) -> str:
        calls[0] += 1
        return "\\boxed{10}"

    def full(self: Journal, row: dict[str, Any]) -> None:
        rows[0] += 1
        if rows[0] > 3:
            monkeypatch.setattr(
                "rsd_integrations.batch.journal.os.write",
                lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")),
            )
        add(self, row)

    drafter = ScriptedDrafter(draft, delay=0.02)
    monkeypatch.setattr("rsd_core.methods.load", lambda *_, **__: drafter)
    monkeypatch.setattr(Journal, "add", full)
    with pytest.raises(RSDError, match=r"cannot be written: full\. Its 3 rows are complete"):
        evaluate(SCRIPTED, Seats(), ["draft"], 100, 1, concurrency=4, journal=file)
    count = calls[0]
    time.sleep(0.2)
    assert calls[0] == count < 30
    monkeypatch.undo()
    assert len(read_rows(file)) == 4
    assert evaluate(SCRIPTED, Seats(), ["draft"], 100, 1, journal=file).done == 100
    assert os.listdir(tmp_path) == ["journal.jsonl"]


def test_a_method_that_learns_starts_over_and_its_attempts_are_never_mixed(tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    whole = evaluate(SCRIPTED, Seats(), [LEARNING], 6, 1)
    evaluate(SCRIPTED, Seats(), [LEARNING], 6, 1, journal=file)
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:5]))  # cut off after four of six answers
    done: list[int] = []

    def cut_off(report: Any) -> None:
        done.append(report.done)
        if report.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(SCRIPTED, Seats(), [LEARNING], 6, 1, cut_off, journal=file)
    assert done == [0, 1, 2, 3]
    assert file.read_text().startswith("".join(lines[:5]))
    done.clear()
    report = evaluate(SCRIPTED, Seats(), [LEARNING], 6, 1, lambda report: done.append(report.done), journal=file)
    assert done == [0, 1, 2, 3, 4, 5, 6]  # 4 and 3 answers of two attempts are not a complete one
    assert report.methods[LEARNING].by_target == whole.methods[LEARNING].by_target
    assert [row.get("attempt", 1) for row in read_rows(file)[1:]] == [1] * 4 + [2] * 3 + [3] * 6
    done.clear()
    evaluate(SCRIPTED, Seats(), [LEARNING], 6, 1, lambda report: done.append(report.done), journal=file)
    assert done == [6]


def test_rsd_by_its_own_name_learns_where_the_configurations_policy_does(tmp_path: Path) -> None:
    """So does a method with parameters but without its own policy."""
    file = tmp_path / "journal.jsonl"
    config = RSDConfig(**{**SCRIPTED.model_dump(), "policy": {"kind": "budget_aware", "target_rate": 0.3}})
    for name in ("rsd", "rsd:verifier=scripted:verifier"):
        evaluate(config, Seats(), [name], 4, 1, journal=file)
    rows = file.read_text().splitlines(keepends=True)
    file.write_text("".join(rows[:3] + rows[5:8]))  # each cut off in the middle
    done: list[int] = []
    evaluate(
        config, Seats(), ["rsd", "rsd:verifier=scripted:verifier"], 4, 1, lambda r: done.append(r.done), journal=file
    )
    assert done[0] == 0
