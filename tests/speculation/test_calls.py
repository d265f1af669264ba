"""Calls that speculate: limits within a run of accepted tokens, faults, cancellation, and charges by model."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path as File
from typing import Any, Literal, cast

import pytest

from rsd_core import (
    ConfigurationError,
    Generation,
    Interrupted,
    Limits,
    Path,
    Sampling,
    Settings,
    Speculation,
    SpeculativeDecoding,
    StepRequest,
    TargetOnly,
    as_prompt,
)
from rsd_core.model import usage_of
from rsd_integrations.embedded.task import problems
from rsd_integrations.huggingface import HuggingFaceGenerator, load_generator
from rsd_integrations.speculation.proposals import Proposal
from rsd_integrations.speculation.proposers import Proposer, ProposerState
from tests.huggingface.tiny import make_causal_lm
from tests.speculation.scripted import Scripted

QUESTIONS = [problem.question for problem in itertools.islice(problems("test", 5), 6)]
WHOLE = StepRequest((0,), max_tokens=200, delimiter=None)


def write(
    target: HuggingFaceGenerator, request: StepRequest, speculation: Speculation, question: int = 0
) -> Generation:
    path = Path(as_prompt(QUESTIONS[question]))
    return asyncio.run(target.generate(path, replace(request, speculation=speculation)))


def test_the_decoder_writes_what_the_target_writes_in_fewer_passes(
    draft: HuggingFaceGenerator, target: HuggingFaceGenerator
) -> None:
    fast, alone = SpeculativeDecoding(drafter=draft, target=target), TargetOnly(target=target)
    for question in QUESTIONS[:3]:
        theirs = alone.run(question)
        before = target.runner.passes
        mine = fast.run(question)
        assert target.runner.passes - before < theirs.ledger.target.generated / 2
        assert (mine.text, mine.finish_reason) == (theirs.text, "stop")
        assert [step.text for step in mine.steps] == [step.text for step in theirs.steps]
        own, drafted = mine.ledger.target, mine.ledger.drafter
        assert own.generated == theirs.ledger.target.generated
        assert drafted.generated - drafted.discarded <= own.generated
        # A step's last token may be read twice: for what came before it, and for what comes after it.
        assert own.computed <= mine.prompt_tokens + own.generated + own.discarded + len(mine.steps)
        assert own.discarded <= drafted.discarded
        assert drafted.computed >= mine.prompt_tokens + own.generated / 2


@pytest.mark.parametrize("proposer", ["drafter", "lookup", "ngram:tree=true"])
def test_every_proposer_has_a_name(proposer: str, draft: HuggingFaceGenerator, target: HuggingFaceGenerator) -> None:
    drafter = draft if proposer == "drafter" else None
    decoder = SpeculativeDecoding(drafter=drafter, target=target, proposer=proposer, rule="exact", draft_length=4)
    result = decoder.run(QUESTIONS[1])
    assert result.text == TargetOnly(target=target).run(QUESTIONS[1]).text
    assert (result.ledger.drafter.calls > 0) is (proposer == "drafter")


def test_stop_strings_and_limits_end_an_answer_where_they_end_the_targets(
    draft: HuggingFaceGenerator, target: HuggingFaceGenerator
) -> None:
    for settings in (
        Settings(limits=Limits(max_tokens=7)),
        Settings(max_step_tokens=5),
        Settings(delimiter="sentence"),
    ):
        fast = SpeculativeDecoding(drafter=draft, target=target, settings=settings)
        mine, theirs = (
            made.run(QUESTIONS[0], stop=["="]) for made in (fast, TargetOnly(target=target, settings=settings))
        )
        assert (mine.text, mine.finish_reason, len(mine.steps)) == (
            theirs.text,
            theirs.finish_reason,
            len(theirs.steps),
        )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_more_tokens_are_written_than_were_asked_for(
    draft: HuggingFaceGenerator, target: HuggingFaceGenerator, temperature: float
) -> None:
    """Whether the limit falls within a draft, at its end or right after it; none are for nothing at all."""
    for most in range(14):
        made = write(
            target, StepRequest((3,), most, delimiter=None, sampling=Sampling(temperature)), Speculation(drafter=draft)
        )
        assert (made.steps[0].size, made.steps[0].ending) == (most, "length")
        own = [part.generated for model, part in made.usage.parts if model is target]
        assert sum(own) == most
        if most == 0:
            assert made.usage.computed == 0


@pytest.mark.parametrize("contexts", [(256, 64), (64, 256)])
def test_a_drafter_of_a_shorter_context_drafts_as_far_as_that(contexts: tuple[int, int], tmp_path: File) -> None:
    """And the target continues alone from there."""
    target, drafter = (
        load_generator(str(make_causal_lm(tmp_path / str(context), max_position_embeddings=context)))
        for context in contexts
    )
    positions: list[int] = []
    inner = drafter.runner._run

    def run(batch: Any, indices: Any) -> Any:
        positions.append(int(batch.positions.max()))
        return inner(batch, indices)

    drafter.runner._run = run  # type: ignore[method-assign]
    path = Path(as_prompt("How many?"))
    (step,) = asyncio.run(target.generate(path, replace(WHOLE, speculation=Speculation(drafter=drafter)))).steps
    (alone,) = asyncio.run(target.generate(Path(as_prompt("How many?")), WHOLE)).steps
    assert step.tokens == alone.tokens
    assert 40 < max(positions) < 64


@pytest.mark.parametrize("tree", [False, True])
def test_proposals_that_go_beyond_the_context_are_cut(tree: bool, tmp_path: File) -> None:
    target = load_generator(str(make_causal_lm(tmp_path / "tiny", max_position_embeddings=100)))
    known = write(target, WHOLE, Speculation("lookup")).steps[0]
    script = Speculation(Scripted(text=(*known.tokens, *known.tokens), tree=tree, right=1.0), draft_length=40)
    assert write(target, WHOLE, script).steps[0].tokens == known.tokens


class Slow:
    """A model whose forward passes take a while."""

    def __init__(self, model: HuggingFaceGenerator, seconds: float) -> None:
        self.count, self.ready = 0, threading.Event()
        self._runner = cast("Any", model.runner)
        self._inner = self._runner._run
        self._seconds = seconds
        self._runner._run = self._wait

    def _wait(self, batch: Any, indices: Any) -> Any:
        self.count += 1
        if self.count == 8:
            self.ready.set()
        time.sleep(self._seconds)
        return self._inner(batch, indices)

    def has_stopped(self) -> bool:
        before = self.count
        time.sleep(4 * self._seconds)
        return self.count == before

    def restore(self) -> None:
        self._runner._run = self._inner


@pytest.fixture(params=["target", "draft"])
def slow(request: Any, target: HuggingFaceGenerator, draft: HuggingFaceGenerator) -> Iterator[Slow]:
    made = Slow(target if request.param == "target" else draft, 0.03)
    yield made
    made.restore()


def test_speculation_ends_with_its_caller_and_tells_the_work_of_both(
    draft: HuggingFaceGenerator, target: HuggingFaceGenerator, slow: Slow
) -> None:
    """Wherever the row is: with the target, or resting while the drafter writes."""
    path = Path(as_prompt(QUESTIONS[0]))
    tokens = len(target.vocabulary.ids(path)[0])
    request = replace(WHOLE, speculation=Speculation(drafter=draft))

    async def cancelled_twice() -> tuple[Interrupted, float]:
        task = asyncio.ensure_future(target.generate(path, request))
        await asyncio.to_thread(slow.ready.wait, 10)
        before = time.monotonic()
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(Interrupted) as cut:
            await task
        return cut.value, time.monotonic() - before

    cut, seconds = asyncio.run(cancelled_twice())
    assert seconds < 1
    assert slow.has_stopped()
    (own, mine), (other, drafting) = cut.usage.parts
    assert (own, other) == (target, draft)
    assert min(mine.computed + mine.generated, drafting.computed) > tokens
    assert cut.usage.computed == mine.computed + drafting.computed


def test_who_is_cancelled_before_the_first_pass_has_done_nothing(
    draft: HuggingFaceGenerator, target: HuggingFaceGenerator
) -> None:
    async def cancelled() -> None:
        request = replace(WHOLE, speculation=Speculation(drafter=draft))
        task = asyncio.ensure_future(target.generate(Path(as_prompt(QUESTIONS[3])), request))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as cut:
            await task
        usage = usage_of(cut.value)
        assert usage is None or usage.computed  # told where there is any

    for _ in range(5):
        asyncio.run(cancelled())


def test_a_request_that_times_out_leaves_nothing_running(
    draft: HuggingFaceGenerator, target: HuggingFaceGenerator, slow: Slow
) -> None:
    limited = Settings(limits=Limits(max_seconds=0.2))
    late = SpeculativeDecoding(drafter=draft, target=target, settings=limited).run(QUESTIONS[0])
    assert late.finish_reason == "max_seconds"
    assert slow.count > 0
    assert slow.has_stopped()


@pytest.mark.parametrize("broken", ["target", "draft"])
def test_a_fault_of_either_model_is_handled_and_reports_the_work_of_both(
    broken: str, draft: HuggingFaceGenerator, target: HuggingFaceGenerator
) -> None:
    model: Any = target if broken == "target" else draft
    inner, passes = model.runner._run, itertools.count()

    def run(batch: Any, indices: Any) -> Any:
        if next(passes) == 9:
            raise RuntimeError("out of memory")
        return inner(batch, indices)

    model.runner._run = run
    try:
        with pytest.raises(RuntimeError, match="out of memory") as failed:
            write(target, WHOLE, Speculation(drafter=draft))
    finally:
        model.runner._run = inner
    usage = usage_of(failed.value)
    assert usage is not None
    assert [worker for worker, _ in usage.parts] == [target, draft]
    assert all(part.computed > 20 for _, part in usage.parts)
    passes = itertools.count()
    model.runner._run = run
    try:
        result = SpeculativeDecoding(drafter=draft, target=target).run(QUESTIONS[0])
    finally:
        model.runner._run = inner
    assert result.text == TargetOnly(target=target).run(QUESTIONS[0]).text
    assert [item.kind for item in result.degradations] == ["target_error"]


class Broken(Proposer):
    kind: Literal["broken"] = "broken"

    def begin(self, prefix: Sequence[int], seed: int) -> ProposerState:
        class State(ProposerState):
            def propose(self, count: int) -> Proposal:
                raise ZeroDivisionError("no proposal")

            def accept(self, ids: Sequence[int]) -> None: ...

        return State()


def test_a_proposer_that_fails_fails_its_own_request_alone(target: HuggingFaceGenerator) -> None:
    async def both() -> list[Any]:
        requests = [replace(WHOLE, speculation=Speculation(proposer)) for proposer in (Broken(), "lookup")]
        return await asyncio.gather(
            *(target.generate(Path(as_prompt(QUESTIONS[0])), request) for request in requests), return_exceptions=True
        )

    failed, made = asyncio.run(both())
    assert isinstance(failed, ZeroDivisionError)
    assert made.steps[0].tokens == asyncio.run(target.generate(Path(as_prompt(QUESTIONS[0])), WHOLE)).steps[0].tokens
    with pytest.raises(ZeroDivisionError):
        write(target, WHOLE, Speculation(Broken()))


def test_impossible_settings_are_refused_before_anything_is_written(
    draft: HuggingFaceGenerator, target: HuggingFaceGenerator
) -> None:
    for options, words in (
        ({"rule": "typicl"}, "did you mean 'typical'"),
        ({"proposer": "looking"}, "did you mean 'lookup'"),
        ({"draft_length": 0}, "draft_length=0"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            SpeculativeDecoding(**{"drafter": draft, "target": target, **options})  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="drafter"):
        SpeculativeDecoding(target=target)
