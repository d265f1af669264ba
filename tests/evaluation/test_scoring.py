"""Given solutions are scored as by a decoder, concurrently, and an invalid one affects no other."""

import asyncio
import csv
import json
import math
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path as Folder
from typing import Any

import pyarrow.parquet
import pytest

from rsd_core import Path, RewardGuidedDecoder, Scores, Step, Usage, Verifier, VerifierError, as_prompt
from rsd_core.queueing import Caller, Slots, current_caller
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_integrations.evaluation.scoring import BadRow, Solution, aggregates, read_entries, score_all, score_steps

TEXTS = ("3*4=12.", "12-2=10.", "It is \\boxed{10}.")


def solution(*texts: str) -> Solution:
    return Solution(as_prompt("How many seats?"), texts, {})


def test_steps_are_those_that_a_decoder_would_score() -> None:
    """Every step but the last ends with its delimiter, and the last one ends the answer."""
    seen: list[tuple[str, Step]] = []

    def score(path: Path, step: Step) -> float:
        seen.append((path.text, Step(step.text, step.ending)))
        return 0.9

    given = asyncio.run(score_steps(ScriptedVerifier(score), solution(*TEXTS)))
    assert given == [0.9] * 3
    own, seen = seen, []
    RewardGuidedDecoder(
        drafter=ScriptedDrafter([f"{TEXTS[0]}\n\n", f"{TEXTS[1]}\n\n", TEXTS[2]]),
        verifier=ScriptedVerifier(score),
        target=ScriptedTarget([]),
    ).run("How many seats?")
    assert own == seen
    assert [step.ending for _, step in own] == ["delimiter", "delimiter", "end"]
    assert own[-1] == ("3*4=12.\n\n12-2=10.\n\n", Step("It is \\boxed{10}.", "end"))
    assert next(iter(solution("alone").paths()))[1] == Step("alone", "end")


def test_what_is_not_read_beside_steps_is_told(tmp_path: Folder, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "x.jsonl"
    steps = {"problem": "p", "steps": ["a"]}
    rows = [steps, steps | {"solution": "reference"}, steps | {"thought": "hm", "solution": ""}]
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"problem": "p", "solution": "a"}]))
    assert [entry.steps for entry in read_entries(file) if isinstance(entry, Solution)] == [("a",)] * 4
    assert [record.getMessage() for record in caplog.records] == [
        f"{file}: 1 of 4 entries have `steps` and a `{name}`: only the `steps` are read"
        for name in ("solution", "thought")
    ]


@pytest.mark.parametrize("rewards", [(math.nan,), (1.5,), (-0.1,), (), (0.5, 0.5)])
def test_an_invalid_reward_is_an_error_of_its_solution(rewards: tuple[float, ...]) -> None:
    class Odd(Verifier):
        name = "odd"

        async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
            return Scores(rewards, Usage())

    with pytest.raises(VerifierError, match=r"'odd' gave \(.*\) for one step"):
        asyncio.run(score_steps(Odd(), solution("a")))


ROWS = [{"problem": "1, or 2?", "solution": "One\n\nor two."}, {"problem": "x", "solution": ""}]


def test_tables_are_read_as_jsonl_is(tmp_path: Folder) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    for suffix, mark in ((".csv", ","), (".tsv", "\t")):
        with (tmp_path / f"a{suffix}").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["problem", "solution"], delimiter=mark)
            writer.writeheader()
            writer.writerows(ROWS)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    for suffix in (".jsonl", ".csv", ".tsv", ".parquet"):
        good, bad = read_entries(tmp_path / f"a{suffix}")
        assert isinstance(good, Solution)
        assert (good.prompt, good.steps) == (as_prompt("1, or 2?"), ("One", "or two."))
        assert isinstance(bad, BadRow)
        assert bad.error == "its `solution` is blank"


