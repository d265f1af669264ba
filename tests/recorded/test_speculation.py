"""Recorded runs of models that speculate: text and ledger of a replay are those of the live run, role by role."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path as File
from typing import Any

import pytest

from rsd_core import (
    ConfigurationError,
    Drafter,
    Generation,
    Ledger,
    Path,
    Result,
    RSDConfig,
    Settings,
    Speculation,
    SpeculativeDecoding,
    Step,
    StepRequest,
    Target,
    TargetError,
    Usage,
    as_prompt,
    load,
)
from rsd_core.methods import parse_method
from rsd_core.testing import ScriptedDrafter
from rsd_integrations.evaluation import evaluate
from rsd_integrations.recorded import MissingCallError, Recorder, Replay
from rsd_integrations.speculation.lookup import Lookup
from tests.recorded.test_recorded import figures

METHODS = (
    *("speculative", "speculative:lookup", "speculative:rule=(relaxed:k=50,ratio=0)", "speculative_beams:4"),
    *("rsd@binary_step:0.9", "target"),
)
SAMPLED = "rsd:temperature=0.7@binary_step:0.9"
DRAFTED = RSDConfig(settings=Settings(speculate="drafter", speculate_drafts="lookup"))
QUESTION = (
    "Ina has 43 cups. On Monday she finds 46. On Tuesday she buys 6 bags of 3. On Thursday she uses up 52. On Friday "
    "she ends up with 4 times as many. On Sunday she breaks 20. How many more cups does Ina have now than at the start?"
)
"""One in which a lossy rule decides otherwise than the exact one."""


def test_a_replay_gives_what_was_recorded_and_what_no_record_changes(tmp_path: File) -> None:
    """Several methods side by side over the embedded family: to the token, and to the FLOP of each role."""
    file = tmp_path / "run.jsonl.gz"
    plain = evaluate(DRAFTED, "embedded", METHODS, 2, 1)
    live = evaluate(DRAFTED, "embedded", METHODS, 2, 1, record=file)
    again = evaluate(DRAFTED, "embedded", METHODS, 2, 1, replay=Replay(file))
    assert figures(again) == figures(live) == figures(plain)


def told(result: Result) -> Any:
    data: Any = result.to_dict()
    del data["seconds"]
    for role in ("drafter", "verifier", "target", "total"):
        del data["ledger"][role]["seconds"]
    return data


@pytest.mark.parametrize("method", [*METHODS, SAMPLED])
def test_each_roles_account_comes_back(method: str, tmp_path: File) -> None:
    file, decoder = tmp_path / "run.jsonl.gz", parse_method(method)
    plain = decoder.build(DRAFTED.setup()).run(QUESTION)
    with Recorder(file, {}) as recorder:
        live = decoder.build(DRAFTED.setup(recorder.load)).run(QUESTION)
    again = decoder.build(DRAFTED.setup(Replay(file).load)).run(QUESTION)
    assert told(again) == told(live) == told(plain)
    assert again.ledger.target.seconds == pytest.approx(live.ledger.target.seconds, abs=1e-4)
    assert again.ledger.target.dtype == ("float32" if again.ledger.target.calls else None)
    if method.startswith("speculative") and "lookup" not in method:
        assert again.ledger.drafter.computed > 0
        assert again.ledger.drafter.flops == again.ledger.drafter.computed * load("embedded:draft").flops_per_token
    if "relaxed" in method:
        assert again.ledger.target.overridden > 0


def test_a_model_that_drafts_for_itself_has_both_works_on_its_accounts(tmp_path: File) -> None:
    file = tmp_path / "run.jsonl.gz"
    with Recorder(file, {}) as recorder:
        model = recorder.load("embedded:target")
        live = SpeculativeDecoding(drafter=model, target=model).run(QUESTION)
    model = Replay(file).load("embedded:target")
    assert told(SpeculativeDecoding(drafter=model, target=model).run(QUESTION)) == told(live)
    assert live.ledger.drafter.computed > live.ledger.drafter.generated > 0


def test_another_speculation_is_another_call(tmp_path: File) -> None:
    """And the same in other words is the same."""
    file = tmp_path / "run.jsonl.gz"
    with Recorder(file, {}) as recorder:
        live = SpeculativeDecoding(target=recorder.load("embedded:target"), proposer="lookup:n=2").run(QUESTION)
    target = Replay(file).load("embedded:target")
    for same in ("lookup:2", {"kind": "lookup", "n": 2}, Lookup(n=2)):
        assert SpeculativeDecoding(target=target, proposer=same, draft_length=5).run(QUESTION).text == live.text
    for other in ({"proposer": "lookup"}, {"draft_length": 4}, {"rule": "relaxed"}):
        with pytest.raises(MissingCallError):
            SpeculativeDecoding(target=target, **{"proposer": "lookup:n=2"} | other).run(QUESTION)
    with pytest.raises(ConfigurationError, match="did you mean 'lookup'"):
        SpeculativeDecoding(target=target, proposer="looking")


class Speculates(Target):
    """A target of one's own, which says how much its drafter and itself had to read."""

    name, flops_per_token = "speculates", 10.0

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def checked_speculation(self, speculation: Speculation) -> Speculation:
        return speculation

    async def generate(self, path: Path, request: StepRequest) -> Generation:
        own, drafting = Usage(9, 9, 0, 2, discarded=1), Usage(7, 5, 2, 3, discarded=2)
        assert request.speculation is not None
        assert request.speculation.drafter is not None
        usage = replace(own + drafting, parts=((self, own), (request.speculation.drafter, drafting)))
        if self.error is not None:
            raise TargetError(str(self.error), usage=usage)
        return Generation((Step("Done.", "end", size=2),), usage)


