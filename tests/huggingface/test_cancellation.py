"""A cancelled call, whatever its kind and whenever it ends, harms no other call and leaves correct caches."""

from __future__ import annotations

import asyncio
import copy
import itertools
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path as Folder
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from rsd_core import Generation, Interrupted, Path, Sampling, Step, StepRequest, as_prompt
from rsd_core.concurrency import run_all
from rsd_core.model import usage_of
from rsd_integrations.huggingface import load_generator, load_likelihood, load_shared, load_verifier
from rsd_integrations.inprocess import runner
from rsd_integrations.inprocess.score_call import ScoreCall
from tests.huggingface.soak import check_store
from tests.huggingface.test_shared import with_head
from tests.huggingface.tiny import copied, make_causal_lm, make_prm

PATH = Path(as_prompt("Mia has 45 apples.")).extend(Step("She buys 12 more.\n\n", "delimiter"))
STEPS = [Step(text, "delimiter") for text in ("45+12=57 apples now.\n\n", "No.\n\n", "Then she sells 9 of them.\n\n")]
END = Step("", "end")


class Models:
    """Models of one checkpoint, which share forward passes and a cache; and a reward model."""

    def __init__(self, folder: Folder) -> None:
        lm = str(with_head(make_causal_lm(folder / "lm")))
        self.writer, self.reader, self.head = load_generator(lm), load_likelihood(lm), load_shared(lm)
        self.prm = load_verifier(str(make_prm(folder / "prm")))
        self.reference: Any = AutoModelForCausalLM.from_pretrained(lm, dtype=torch.float32)
        self.prm_reference: Any = copy.deepcopy(self.prm.body)
        self.prm_reference.set_attn_implementation("sdpa")

    def write(self, path: Path, seeds: int, guess: Step | None = None) -> Coroutine[Any, Any, Generation]:
        sampling = Sampling(1.0) if seeds > 1 else Sampling()
        request = StepRequest(tuple(range(seeds)), 6, delimiter=None, sampling=sampling, guess=guess)
        return self.writer.generate(path, request)

    async def neighbours(self) -> list[list[Any]]:
        """The results of concurrent calls on another path."""
        path = Path(as_prompt("Leo has 7 pens and 12 boxes. He buys 3 more, then he sells 2."))
        calls: list[Coroutine[Any, Any, Any]] = [
            self.write(path, 2),
            self.reader.score(path, STEPS[:2]),
            self.writer.log_likelihoods(path, STEPS),
            self.prm.score(path, STEPS[:2]),
        ]
        return [numbers(answer) for answer in await run_all(calls)]


Begin = Callable[[Models, Path], Coroutine[Any, Any, Any]]
CALLS: dict[str, Begin] = {
    "one step": lambda models, path: models.write(path, 1),
    "a guess": lambda models, path: models.write(path, 1, STEPS[0]),
    "several seeds": lambda models, path: models.write(path, 3),
    "one score": lambda models, path: models.reader.score(path, STEPS[:1]),
    "several scores": lambda models, path: models.reader.score(path, STEPS),
    "a shared body": lambda models, path: models.head.score(path, STEPS),
    "a reward model": lambda models, path: models.prm.score(path, STEPS),
    "one likelihood": lambda models, path: models.writer.log_likelihoods(path, [END]),
    "several likelihoods": lambda models, path: models.writer.log_likelihoods(path, [*STEPS, END]),
    "a word": lambda models, path: models.writer.next_word(path, ["1", "2"]),
}


def numbers(answer: Any) -> list[Any]:
    """What a call answers, apart from its usage."""
    if isinstance(answer, Generation):
        return [step.tokens for step in answer.steps]
    values = next(getattr(answer, name) for name in ("rewards", "values", "logprobs") if hasattr(answer, name))
    return list(values)


def same(answers: list[Any], wanted: list[Any]) -> bool:
    """Whether numbers agree up to rounding, and tokens exactly."""
    return all(
        same(mine, theirs) if isinstance(mine, list) else mine == pytest.approx(theirs, abs=1e-4)
        for mine, theirs in zip(answers, wanted, strict=True)
    )


@pytest.fixture
def models(tmp_path: Folder, monkeypatch: pytest.MonkeyPatch) -> Models:
    monkeypatch.setattr(runner, "PREFILL_CHUNK", 16)  # many moments within a prefix
    return Models(tmp_path)


