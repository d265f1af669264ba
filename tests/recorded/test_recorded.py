"""Recorded runs: a replay gives what was recorded, for every method, and invents nothing."""

import asyncio
import gzip
import json
from collections.abc import Sequence
from pathlib import Path as File
from typing import Any

import pytest

from rsd_core import (
    BinaryStep,
    ConfigurationError,
    Drafter,
    Generation,
    Message,
    Path,
    PromptError,
    Result,
    RewardGuidedDecoder,
    RSDConfig,
    Sampling,
    Scores,
    Settings,
    Step,
    StepRequest,
    Target,
    Thinking,
    Usage,
    Verifier,
)
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_core.thoughts.markers import MARKERS
from rsd_integrations.evaluation import Report, evaluate
from rsd_integrations.recorded import MissingCallError, Recorder, Replay, RunRecord
from rsd_integrations.recorded.keys import call_key, path_digest, request_data

SCRIPTED = RSDConfig(drafter="scripted:draft", verifier="scripted:verifier", target="scripted:target")
METHODS = (
    *("rsd@binary_step:0.5", "rsd@binary_step:0.99", "rsd@budget_aware:0.2", "target", "draft", "majority:3"),
    *("best_of_n:2", "beam:4,width=2", "specreason", "gsi:n=2", "glimprouter:1.0", "backtracking", "hgs"),
)
"""One of each kind: greedy and sampled, with likelihoods, entropies, branches, and the target as judge."""


def figures(report: Report) -> Any:
    """All but the wall clock."""
    told = report.to_dict()
    told.pop("replayed", None)
    del told["totals"]["seconds"]
    for method in told["methods"].values():
        del method["seconds_per_problem"]
    for problem in told["problems"]:
        for outcome in problem["methods"].values():
            del outcome["seconds"]
    return told


def test_a_replay_gives_what_was_recorded_to_the_token(tmp_path: File) -> None:
    """The embedded family, in its own engine: answers, rewards, and FLOPs that depend on what was cached."""
    file = tmp_path / "run.jsonl.gz"
    live = evaluate(RSDConfig(), "embedded", METHODS, 2, 1, record=file)
    replay = evaluate(RSDConfig(), "embedded", METHODS, 2, 1, replay=Replay(file))
    assert figures(replay) == figures(live)
    record = RunRecord.load(file)
    assert {facts["spec"] for facts in record.models} == {"embedded:draft", "embedded:verifier", "embedded:target"}
    worked = sum(outcome.seconds for outcome in replay.outcomes["rsd@binary_step:0.5"].values())
    assert worked > 0  # of the models when they were recorded, since a replay takes none
    # A threshold that was never recorded, where it makes no other decisions than one that was.
    other = evaluate(RSDConfig(), "embedded", ["rsd@binary_step:0.501"], 2, 1, replay=Replay(file))
    assert other.methods["rsd@binary_step:0.501"].right == live.methods["rsd@binary_step:0.5"].right
    assert other.methods["rsd@binary_step:0.501"].flops == live.methods["rsd@binary_step:0.5"].flops


@pytest.mark.parametrize("method", ["target", "rsd@binary_step:0.99"])
def test_a_call_that_was_never_recorded_ends_the_replay(method: str, tmp_path: File) -> None:
    """No rule for faults gets over it: the target does not write a step for a drafter that is not in the record."""
    file = tmp_path / "run.jsonl.gz"
    evaluate(SCRIPTED, "embedded", ["draft", "rsd@constant:1"], 2, 1, record=file)
    with pytest.raises(
        MissingCallError,
        match=r"run\.jsonl\.gz does not hold this call: generate of the target scripted:target, .*"
        r"of the answer to '.*'\. The record was made with draft, rsd@constant:1\.",
    ):
        evaluate(SCRIPTED, "embedded", ["draft", method], 2, 1, replay=Replay(file))
    with pytest.raises(ConfigurationError, match=r"holds no calls of 'embedded:draft'; its models are scripted:"):
        evaluate(RSDConfig(), "embedded", ["draft"], 2, 1, replay=Replay(file))


@pytest.mark.parametrize("rule", ["target", "accept", "raise"])
def test_a_missing_score_ends_the_replay_whatever_the_rule_for_verifiers(rule: Any, tmp_path: File) -> None:
    file = tmp_path / "run.jsonl.gz"
    evaluate(SCRIPTED, "embedded", ["draft", "target"], 1, 1, record=file)
    replay = Replay(file)
    replay.record.models.append({**replay.record.models[0], "spec": "scripted:verifier", "roles": ["verifier"]})
    config = RSDConfig(**SCRIPTED.model_dump() | {"settings": Settings(on_verifier_error=rule)})
    with pytest.raises(MissingCallError, match="score of the verifier scripted:verifier, at the beginning of"):
        evaluate(config, "embedded", ["rsd"], 1, 1, replay=replay)