def decoded(tape: Recorder | Replay, drafter: Drafter, target: Target) -> SpeculativeDecoding:
    settings = Settings(target_retries=0)
    if isinstance(tape, Replay):
        return SpeculativeDecoding(drafter=tape.load("my:d"), target=tape.load("my:t"), settings=settings)
    wrapped = tape.wrap(drafter, "my:d"), tape.wrap(target, "my:t")
    return SpeculativeDecoding(drafter=wrapped[0], target=wrapped[1], settings=settings)


def test_a_failed_call_has_the_work_of_both(tmp_path: File) -> None:
    file, drafter, target = tmp_path / "run.jsonl.gz", ScriptedDrafter(["x"]), Speculates(RuntimeError("broken"))

    def ledger_of(tape: Recorder | Replay) -> Ledger:
        with pytest.raises(TargetError, match="broken") as caught:
            decoded(tape, drafter, target).run("q")
        assert caught.value.partial is not None
        return caught.value.partial.ledger

    with Recorder(file, {}) as recorder:
        live = ledger_of(recorder)
    assert (live.drafter.generated, live.drafter.discarded, live.drafter.failed) == (3, 3, 1)
    assert ledger_of(Replay(file)) == live


def test_what_both_would_have_to_read_is_estimated_where_no_run_read_as_much(tmp_path: File) -> None:
    """Recorded after the drafter had read the path, the call is then made when neither has."""
    file, request = tmp_path / "run.jsonl.gz", StepRequest((0,))
    path = Path(as_prompt("q"))
    with Recorder(file, {}) as recorder:
        live = decoded(recorder, ScriptedDrafter(["x"]), Speculates())
        assert live.drafter is not None
        asyncio.run(live.drafter.generate(path, request))
        speculating = replace(request, speculation=live.speculation)
        asyncio.run(live.target.generate(path, speculating))
    again = decoded(Replay(file), ScriptedDrafter(["x"]), Speculates())
    speculating = replace(request, speculation=again.speculation)
    usage = asyncio.run(again.target.generate(Path(as_prompt("q")), speculating)).usage
    (own, drafting) = (part for _, part in usage.parts)
    assert (own.computed, own.reused, own.estimated) == (9, 0, 0)
    assert (drafting.computed, drafting.reused, drafting.estimated) == (7, 0, 2)
    assert usage.estimated == 2


def test_a_drafter_that_is_not_recorded_is_refused(tmp_path: File) -> None:
    with (
        Recorder(tmp_path / "run.jsonl.gz", {}) as recorder,
        pytest.raises(ConfigurationError, match="also record those of the drafter"),
    ):
        SpeculativeDecoding(drafter=ScriptedDrafter(["x"]), target=recorder.wrap(Speculates(), "my:t"))
