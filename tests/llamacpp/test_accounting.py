"""Every token is computed once, and recomputation for lack of room is reported."""

from __future__ import annotations

import asyncio
import itertools

from rsd_core import DraftOnly, Path, Sampling, Settings, StepRequest, as_prompt
from rsd_integrations.embedded.task import problems
from rsd_integrations.llamacpp import load_generator
from tests.benchmarks.gguf_soak import accounting, equal_to_plain
from tests.llamacpp.gguf_files import embedded, gemma, requantised, smollm2


def test_no_token_is_computed_twice() -> None:
    found = accounting(12, Settings())
    assert found["rejected"] > 3
    assert found["told"] == found["seen"]
    assert (found["recomputed_tokens"], found["evicted"]) == (0, 0)


def test_with_candidates_too() -> None:
    found = accounting(6, Settings(candidates=3, temperature=0.5))
    assert found["told"] == found["seen"]
    assert (found["recomputed_tokens"], found["evicted"]) == (0, 0)


def test_what_is_computed_again_is_reported() -> None:
    found = accounting(12, Settings(), cells=768)
    assert found["told"] == found["seen"]
    assert found["recomputed_tokens"] > 0
    assert found["evicted"] > 0


def test_texts_are_those_of_plain_generation() -> None:
    """For one sequence in its own context."""
    assert equal_to_plain(smollm2(), 3, tokens=8) == {"prompts": 3, "equal": 3}
    assert equal_to_plain(gemma(), 2, tokens=8) == {"prompts": 2, "equal": 2}
    assert equal_to_plain(embedded("target"), 5, tokens=60)["equal"] == 5


def test_a_model_whose_batches_differ_says_so_once(caplog: object) -> None:
    model = load_generator(str(embedded("draft")), context=500)
    asked = [problem.question for problem in itertools.islice(problems("test", 5), 4)]
    with caplog.at_level("INFO"):  # type: ignore[attr-defined]
        for _ in range(2):
            DraftOnly(drafter=model).run_many(asked, concurrency=4)
    said = [record.message for record in caplog.records if "batch_invariant=true" in record.message]  # type: ignore[attr-defined]
    assert len(said) == 1


def test_nothing_depends_on_what_runs_next_to_it_where_that_was_asked_for() -> None:
    """To the last bit, sampled tokens and their log-probabilities too."""
    model = load_generator(str(requantised(embedded("draft"), "Q8_0")), batch_invariant=True)
    request = StepRequest((1, 2), 30, delimiter=None, sampling=Sampling(1.0, 0.9))
    asked = [problem.question for problem in itertools.islice(problems("test", 5), 10)]

    async def write(question: str) -> list[object]:
        steps = (await model.generate(Path(as_prompt(question)), request)).steps
        return [(step.tokens, step.logprobs) for step in steps]

    async def at_once() -> list[list[object]]:
        return await asyncio.gather(*map(write, asked))

    assert asyncio.run(at_once()) == [asyncio.run(write(question)) for question in asked]