def test_a_record_grows_and_what_a_killed_run_left_is_taken_up(tmp_path: File) -> None:
    file = tmp_path / "run.jsonl.gz"
    evaluate(SCRIPTED, "embedded", ["draft"], 2, 1, record=file)
    before = RunRecord.load(file)
    file.write_bytes(file.read_bytes() + gzip.compress(b'{"key": "half')[:9])  # killed while it wrote
    assert RunRecord.load(file).calls == before.calls
    evaluate(SCRIPTED, "embedded", ["rsd", "target"], 2, 1, record=file)
    after = RunRecord.load(file)
    assert before.calls.keys() < after.calls.keys()
    assert [run["methods"] for run in after.runs] == [["draft"], ["rsd", "target"]]
    assert evaluate(SCRIPTED, "embedded", ["draft", "rsd", "target"], 2, 1, replay=Replay(file)).done == 6


def test_what_is_recorded_is_in_the_file_before_the_answer_counts(tmp_path: File) -> None:
    """A run that is killed after an answer, and resumed by its journal, leaves a record without holes."""
    file, journal, found = tmp_path / "run.jsonl.gz", tmp_path / "journal.jsonl", list[tuple[int, int]]()

    def watch(report: Report) -> None:
        if report.done:
            found.append((report.done, len(RunRecord.read(file)[0].calls)))

    evaluate(SCRIPTED, "embedded", ["draft"], 3, 1, watch, concurrency=1, journal=journal, record=file)
    assert [done for done, _ in found] == [1, 2, 3]
    assert all(calls >= 3 * done for done, calls in found)  # three steps each


def test_a_file_is_compressed_text_with_a_header_and_no_secret(tmp_path: File) -> None:
    file, secret = tmp_path / "run.jsonl.gz", "s3cr3t"
    with Recorder(
        file, {"config": {"drafter": f"openai,api_key={secret}:m@http://u:{secret}@127.0.0.1/v1"}}
    ) as recorder:
        model = recorder.wrap(ScriptedDrafter([RuntimeError(f"api_key={secret} is wrong")]), f"mine,token={secret}:x")
        with pytest.raises(RuntimeError):
            asyncio.run(model.generate(Path((Message("user", "q"),)), StepRequest(seeds=(0,))))
    lines = gzip.decompress(file.read_bytes()).decode().splitlines()
    header, *rest = map(json.loads, lines)
    assert header["rsd_record"] == 1
    assert header["version"]
    assert len(header["created"]) == len("2026-11-29")
    assert not any(secret in line for line in lines)
    assert [next(iter(line)) for line in rest] == ["run", "spec", "key"]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"{}", "is not a recorded run"),
        (gzip.compress(b"not JSON\n"), "is not a recorded run"),
        (gzip.compress(b'{"rsd_record": 1}\n{"key": "k"}\n'), "is not a recorded run"),
        (gzip.compress(b'{"rsd_record": 9, "version": "7.0"}\n'), "written by rsd-decoding 7.0, in format 9; upgrade"),
    ],
    ids=["JSON", "no JSON", "half a call", "newer"],
)
def test_other_files_are_refused_and_left_as_they_are(data: bytes, told: str, tmp_path: File) -> None:
    file = tmp_path / "mine.gz"
    file.write_bytes(data)
    for use in (lambda: Replay(file), lambda: Recorder(file, {})):
        with pytest.raises(ConfigurationError, match=told):
            use()
    assert file.read_bytes() == data
    with pytest.raises(ConfigurationError, match=r"unknown recorded run 'no-such'; .*and there is no such file"):
        Replay("no-such")


def test_a_model_of_another_size_is_not_recorded_as_the_same(tmp_path: File) -> None:
    file = tmp_path / "run.jsonl.gz"
    with Recorder(file, {}) as recorder:
        recorder.wrap(ScriptedDrafter(["a"]), "mine:x")
    evaluate(SCRIPTED, "embedded", ["draft"], 1, 1, record=file)  # gives it calls, so that it is written
    with Recorder(file, {}) as recorder, pytest.raises(ConfigurationError, match=r"its flops_per_token is 2\.0 there"):
        recorder.wrap(ScriptedDrafter(["a"], flops_per_token=4.0), "scripted:draft")


