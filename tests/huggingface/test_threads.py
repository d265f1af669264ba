"""Shared objects used from several threads and event loops at once: loaders, tokenizers, caches, engines."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path as Folder
from typing import Any

import pytest
import torch

from rsd_core import Path, Sampling, Step, StepRequest, as_prompt
from rsd_core.concurrency import run_all
from rsd_integrations.embedded.models import FOLDER
from rsd_integrations.huggingface import load_generator, load_likelihood, load_shared, load_verifier
from rsd_integrations.huggingface.bare_model import BareModel
from rsd_integrations.huggingface.from_pretrained import load_tokenizer
from rsd_integrations.inprocess.engine import Engine, engine_of
from rsd_integrations.inprocess.vocabulary import Vocabulary
from tests.huggingface.test_shared import with_head
from tests.huggingface.tiny import make_causal_lm, make_prm

PROMPTS = ["Mia has 45 apples.", "Leo has 7 pens and 12 boxes. He buys 3 more.", "Zoe walks 5 miles."]
STEPS = [Step("She buys 12 more.\n\n", "delimiter"), Step("No.\n\n", "delimiter")]


@pytest.fixture(autouse=True)
def switching_often() -> Iterator[None]:
    """Threads take turns every few instructions, so that they meet."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def at_once(*works: Callable[[], Any]) -> list[Any]:
    """Results of work in separate threads, which begin together."""
    results: list[Any] = [None] * len(works)
    barrier = threading.Barrier(len(works))

    def run(i: int) -> None:
        barrier.wait()
        try:
            results[i] = works[i]()
        except BaseException as error:
            results[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def test_models_are_loaded_in_the_dtype_that_each_caller_asked_for(tmp_path: Folder) -> None:
    """transformers makes a dtype the process's default while it loads: two that overlap would leave the wrong one."""
    folders = [str(make_causal_lm(tmp_path / f"lm{i}")) for i in range(2)]
    folders += [str(make_prm(tmp_path / f"prm{i}")) for i in range(2)]
    loads: list[Callable[..., Any]] = [load_generator, load_likelihood, load_verifier, load_verifier]
    for _ in range(4):
        works = [
            partial(load, folder, dtype=dtype)
            for load, folder, dtype in zip(loads, folders, ["bfloat16", "float32"] * 2, strict=True)
        ]
        models = at_once(*works)
        assert torch.get_default_dtype() == torch.float32
        dtypes = [{weight.dtype for weight in model.runner.model.parameters()} for model in models]
        assert dtypes == [{torch.bfloat16}, {torch.float32}] * 2


def test_a_checkpoint_that_several_threads_load_is_loaded_once(tmp_path: Folder) -> None:
    folder = str(with_head(make_causal_lm(tmp_path / "lm")))
    loads: tuple[Callable[..., Any], ...] = load_generator, load_likelihood, load_shared
    works = [partial(load, folder) for load in loads * 3]
    assert len({id(model.runner) for model in at_once(*works)}) == 1


def test_a_model_read_without_transformers_is_made_by_it_once() -> None:
    for model in (BareModel(FOLDER / "draft", torch.float32, torch.device("cpu")) for _ in range(3)):
        assert len({id(made) for made in at_once(*[partial(getattr, model, "transformers")] * 4)}) == 1


def test_a_tokenizer_that_comes_with_truncation_reads_in_several_threads(tmp_path: Folder) -> None:
    """Such a tokenizer changes its own settings at its first call, and is not to be in use elsewhere then."""
    folder = make_causal_lm(tmp_path / "lm")
    tokenizer: Any = load_tokenizer(folder)
    tokenizer.backend_tokenizer.enable_truncation(400)
    tokenizer.backend_tokenizer.enable_padding()
    tokenizer.save_pretrained(folder)
    texts = ["She buys 12 more apples. " * 50, "No."]
    wanted = [Vocabulary(load_tokenizer(folder), 640).encode(text) for text in texts]
    for _ in range(20):
        vocabulary = Vocabulary(load_tokenizer(folder), 640)
        assert at_once(*(partial(vocabulary.encode, text) for text in texts * 3)) == wanted * 3


def test_models_of_one_checkpoint_answer_any_threads_and_loops_alike(tmp_path: Folder) -> None:
    folder = str(with_head(make_causal_lm(tmp_path / "lm")))
    writer, reader, head = load_generator(folder), load_likelihood(folder), load_shared(folder)
    prm = load_verifier(str(make_prm(tmp_path / "prm")))
    shared = [Path(as_prompt(prompt)) for prompt in PROMPTS]  # the same paths, and so the same caches, for everybody

    async def everything() -> list[Any]:
        sampled = StepRequest((1, 2), 8, delimiter=None, sampling=Sampling(1.0, 0.9))
        made = await run_all([writer.generate(path, sampled) for path in shared])
        scores = await run_all([model.score(path, STEPS) for path in shared for model in (reader, head, prm)])
        likely = await run_all([writer.log_likelihoods(path, STEPS) for path in shared])
        numbers = [number for each in scores for number in each.rewards] + [v for each in likely for v in each.values]
        return [[step.tokens for each in made for step in each.steps], [round(number or 0, 3) for number in numbers]]

    alone = asyncio.run(everything())
    for tokens, numbers in at_once(*[lambda: asyncio.run(everything())] * 5):
        assert tokens == alone[0]
        assert numbers == pytest.approx(alone[1], abs=2e-3)


def test_a_device_has_one_engine_whoever_asks_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsd_integrations.inprocess.engine._engines", {})
    engines = at_once(*[lambda: engine_of(torch.device("cpu"))] * 8)
    assert len({id(engine) for engine in engines}) == 1


def test_an_engine_that_was_closed_says_so() -> None:
    engine: Any = Engine(1)
    engine.close()
    with pytest.raises(RuntimeError, match="shutting down"):
        asyncio.run(engine.run(object(), object()))
