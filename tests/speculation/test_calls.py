"""Standard speculative decoding: the target's own answers, and nothing that goes on after its caller is gone."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path as File
from typing import Any

import pytest

from rsd_core import (
    ConfigurationError,
    Interrupted,
    Limits,
    Path,
    Sampling,
    Settings,
    SpeculativeDecoding,
    StepRequest,
    TargetOnly,
    as_prompt,
)
from rsd_core.model import usage_of
from rsd_integrations.embedded.task import problems
from rsd_integrations.huggingface import HuggingFaceGenerator, load_generator
from tests.huggingface.tiny import make_causal_lm

QUESTIONS = [problem.question for problem in itertools.islice(problems("test", 5), 6)]
WHOLE = StepRequest((0,), max_tokens=200, delimiter=None)


def test_speculative_decoding_writes_what_the_target_writes(
    draft: HuggingFaceGenerator, target: HuggingFaceGenerator
) -> None:
    fast, alone = SpeculativeDecoding(drafter=draft, target=target), TargetOnly(target=target)
    for question in QUESTIONS[:3]:
        mine, theirs = fast.run(question), alone.run(question)
        assert mine.text == theirs.text
        assert mine.finish_reason == "stop"
        generated = mine.ledger.target.generated
        assert generated == theirs.ledger.target.generated
        assert generated <= mine.ledger.target.generated + mine.ledger.target.scored
        assert mine.ledger.drafter.computed > generated  # the guesses are charged
    sampled = SpeculativeDecoding(drafter=draft, target=target, settings=Settings(temperature=1, seed=4))
    assert sampled.run(QUESTIONS[0]).text == sampled.run(QUESTIONS[0]).text
    short = SpeculativeDecoding(drafter=draft, target=target, settings=Settings(limits=Limits(max_tokens=7)))
    assert short.run(QUESTIONS[0]).ledger.target.generated == 7
    assert short.run(QUESTIONS[0]).finish_reason == "max_tokens"


def test_an_assistant_of_another_vocabulary_is_refused(target: HuggingFaceGenerator, tmp_path: File) -> None:
    other = load_generator(str(make_causal_lm(tmp_path / "tiny")))
    other.vocabulary.identity = "another"
    with pytest.raises(ConfigurationError, match="one vocabulary"):
        SpeculativeDecoding(drafter=other, target=target).run("question")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_more_tokens_are_written_than_were_asked_for(
    draft: HuggingFaceGenerator, target: HuggingFaceGenerator, temperature: float
) -> None:
    """Whether the limit falls within a draft, at its end or right after it; none are for nothing at all."""
    for most in range(14):
        request = StepRequest((3,), most, delimiter=None, sampling=Sampling(temperature))
        made, assistance = asyncio.run(target.speculate(Path(as_prompt(QUESTIONS[0])), request, draft))
        assert (made.steps[0].size, made.steps[0].ending) == (most, "length")
        assert made.usage.generated == most
        if most == 0:
            assert made.usage.computed == assistance.computed == 0


@pytest.mark.parametrize("contexts", [(256, 64), (64, 256)])
def test_an_answer_ends_where_the_shorter_context_does(contexts: tuple[int, int], tmp_path: File) -> None:
    """And the assistant drafts no token beyond it."""
    target, assistant = (
        load_generator(str(make_causal_lm(tmp_path / str(context), max_position_embeddings=context)))
        for context in contexts
    )
    positions: list[int] = []
    rotary = assistant.model.get_submodule("model.rotary_emb")
    rotary.register_forward_pre_hook(
        lambda _, args, named: positions.append(int(named.get("position_ids", args[-1]).max())), with_kwargs=True
    )
    path = Path(as_prompt("How many?"))
    (step,) = asyncio.run(target.speculate(path, WHOLE, assistant))[0].steps
    assert (len(target.vocabulary.ids(path)[0]) + step.size, step.ending) == (64, "length")
    assert 40 < max(positions) < 64


class Passes:
    """The forward passes of a slow target."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.count = 0

    def note(self, *_: Any) -> None:
        self.count += 1
        self.began.set()
        time.sleep(0.1)

    def have_ended(self) -> bool:
        """Whether none is added while two more could be."""
        before = self.count
        time.sleep(0.25)
        return self.count == before