def decoders(tape: Any, **models: Any) -> RewardGuidedDecoder:
    names = ("drafter", "verifier", "target")
    if isinstance(tape, Recorder):
        return RewardGuidedDecoder(**{name: tape.wrap(models[name], f"mine:{name}") for name in names})
    return RewardGuidedDecoder(**{name: tape.load(f"mine:{name}") for name in names})


def test_failures_abstentions_thoughts_and_prices_come_back(tmp_path: File) -> None:
    """A run with all that may go otherwise, step by step."""
    file = tmp_path / "run.jsonl.gz"
    thinking = Thinking(MARKERS["think"], "<think>\n")
    models: dict[str, Any] = {
        "drafter": ScriptedDrafter(["One.\n\n", RuntimeError("away"), "Three.</think>\n\n", "4."], thinking=thinking),
        "verifier": ScriptedVerifier([0.9, 0.5, None, ConnectionError("refused")]),
        "target": ScriptedTarget(["Eins.\n\n", "Zwei.\n\n", "Drei.</think>\n\n", "Vier."], thinking=thinking),
    }
    with Recorder(file, {}) as recorder:
        live = decoders(recorder, **models).run("Count.")
    replay = Replay(file)
    again = decoders(replay).run("Count.")
    assert {one.kind for one in live.degradations} == {"drafter_error", "verifier_error"}
    assert live.thought == "One.\n\nZwei.\n\nDrei."
    assert plain(again) == plain(live) | {"degradations": plain(again)["degradations"]}
    assert [one.kind for one in again.degradations] == [one.kind for one in live.degradations]
    assert "away" in again.degradations[0].message


def plain(result: Result) -> Any:
    told: Any = result.to_dict()
    del told["seconds"]
    return told


def test_a_reply_takes_the_place_of_an_error(tmp_path: File) -> None:
    """A target that fails once and is tried again: the record holds what it wrote."""
    file, tries = tmp_path / "run.jsonl.gz", iter([RuntimeError("busy"), "Done."])
    models: dict[str, Any] = {
        "drafter": ScriptedDrafter(["Slip.\n\n"]),
        "verifier": ScriptedVerifier([0.0]),
        "target": ScriptedTarget(lambda *_: next(tries)),  # type: ignore[arg-type]
    }
    with Recorder(file, {}) as recorder:
        live = decoders(recorder, **models).run("q")
    again = decoders(Replay(file)).run("q")
    assert (live.text, len(live.degradations)) == ("Done.", 1)
    assert (again.text, len(again.degradations)) == ("Done.", 0)


def test_an_error_of_the_prompt_is_one_again(tmp_path: File) -> None:
    file = tmp_path / "run.jsonl.gz"
    with Recorder(file, {}) as recorder:
        model = recorder.wrap(ScriptedDrafter([PromptError("900 tokens, the context is 512")]), "mine:x")
        for _ in range(2):
            with pytest.raises(PromptError):
                asyncio.run(model.generate(Path((Message("user", "q"),)), StepRequest(seeds=(0,))))
    with pytest.raises(PromptError, match="the context is 512"):
        asyncio.run(Replay(file).load("mine:x").generate(Path((Message("user", "q"),)), StepRequest(seeds=(0,))))


class Reads(Drafter, Target):
    """Counts what a cache would: each token of a path is computed once, whoever wrote it."""

    name = "reads"
    flops_per_token = 1.0

    def __init__(self) -> None:
        self.read: dict[str, int] = {}

    async def generate(self, path: Path, request: StepRequest) -> Generation:
        size = 3 * (1 + path.depth)
        known = max((n for text, n in self.read.items() if path.text.startswith(text)), default=0)
        self.read[path.text] = size
        step = Step(
            f"Step {path.depth}.\n\n" if path.depth < 3 else "End.", "end" if path.depth == 3 else "delimiter", size=3
        )
        return Generation((step,), Usage(prefix=size, computed=size - known + 3, reused=known, generated=3))


def test_a_cost_that_was_never_recorded_is_estimated_and_marked(tmp_path: File) -> None:
    """Recorded at every step, the target is then asked at the last one alone: it has to read all of it at once."""
    file = tmp_path / "run.jsonl.gz"
    same = Reads()

    def made(tape: Any, threshold: float) -> RewardGuidedDecoder:
        decoder = decoders(tape, drafter=same, verifier=ScriptedVerifier([0.2, 0.2, 0.2, 0.1]), target=Reads())
        decoder.policy = BinaryStep(delta=threshold)
        return decoder

    with Recorder(file, {}) as recorder:
        live = made(recorder, 0.5).run("q")
    assert [step.author for step in live.steps] == ["target"] * 4
    again = made(Replay(file), 0.15).run("q")
    assert [step.author for step in again.steps] == ["draft"] * 3 + ["target"]
    target = again.ledger.target
    assert (target.computed, target.reused) == (12 + 3, 0)
    assert target.estimated > 0
    assert live.ledger.target.estimated == 0