async def cancel_before(passes: int, begin: Begin, models: Models, path: Path) -> tuple[asyncio.Task[Any], list[Any]]:
    """Cancel a call after some forward passes of its model; return the results of concurrent calls."""
    loop, used = (
        asyncio.get_running_loop(),
        models.prm.runner if begin is CALLS["a reward model"] else models.writer.runner,
    )
    task = loop.create_task(begin(models, path))
    step, taken = used.step, itertools.count()

    def watched() -> None:
        if next(taken) == passes:
            loop.call_soon_threadsafe(task.cancel)
            deadline = time.monotonic() + 5
            while not task.done() and not any(call.cancelled for call in used._calls):
                assert time.monotonic() < deadline
                time.sleep(0.0005)
        step()

    used.step = watched  # type: ignore[method-assign]
    try:
        others = await models.neighbours()
        await asyncio.wait([task])
    finally:
        used.step = step  # type: ignore[method-assign]
    return task, others


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("name", CALLS)
def test_a_call_cancelled_before_any_pass_harms_nobody(models: Models, name: str, warm: bool) -> None:
    """With nothing cached, and with all that it wants: then it may need no forward pass at all."""
    begin = CALLS[name]
    wanted, alone = numbers(asyncio.run(begin(models, copied(PATH)))), asyncio.run(models.neighbours())
    for passes in itertools.count():
        path = copied(PATH)
        if warm:
            asyncio.run(begin(models, path))
        task, others = asyncio.run(cancel_before(passes, begin, models, path))
        assert same(others, alone)
        reward_model = name == "a reward model"
        store, reference = (models.prm, models.prm_reference) if reward_model else (models.writer, models.reference)
        check_store(store, reference)
        assert same(numbers(asyncio.run(begin(models, path))), wanted)
        if not task.cancelled():
            break
    assert passes >= (1 if warm else 2)


@torch.inference_mode()
def test_a_row_that_was_preempted_and_is_cancelled_leaves_no_output_of_another_place(models: Models) -> None:
    """It had read more than is computed again by then."""
    model, path = models.reader, copied(PATH)
    read, layouts = model._layouts(path, [Step("She buys 12 more apples. " * 6, "delimiter")])
    call = ScoreCall(path, model.runner.cache, read.prefix, read.prompt, layouts, model._rewards)
    model.runner.start(call)
    row: Any = call.rows[0]
    while not row.outputs:
        model.runner.step()
    row.sequence.evict()
    model.runner.step()
    assert len(row.sequence.ids) == 16
    call.cancelled = True
    model.runner.step()
    assert call.future.done()
    assert row.sequence.last_output is None
    check_store(model, models.reference)


def test_a_second_cancellation_also_waits_and_gets_the_work(models: Models) -> None:
    """Nothing of a call outlives it, and what it had computed is charged."""
    used, working, go_on = models.writer.runner, threading.Event(), threading.Event()
    step = used.step

    def slow() -> None:
        step()
        working.set()
        go_on.wait(5)

    async def twice() -> int:
        task = asyncio.ensure_future(models.reader.score(copied(PATH), STEPS))
        await asyncio.to_thread(working.wait, 5)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0.01)
            assert not task.done()
        go_on.set()
        with pytest.raises(Interrupted) as cut:
            await task
        return cut.value.usage.computed

    used.step = slow  # type: ignore[method-assign]
    assert asyncio.run(twice()) == 16  # one chunk
    assert not used.waiting_rows


def test_a_fault_of_a_reward_head_is_its_own(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who writes on the same body goes on, and nothing that is cached is lost."""

    def broken(*_: object) -> list[float]:
        raise ValueError("no such head")

    alone, path = asyncio.run(models.neighbours()), copied(PATH)
    monkeypatch.setattr(models.head.head, "rewards", broken)

    async def both() -> list[Any]:
        scoring = asyncio.ensure_future(models.head.score(path, STEPS))
        others = await models.neighbours()
        with pytest.raises(ValueError, match="no such head") as failed:
            await scoring
        usage = usage_of(failed.value)
        assert usage is not None
        assert usage.computed > usage.scored > 0  # it was paid all the same
        return others

    assert same(asyncio.run(both()), alone)
    made = asyncio.run(models.write(path, 1))
    assert made.usage.reused >= len(models.writer.vocabulary.ids(path)[0]) - 1
    assert check_store(models.writer, models.reference) > 0


def test_a_fault_of_the_model_reports_each_caller_its_own_work(models: Models) -> None:
    used, run, passes, both = models.writer.runner, models.writer.runner._run, itertools.count(), threading.Event()

    def breaking(*args: Any) -> Any:
        both.wait(5)
        if next(passes) == 4:
            raise RuntimeError("out of memory")
        return run(*args)

    async def all_of_them() -> list[Any]:
        calls = [models.write(copied(PATH), 1), models.reader.score(copied(PATH), STEPS)]
        tasks = [asyncio.ensure_future(call) for call in calls]
        await asyncio.sleep(0)  # both are handed in
        both.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    used._run = breaking  # type: ignore[method-assign,assignment]
    errors = asyncio.run(all_of_them())
    used._run = run  # type: ignore[method-assign]
    assert [str(error) for error in errors] == 2 * ["out of memory"]
    computed = [usage.computed for error in errors if (usage := usage_of(error)) is not None]
    assert len(computed) == 2
    assert min(computed) > 0
    assert sum(computed) > 4 * 16 - 3  # four chunks, alone or with single tokens
    assert errors[0] is not errors[1]
