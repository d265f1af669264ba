"""A role that fails is visible in all figures: outcomes, reports, JSON and tables."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from rsd_core import Decoder, Limits, RewardGuidedDecoder, RSDConfig, Settings
from rsd_core.methods import RSDMethod
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_integrations.evaluation import Item, Outcome, Task, evaluate, markdown
from rsd_integrations.role_faults import RoleFaults

pytestmark = pytest.mark.filterwarnings("ignore::rsd_core.RoleWarning")
SCRIPTED = RSDConfig(drafter="scripted:draft", verifier="scripted:verifier", target="scripted:target")


class Seats(Task):
    def draw(self, n: int | None, seed: int) -> list[Item]:
        return [Item(f"How many seats in hall {i}?", "10", lambda text: "{10}" in text) for i in range(n or 0)]


def decoder(*, verifier: Any = None, drafter: Any = None, **settings: Any) -> Decoder:
    return RewardGuidedDecoder(
        drafter=ScriptedDrafter(drafter or ["3*4=12.\n\n", "It is \\boxed{9}."]),
        verifier=ScriptedVerifier(verifier or [0.9, 0.2]),
        target=ScriptedTarget(["3*4=12.\n\n", "It is \\boxed{10}."]),
        settings=Settings(**settings),
    )


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Decoder]:
    """The decoder that `rsd` stands for, put there by the test."""
    decoders: list[Decoder] = []
    monkeypatch.setattr(RSDMethod, "build", lambda self, models: decoders[0])
    return decoders


@pytest.mark.parametrize(
    ("options", "kind", "count", "answers", "last", "line"),
    [
        (
            {"verifier": [RuntimeError("401 \x1b[31mno\nkey")]},
            *("verifier_error", 8, 4, "RuntimeError: 401 \x1b[31mno\nkey"),
            "rsd: the verifier failed 8 times in 4 of 4 answers, "
            r"most recently with 'RuntimeError: 401 \x1b[31mno\nkey'",
        ),
        (
            {"drafter": ["3*4=12.\n\n", ConnectionError("refused")]},
            *("drafter_error", 4, 4, "ConnectionError: refused"),
            "rsd: the drafter failed 4 times in 4 of 4 answers, most recently with 'ConnectionError: refused'",
        ),
        (
            {"limits": Limits(max_target_calls=0)},
            *("target_limit", 4, 4, "max_target_calls is reached: the draft is kept whatever its reward"),
            "rsd: a limit on the target was reached 4 times in 4 of 4 answers, most recently with 'max_target_calls is "
            "reached: the draft is kept whatever its reward'",
        ),
    ],
)
def test_a_role_that_fails_is_counted_and_told(
    built: list[Decoder], options: dict[str, Any], kind: str, count: int, answers: int, last: str, line: str
) -> None:
    built.append(decoder(**options))
    report = evaluate(SCRIPTED, Seats(), ["rsd", "draft"], 4, 1)
    rsd, draft = report.to_dict()["methods"]["rsd"], report.to_dict()["methods"]["draft"]
    assert (rsd["errors"], rsd["degraded"]) == (0, answers)
    assert rsd["faults"] == {kind: {"count": count, "answers": answers, "last": last}}
    assert (draft["degraded"], draft["faults"]) == (0, {})
    problem = json.loads(json.dumps(report.to_dict()))["problems"][3]["methods"]
    assert problem["rsd"]["degradations"] == {kind: count // answers}
    assert problem["rsd"]["messages"] == {kind: last}
    assert problem["draft"]["degradations"] == {}
    assert report.faults == [line]
    table = markdown(report)
    assert f"- {line}\n" in table
    row = next(one for one in table.splitlines() if one.startswith("| rsd |"))
    assert row.endswith(f" | 0 | {answers} |")
    assert "| failed | degraded |" in table


def test_a_table_says_nothing_of_faults_where_there_were_none() -> None:
    report = evaluate(SCRIPTED, Seats(), ["rsd", "draft"], 4, 1)
    assert report.faults == []
    assert "degraded" not in markdown(report)
    assert "Faults" not in markdown(report)


def test_a_failed_answer_says_why(built: list[Decoder]) -> None:
    def score(path: Any, step: Any) -> float:
        if "hall 2" in path.prompt[-1].content and path.depth:
            raise RuntimeError("gone")
        return 0.9

    built.append(decoder(verifier=score, on_verifier_error="raise"))
    report = evaluate(SCRIPTED, Seats(), ["rsd"], 4, 1)
    told = report.to_dict()
    assert told["methods"]["rsd"]["errors"] == 1
    assert told["methods"]["rsd"]["degraded"] == 0
    assert "gone" in told["methods"]["rsd"]["faults"]["error"]["last"]
    assert "gone" in told["problems"][2]["methods"]["rsd"]["messages"]["error"]
    assert report.faults[0].startswith("rsd: the request failed 1 time in 1 of 4 answers, most recently with")


def test_degradations_survive_the_journal(built: list[Decoder], tmp_path: Path) -> None:
    built.append(decoder(verifier=[0.9, RuntimeError("down")]))
    file = tmp_path / "journal.jsonl"
    first = evaluate(SCRIPTED, Seats(), ["rsd"], 4, 1, journal=file)
    built[0] = decoder()
    again = evaluate(SCRIPTED, Seats(), ["rsd"], 4, 1, journal=file)
    assert again.faults == first.faults != []


def test_answers_in_which_a_role_never_worked_are_retried_by_the_next_run(built: list[Decoder], tmp_path: Path) -> None:
    built.append(decoder(verifier=[RuntimeError("down")]))
    file = tmp_path / "journal.jsonl"
    report = evaluate(SCRIPTED, Seats(), ["rsd"], 4, 1, journal=file)
    assert report.methods["rsd"].never_worked == [
        "the verifier failed at every one of its 8 calls, the last time with 'RuntimeError: down'"
    ]
    built[0] = decoder()
    again = evaluate(SCRIPTED, Seats(), ["rsd"], 4, 1, journal=file)
    assert again.faults == again.methods["rsd"].never_worked == []
    built[0] = decoder(drafter=[ConnectionError("refused")])
    assert evaluate(SCRIPTED, Seats(), ["rsd"], 4, 1, journal=file).faults == []
    (told,) = evaluate(SCRIPTED, Seats(), ["rsd"], 4, 1).methods["rsd"].never_worked
    assert told == "the drafter failed at every one of its 8 calls, the last time with 'ConnectionError: refused'"


def test_a_drafter_whose_drafts_were_all_rejected_has_worked() -> None:
    result = decoder(drafter=["3*4=13.\n\n", ConnectionError("refused")], verifier=[0.1]).run("How many seats?")
    assert [(step.author, step.discarded_draft) for step in result.steps] == [
        ("target", "3*4=13.\n\n"),
        ("target", None),
    ]
    faults = RoleFaults()
    faults.add(result)
    assert (faults.worked["drafter"], faults.failed["drafter"], faults.never_worked) == (1, 1, [])
    assert not Outcome.of(result, correct=True).failed


def test_rows_of_journals_without_degradations_are_read() -> None:
    """As 9862848 wrote them."""
    report = evaluate(SCRIPTED, Seats(), ["rsd"], 1, 1)
    row = asdict(report.outcomes["rsd"][0])
    del row["degradations"], row["messages"]
    assert Outcome(**json.loads(json.dumps(row))) == report.outcomes["rsd"][0]
