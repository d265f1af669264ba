"""Interrupted calls, faults inside llama.cpp, invalid input: other calls continue, and so does the model."""

from __future__ import annotations

import asyncio
import itertools
import pathlib
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from rsd_core import ConfigurationError, DraftOnly, Path, PromptError, Sampling, Step, StepRequest, as_prompt
from rsd_core.model import usage_of
from rsd_integrations.inprocess import runner
from rsd_integrations.llamacpp import load_generator
from rsd_integrations.llamacpp.header import read_header
from tests.huggingface.tiny import copied
from tests.llamacpp.gguf_files import embedded
from tests.llamacpp.soak import Soak
from tests.llamacpp.test_soak import soak_of
from tests.two_loops import in_two_loops

PATH = Path(as_prompt("Mia has 45 apples.")).extend(Step("She buys 12 more.\n\n", "delimiter"))
OTHER = Path(as_prompt("Leo has 7 pens and 12 boxes. He buys 3 more, then he sells 2."))
STEPS = [Step(text, "delimiter") for text in ("45+12=57 apples now.\n\n", "No.\n\n", "Then she sells 9 of them.\n\n")]
Begin = Callable[[Soak, Path], Coroutine[Any, Any, Any]]


def write(models: Soak, path: Path, seeds: int, guess: Step | None = None) -> Coroutine[Any, Any, Any]:
    return models.writer.generate(path, StepRequest(tuple(range(seeds)), 6, delimiter=None, guess=guess))


CALLS: dict[str, Begin] = {
    "one step": lambda models, path: write(models, path, 1),
    "a guess": lambda models, path: write(models, path, 1, STEPS[0]),
    "several seeds": lambda models, path: write(models, path, 3),
    "one score": lambda models, path: models.reader.score(path, STEPS[:1]),
    "several scores": lambda models, path: models.reader.score(path, STEPS),
    "likelihoods": lambda models, path: models.writer.log_likelihoods(path, [*STEPS, Step("", "end")]),
    "a word": lambda models, path: models.writer.next_word(path, ["1", "2"]),
}


def numbers(answer: Any) -> list[Any]:
    """What a call answers, apart from its usage."""
    if hasattr(answer, "steps"):
        return [step.tokens for step in answer.steps]
    return list(next(getattr(answer, name) for name in ("rewards", "values", "logprobs") if hasattr(answer, name)))


def same(found: list[Any], wanted: list[Any]) -> bool:
    return all(
        a == b if isinstance(a, tuple) else a == pytest.approx(b, abs=0.1) for a, b in zip(found, wanted, strict=True)
    )


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> Soak:
    monkeypatch.setattr(runner, "PREFILL_CHUNK", 16)  # many moments within a prefix
    return soak_of(embedded("draft"), cells=1024)


async def cancel_before(passes: int, begin: Begin, models: Soak, path: Path) -> tuple[Any, list[Any]]:
    """Cancel a call after some forward passes; return the result of a concurrent call."""
    loop, used = asyncio.get_running_loop(), models.writer.runner
    task, step, taken = loop.create_task(begin(models, path)), used.step, itertools.count()

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
        await asyncio.sleep(0)  # the call is handed in first
        neighbour = await write(models, copied(OTHER), 2)
        await asyncio.wait([task])
    finally:
        used.step = step  # type: ignore[method-assign]
    return task, numbers(neighbour)


@pytest.mark.parametrize("name", CALLS)
def test_a_call_cancelled_before_any_pass_harms_nobody(models: Soak, name: str) -> None:
    begin = CALLS[name]
    wanted, alone = (
        numbers(asyncio.run(begin(models, copied(PATH)))),
        numbers(asyncio.run(write(models, copied(OTHER), 2))),
    )
    for passes in itertools.count():
        path = copied(PATH)
        task, neighbour = asyncio.run(cancel_before(passes, begin, models, path))
        assert same(neighbour, alone)
        models.check()
        assert same(numbers(asyncio.run(begin(models, path))), wanted)
        if not task.cancelled():
            break
    assert passes >= 2


def test_a_fault_of_the_library_is_told_to_all_and_leaves_a_working_model(models: Soak) -> None:
    context = models.writer.runner.store.context
    wanted = numbers(asyncio.run(write(models, copied(PATH), 1)))
    decode, passes = context._decode, itertools.count()

    both_are_there = threading.Event()

    def breaking(address: Any, batch: Any) -> Any:
        both_are_there.wait(5)
        return -3 if next(passes) == 2 else decode(address, batch)

    async def both() -> list[Any]:
        calls = [write(models, copied(PATH), 1), models.reader.score(copied(OTHER), STEPS)]
        tasks = [asyncio.ensure_future(call) for call in calls]
        await asyncio.sleep(0)
        both_are_there.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    context._decode = breaking
    errors = asyncio.run(both())
    context._decode = decode
    assert [str(error) for error in errors] == 2 * ["llama.cpp could not decode: code -3"]
    assert errors[0] is not errors[1]
    assert all(usage_of(error) is not None for error in errors)
    assert numbers(asyncio.run(write(models, copied(PATH), 1))) == wanted
    models.check()


def test_two_loops_share_a_model(models: Soak) -> None:
    wanted = numbers(asyncio.run(write(models, copied(PATH), 2)))

    async def work() -> Any:
        return numbers(await write(models, copied(PATH), 2))

    assert all(found == wanted for found in in_two_loops(work))


# -- what a user can give ---------------------------------------------------------------------------------------------


