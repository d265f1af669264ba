"""Many methods on the same problems: figures, resumption after a hard kill, and refusals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rsd_core import ConfigurationError, RSDConfig, RunError, Settings
from rsd_core.methods import METHODS as KNOWN
from rsd_core.testing import ScriptedDrafter
from rsd_integrations.evaluation import Item, Report, Task, evaluate, parse_method

SCRIPTED = RSDConfig(drafter="scripted:draft", verifier="scripted:verifier", target="scripted:target")
METHODS = ("rsd", "target", "draft", "rsd@budget_aware:0.3", "rsd@binary_step:0.9", "majority:2")


def without_seconds(report: Report) -> dict[str, Any]:
    told = report.to_dict()
    del told["totals"]["seconds"]
    for method in told["methods"].values():
        del method["seconds_per_problem"]
    for problem in told["problems"]:
        for outcome in problem["methods"].values():
            del outcome["seconds"]
    return told


class Seats(Task):
    """Problems that the scripted models answer, one of three correctly."""

    def draw(self, n: int | None, seed: int) -> list[Item]:
        return [
            Item(f"How many seats in hall {i}?", "10", lambda text, i=i: i % 3 == 0 and "{10}" in text)  # type: ignore[misc]
            for i in range(n or 0)
        ]


def test_every_method_answers_every_problem_and_figures_add_up() -> None:
    report = evaluate(SCRIPTED, Seats(), METHODS, 9, 1)
    assert report.done == 9 * len(METHODS)
    told = report.to_dict()
    assert told["methods"]["rsd"]["accuracy"] == pytest.approx(3 / 9)
    assert told["methods"]["draft"]["accuracy"] == pytest.approx(3 / 9)
    assert told["methods"]["rsd"]["target_share"] == pytest.approx(1 / 3)
    for name, method in report.methods.items():
        outcomes = report.outcomes[name].values()
        assert method.flops == sum(o.flops or 0 for o in outcomes)
        assert method.seconds == pytest.approx(sum(o.seconds for o in outcomes))
    assert told["comparisons"]["rsd"]["difference"] == 0


def test_every_kind_of_method_can_be_named() -> None:
    for kind in KNOWN:
        assert parse_method(kind) == KNOWN[kind]()
    assert parse_method("best_of_n:4,aggregate=min").model_dump()["aggregate"] == "min"
    made: Any = parse_method("rsd:candidates=4,temperature=0.7@first_steps:1/binary_step:0.5")
    assert (made.candidates, made.temperature, made.policy.n, made.policy.then.delta) == (4, 0.7, 1, 0.5)


def test_an_evaluation_without_methods_says_which_there_are() -> None:
    with pytest.raises(ConfigurationError, match=r"no method .* such as rsd, target or draft"):
        evaluate(RSDConfig(drafter="hf:no/such"), "embedded", [], 1, 1)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("rds", ["rds", "majority"]),
        ("majority:0", ["greater than or equal to 1"]),
        ("best_of_n:4,aggregate=best", ["last"]),
        ("rsd@treshold:1", ["treshold"]),
        ("target@binary_step", ["policy"]),
    ],
)
def test_a_bad_method_is_reported_before_anything_is_loaded(method: str, words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        evaluate(RSDConfig(drafter="hf:no/such"), "embedded", [method], 1, 1)
    assert all(word in str(caught.value) for word in words)


def test_a_journal_resumes_and_takes_more_methods(tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    whole = evaluate(SCRIPTED, Seats(), METHODS, 9, 1)
    evaluate(SCRIPTED, Seats(), METHODS, 9, 1, journal=file)
    lines = file.read_text().splitlines(keepends=True)
    for cut in (1, 5, 20, 30, len(lines)):
        file.write_text("".join(lines[:cut]) + lines[-1][:10])  # the last line was cut in the middle
        assert without_seconds(evaluate(SCRIPTED, Seats(), METHODS, 9, 1, journal=file)) == without_seconds(whole)
    counted: list[int] = []
    report = evaluate(
        SCRIPTED, Seats(), [*METHODS, "rsd@clipping"], 9, 1, lambda r: counted.append(r.done), journal=file
    )
    assert counted[0] == 9 * len(METHODS)
    assert report.done == 9 * (len(METHODS) + 1)


def test_a_journal_of_another_run_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    evaluate(SCRIPTED, Seats(), ["rsd"], 3, 1, journal=file)
    before = file.read_text()
    for config, n, seed, word in (
        (SCRIPTED, 4, 1, "n is 3"),
        (SCRIPTED, 3, 2, "seed"),
        (RSDConfig(**{**SCRIPTED.model_dump(), "settings": {"temperature": 1}}), 3, 1, "config"),
    ):
        with pytest.raises(ConfigurationError, match=word):
            evaluate(config, Seats(), ["rsd"], n, seed, journal=file)
    assert file.read_text() == before


def test_a_failed_problem_is_counted_and_retried_on_resumption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {"now": True}

    def draft(path: Any, rng: Any) -> str:
        if broken["now"] and path.prompt[-1].content.endswith("hall 2?"):
            raise RuntimeError("gone")
        return "\\boxed{10}"

    monkeypatch.setattr("rsd_core.methods.load", lambda spec: ScriptedDrafter(draft))
    file = tmp_path / "journal.jsonl"
    first = evaluate(SCRIPTED, Seats(), ["draft"], 4, 1, journal=file)
    assert (first.methods["draft"].errors, first.methods["draft"].right) == (1, 2)
    broken["now"] = False
    assert evaluate(SCRIPTED, Seats(), ["draft"], 4, 1, journal=file).methods["draft"].errors == 0


def test_a_broken_set_up_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = ScriptedDrafter([RuntimeError("no such server")])
    monkeypatch.setattr("rsd_core.methods.load", lambda spec: broken)
    with pytest.raises(RunError, match="no such server"):
        evaluate(SCRIPTED, Seats(), ["draft"], 4, 1)


def test_a_run_that_was_killed_goes_on_to_the_identical_table(tmp_path: Path) -> None:
    """SIGKILL in the middle, through the command itself, on the embedded models."""
    methods = "draft;rsd@binary_step:0.5;rsd@budget_aware:0.1"

    def command(journal: Path, json_file: Path) -> list[str]:
        words = ["eval", "--n", "6", "--seed", "9", "--methods", methods, "--concurrency", "4"]
        return [
            sys.executable,
            "-m",
            "rsd_integrations.cli",
            *words,
            "--journal",
            str(journal),
            "--json",
            str(json_file),
        ]

    env = os.environ | {"OMP_NUM_THREADS": "1"}
    resumed, journal = tmp_path / "resumed.json", tmp_path / "journal.jsonl"
    process = subprocess.Popen(command(journal, resumed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    deadline = time.monotonic() + 120
    while not journal.exists() or journal.read_bytes().count(b"\n") < 9:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not resumed.exists()
    assert journal.read_bytes().count(b"\n") < 19  # it was cut off in the middle
    subprocess.run(command(journal, resumed), check=True, capture_output=True, env=env)

    told: dict[str, Any] = json.loads(resumed.read_text())
    del told["totals"]["seconds"]
    for method in told["methods"].values():
        del method["seconds_per_problem"]  # seconds are measured, not computed
    for problem in told["problems"]:
        for outcome in problem["methods"].values():
            del outcome["seconds"]
    whole = evaluate(RSDConfig(settings=Settings(seed=9)), "embedded", methods.split(";"), 6, 9, concurrency=4)
    assert told == json.loads(json.dumps(without_seconds(whole)))