@pytest.fixture
def slow(target: HuggingFaceGenerator) -> Iterator[Passes]:
    """A target whose forward passes take a tenth of a second."""
    passes = Passes()
    handle = target.model.get_submodule("model.layers.0").register_forward_hook(passes.note)
    yield passes
    handle.remove()


def test_speculation_ends_with_its_caller_and_tells_the_work_of_both(
    draft: HuggingFaceGenerator, target: HuggingFaceGenerator, slow: Passes
) -> None:
    """Whole, the answer takes a dozen passes."""
    path = Path(as_prompt(QUESTIONS[0]))
    tokens = len(target.vocabulary.ids(path)[0])

    async def cancelled_twice() -> tuple[Interrupted, float]:
        task = asyncio.ensure_future(target.speculate(path, WHOLE, draft))
        await asyncio.to_thread(slow.began.wait, 5)
        await asyncio.sleep(0.15)
        before = time.monotonic()
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(Interrupted) as cut:
            await task
        return cut.value, time.monotonic() - before

    cut, seconds = asyncio.run(cancelled_twice())
    assert seconds < 0.5
    assert slow.have_ended()
    (own, mine), (other, assistance) = cut.usage.parts
    assert (own, other) == (target, draft)
    assert mine.computed > tokens
    assert 0 < mine.generated < 20
    assert assistance.computed > tokens
    assert cut.usage.computed == mine.computed + assistance.computed


def test_who_is_cancelled_before_its_turn_leaves_at_once(
    draft: HuggingFaceGenerator, target: HuggingFaceGenerator, slow: Passes
) -> None:
    async def second_is_cancelled() -> None:
        first, second = (
            asyncio.ensure_future(target.speculate(Path(as_prompt(question)), WHOLE, draft))
            for question in QUESTIONS[:2]
        )
        await asyncio.to_thread(slow.began.wait, 5)
        second.cancel()
        await asyncio.wait([second], timeout=0.05)
        assert second.cancelled()
        with pytest.raises(asyncio.CancelledError) as cut:
            second.result()
        assert usage_of(cut.value) is None  # it had done nothing
        assert not first.done()
        first.cancel()
        await asyncio.wait([first])

    asyncio.run(second_is_cancelled())
    assert slow.have_ended()


def test_a_request_after_one_that_timed_out_takes_its_own_time(
    draft: HuggingFaceGenerator, target: HuggingFaceGenerator, slow: Passes
) -> None:
    limited = Settings(limits=Limits(max_seconds=0.25))
    late = SpeculativeDecoding(drafter=draft, target=target, settings=limited).run(QUESTIONS[0])
    assert late.finish_reason == "max_seconds"
    assert slow.count > 0
    assert slow.have_ended()


def test_callers_of_two_loops_take_turns(draft: HuggingFaceGenerator, target: HuggingFaceGenerator) -> None:
    request = StepRequest((7,), 12, delimiter=None, sampling=Sampling(1.0))

    def write(question: str) -> tuple[int, ...]:
        return asyncio.run(target.speculate(Path(as_prompt(question)), request, draft))[0].steps[0].tokens

    alone = {question: write(question) for question in QUESTIONS}
    together: dict[str, tuple[int, ...]] = {}
    threads = [
        threading.Thread(target=lambda question=question: together.update({question: write(question)}))
        for question in QUESTIONS
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert together == alone


def test_a_fault_tells_the_work_of_both(draft: HuggingFaceGenerator, target: HuggingFaceGenerator) -> None:
    passes, layer = itertools.count(), target.model.get_submodule("model.layers.0")

    def break_later(*_: Any) -> None:
        if next(passes) == 2:
            raise RuntimeError("out of memory")

    handle = layer.register_forward_hook(break_later)
    try:
        with pytest.raises(RuntimeError, match="out of memory") as failed:
            asyncio.run(target.speculate(Path(as_prompt(QUESTIONS[0])), WHOLE, draft))
    finally:
        handle.remove()
    usage = usage_of(failed.value)
    assert usage is not None
    assert [model for model, _ in usage.parts] == [target, draft]
    assert all(part.computed > 20 for _, part in usage.parts)