def test_scores_of_a_run_are_found_one_by_one(tmp_path: File) -> None:
    class Runs(ScriptedVerifier):
        async def score_run(self, path: Path, steps: Sequence[Step]) -> Sequence[Scores]:
            return [Scores((0.1 * i,), Usage(computed=i)) for i, _ in enumerate(steps, 1)]

    file, steps = tmp_path / "run.jsonl.gz", [Step("a\n\n", "delimiter"), Step("b\n\n", "delimiter")]
    root = Path((Message("user", "q"),))
    with Recorder(file, {}) as recorder:
        asyncio.run(recorder.wrap(Runs([]), "mine:v").score_run(root, steps))
    verifier: Verifier = Replay(file).load("mine:v")
    fresh = Path((Message("user", "q"),))
    assert asyncio.run(verifier.score(fresh, steps[:1])).rewards == (0.1,)
    assert asyncio.run(verifier.score(fresh.extend(steps[0]), steps[1:])).usage == Usage(computed=2)


def test_keys_tell_apart_what_models_can() -> None:
    root = Path((Message("user", "q"),))
    paths = [
        root,
        Path((Message("user", "q "),)),
        Path((Message("system", "q"),)),
        Path((Message("user", "q", {"tool_calls": [1]}),)),
        Path((Message("user", "q"),), thinking=Thinking(MARKERS["think"], "<think>\n")),
        root.extend(Step("a", "delimiter")),
        root.extend(Step("a", "delimiter", (1,))),
        root.extend(Step("a", "delimiter", (2,))),
        root.extend(Step("a", "delimiter")).extend(Step("", "delimiter")),
    ]
    assert len({path_digest(path) for path in paths}) == len(paths)
    assert path_digest(Path((Message("user", "q"),))) == path_digest(root)
    requests = [
        StepRequest((1,)),
        StepRequest((1, 2)),
        StepRequest((1,), max_tokens=9),
        StepRequest((1,), delimiter="\n"),
        StepRequest((1,), close="</think>"),
        *(StepRequest((seed,), sampling=parse_sampling(t)) for seed in (1, 2) for t in (0.5, 0.7)),
    ]
    keys = {call_key("m", "generate", path_digest(root), request_data(request)) for request in requests}
    assert len(keys) == len(requests)
    # Greedy steps are the same whatever the seed; who is asked and for what is not.
    assert request_data(StepRequest((1,))) == request_data(StepRequest((2,)))
    plain, few = (request_data(StepRequest((1,), sampling=Sampling(1.0, 0.9, top_k))) for top_k in (0, 20))
    assert plain[3] == [1.0, 0.9]  # as in recordings that were made before there was top-k
    assert few[3] == [1.0, 0.9, 20]
    assert len({call_key(m, c, b"") for m in "ab" for c in ("score", "generate")}) == 4


def parse_sampling(temperature: float) -> Any:
    return Settings(temperature=temperature).sampling


def test_a_replay_takes_neither_journal_nor_record(tmp_path: File) -> None:
    file = tmp_path / "run.jsonl.gz"
    evaluate(SCRIPTED, "embedded", ["draft"], 1, 1, record=file)
    for extra in ({"journal": tmp_path / "j"}, {"record": file}):
        with pytest.raises(ConfigurationError, match="leave record and journal out"):
            evaluate(SCRIPTED, "embedded", ["draft"], 1, 1, replay=Replay(file), **extra)  # type: ignore[arg-type]


def test_lookahead_and_hedging_do_not_matter_to_a_replay(tmp_path: File) -> None:
    file = tmp_path / "run.jsonl.gz"
    eager = RSDConfig(**SCRIPTED.model_dump() | {"settings": Settings(lookahead=2, hedge=0.1)})
    live = evaluate(eager, "embedded", ["rsd"], 2, 1, record=file)
    again = evaluate(eager, "embedded", ["rsd"], 2, 1, replay=Replay(file))
    assert [o.text for o in again.outcomes["rsd"].values()] == [o.text for o in live.outcomes["rsd"].values()]