@pytest.mark.parametrize("given", [None, 57, ["57"]])
def test_a_solution_that_is_not_text_is_not_converted(given: object, tmp_path: Folder) -> None:
    """`null` was scored as the word None."""
    (tmp_path / "a.jsonl").write_text(json.dumps({"problem": "x", "solution": given}))
    (bad,) = read_entries(tmp_path / "a.jsonl")
    assert isinstance(bad, BadRow)
    assert f"its `solution` is {json.dumps(given)}, not a text" in bad.error


def all_of(verifier: Verifier, *solutions: Solution, concurrency: int = 16) -> list[Any]:
    async def collect() -> list[Any]:
        async with aclosing(score_all(verifier, solutions, concurrency)) as scored:
            return [found async for found in scored]

    return asyncio.run(collect())


def test_a_solution_that_cannot_be_scored_spoils_no_other() -> None:
    def score(path: Path, step: Step) -> float | None:
        if step.text == "crash":
            raise ZeroDivisionError("by zero")
        if step.text == "long":
            raise VerifierError("too long")
        return None if step.text == "?" else 0.5

    found = all_of(ScriptedVerifier(score), *(solution(text) for text in ("a", "crash", "long", "?")))
    assert [i for i, _ in found] == [0, 1, 2, 3]
    assert (found[0][1], found[3][1]) == ([0.5], [None])
    assert isinstance(found[1][1], VerifierError)
    assert str(found[1][1]) == "'scripted verifier' failed: ZeroDivisionError: by zero"
    assert str(found[2][1]) == "too long"


def test_solutions_are_in_order_and_no_more_in_flight_than_allowed() -> None:
    inside, most = 0, 0

    class Watched(Verifier):
        async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(float(steps[0].text) / 100)
            inside -= 1
            return Scores((float(steps[0].text),), Usage())

    found = all_of(Watched(), *(solution(text) for text in ("0.9", "0.1", "0.5", "0.2")), concurrency=2)
    assert found == [(0, [0.9]), (1, [0.1]), (2, [0.5]), (3, [0.2])]
    assert most == 2


def test_nothing_is_left_at_work_when_the_caller_leaves() -> None:
    ended: list[str] = []

    class Slow(Verifier):
        async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
            try:
                await asyncio.sleep(0 if steps[0].text == "first" else 60)
            except asyncio.CancelledError:
                await asyncio.sleep(0.01)
                ended.append(steps[0].text)
                raise
            return Scores((0.5,), Usage())

    async def leave() -> None:
        async with aclosing(score_all(Slow(), [solution("first"), solution("second")])) as scored:
            async for found in scored:
                assert found == (0, [0.5])
                await asyncio.sleep(0.01)
                break
        assert ended == ["second"]

    asyncio.run(leave())


def test_aggregates_leave_out_what_has_no_reward() -> None:
    assert aggregates([0.5, None, 0.8]) == {"min": 0.5, "product": 0.4, "mean": pytest.approx(0.65), "last": 0.8}
    assert aggregates([0.5, None])["last"] is None
    assert set(aggregates([None]).values()) == {None}


def test_solutions_that_were_begun_are_served_before_new_ones() -> None:
    """Each is one request of a run, so that a verifier with few places ends them one after another."""
    places, served, callers = Slots(1), list[str](), dict[str, set[Caller]]()

    class Crowded(Verifier):
        name = "crowded"

        async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
            callers.setdefault(path.prompt[0].content, set()).add(current_caller())
            async with places:
                await asyncio.sleep(0)
                served.append(path.prompt[0].content)
            return Scores((0.5,), Usage())

    questions = [f"Question {i}" for i in range(8)]
    all_of(Crowded(), *(Solution(as_prompt(question), TEXTS, {}) for question in questions), concurrency=4)
    assert [[caller.concurrency for caller in own] for own in callers.values()] == [[4]] * 8
    last = {question: len(served) - served[::-1].index(question) for question in questions}
    assert sorted(questions, key=last.__getitem__) == questions
    assert last[questions[0]] < len(served) // 4