def test_three_hundred_candidates_wait_their_turn() -> None:
    """More than llama.cpp has sequences."""
    model = load_generator(str(embedded("draft")))
    request = StepRequest(tuple(range(300)), 4, delimiter=None, sampling=Sampling(1.0))
    steps = asyncio.run(model.generate(copied(PATH), request)).steps
    assert len(steps) == 300
    assert model.runner.store.context.sequences == 256
    alone = asyncio.run(model.generate(copied(PATH), StepRequest((299,), 4, delimiter=None, sampling=Sampling(1.0))))
    assert len(alone.steps[0].tokens) == 4


def test_a_thousand_prompts_at_once() -> None:
    model = load_generator(str(embedded("draft")), cache_bytes=4096 * read_header(embedded("draft")).cache_bytes())

    async def all_of_them() -> list[Any]:
        asked = [Path(as_prompt(f"Mia has {number} apples.")) for number in range(1000)]
        return await asyncio.gather(*(model.generate(path, StepRequest((0,), 3, delimiter=None)) for path in asked))

    made = asyncio.run(all_of_them())
    assert [len(one.steps[0].tokens) for one in made] == [3] * 1000


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_a_prompt_without_text_is_refused(text: str) -> None:
    with pytest.raises(PromptError, match="The prompt is empty"):
        DraftOnly(drafter=load_generator(str(embedded("draft")))).run(text)


@pytest.mark.parametrize("text", ["\x00", "<|im_start|><|im_end|><|endoftext|>", "\ud800", "\U0001f600" * 50])
def test_any_text_is_a_prompt(text: str) -> None:
    model = load_generator(str(embedded("draft")))
    assert len(asyncio.run(model.generate(Path(as_prompt(text)), StepRequest((0,), 3))).steps) == 1


def test_a_prompt_longer_than_the_context_is_refused() -> None:
    model = load_generator(str(embedded("draft")), context=100)
    with pytest.raises(PromptError, match=r"the context of .* is 100"):
        asyncio.run(model.generate(Path(as_prompt("apples " * 3000)), StepRequest((0,), 3)))
    result = DraftOnly(drafter=model).run("Mia has 45 apples. How many?")
    assert result.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": 0}, "context=0 is not between 1 and"),
        ({"context": 10**12}, "is not between 1 and"),
        ({"threads": 0}, "threads=0 is not between 1 and"),
        ({"threads": 100_000}, "is not between 1 and"),
        ({"cache_bytes": 1}, "raise cache_bytes"),
        ({"cache_bytes": 0}, "cache_bytes=0"),
        ({"cache_bytes": -5e9}, "cache_bytes="),
        ({"cache_bytes": float("nan")}, "cache_bytes=nan"),
        ({"cache_bytes": float("inf")}, "cache_bytes=inf"),
        ({"lora": "nowhere.gguf"}, "nowhere.gguf"),
        ({"lora": "nowhere.gguf*much"}, "nowhere.gguf"),
        ({"lora": ["a.gguf"]}, "lora takes FILE"),
        ({"context": "100"}, "context takes a whole number"),
        ({"context": 100.5}, "context takes a whole number"),
        ({"threads": True}, "threads takes a whole number"),
        ({"cache_bytes": "2e9"}, "cache_bytes takes a number"),
        ({"gpu_layers": 2**40}, "gpu_layers="),
        ({"batch_invariant": "no"}, "batch_invariant takes true or false"),
    ],
)
def test_impossible_options_are_refused_before_the_model_is_loaded(options: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_generator(str(embedded("draft")), **options)


def test_a_model_outlives_its_file(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "draft.gguf"
    shutil.copy(embedded("draft"), file)
    model = load_generator(str(file))
    file.unlink()
    models = model, load_generator(str(embedded("draft")))
    ours, plain = (DraftOnly(drafter=one).run("Mia has 45 apples. How many?") for one in models)
    assert ours.text == plain.text


def test_an_answer_that_cannot_be_told_fails_its_call_and_no_other(
    models: Soak, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that runs models lives on."""

    def broken(ids: list[int], *_: object, **__: object) -> str:
        raise KeyError(ids[0])

    with monkeypatch.context() as patched:
        patched.setattr(models.writer.vocabulary, "as_step", broken)
        with pytest.raises(KeyError) as caught:
            asyncio.run(asyncio.wait_for(write(models, PATH, 1), 10))
    usage = usage_of(caught.value)
    assert usage is not None
    assert usage.generated
    assert asyncio.run(asyncio.wait_for(write(models, PATH, 1), 10)).steps


@pytest.mark.parametrize("cells", [256, 512, 10**7])
def test_small_and_large_caches_work(cells: int) -> None:
    file = embedded("draft")
    model = load_generator(str(file), cache_bytes=cells * read_header(file).cache_bytes())
    assert asyncio.run(model.generate(copied(PATH), StepRequest((0,), 5))).steps[0].tokens


# -- processes --------------------------------------------------------------------------------------------------------

SETUP = """
import asyncio, os, sys, threading, time, warnings
from rsd_core import Path, StepRequest, as_prompt
from rsd_integrations.llamacpp import load_generator
warnings.simplefilter("ignore")
model = load_generator({file!r})
model.eos_ids = frozenset()
def write(tokens):
    return asyncio.run(model.generate(Path(as_prompt("Mia has 45 apples.")), StepRequest((0,), tokens, None))).steps[0]
wanted = write(5).tokens
thread = threading.Thread(target=lambda: write(900), daemon=True)
"""


def process(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SETUP.format(file=str(embedded("target"))) + code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_process_ends_while_a_call_runs() -> None:
    assert process("thread.start(); time.sleep(0.05); print('over')") == "over\n"


def test_a_forked_process_uses_the_model_whatever_ran_at_that_moment() -> None:
    code = """
thread.start(); time.sleep(0.05)
for _ in range(5):
    child = os.fork()
    if child == 0:
        os._exit(3 if write(5).tokens == wanted else 4)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
print("over")
"""
    assert process(code) == "over\n"
