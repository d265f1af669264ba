"""`SpeculativeBeams` on the engine: steps, limits, the ledger, cancellation, and one text whatever else runs."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace

import pytest

from rsd_core import (
    ConfigurationError,
    Interrupted,
    Limits,
    Path,
    Sampling,
    Settings,
    Speculation,
    SpeculativeBeams,
    StepRequest,
    as_prompt,
    load,
)
from rsd_core.methods import parse_method
from rsd_integrations.embedded.task import problems
from rsd_integrations.huggingface import HuggingFaceGenerator

QUESTIONS = [problem.question for problem in itertools.islice(problems("test", 5), 3)]
SETTINGS = Settings(temperature=0.8, seed=2)


def test_a_text_is_the_same_alone_and_among_others(draft: HuggingFaceGenerator, target: HuggingFaceGenerator) -> None:
    decoder = SpeculativeBeams(drafter=draft, target=target, settings=SETTINGS)
    together = decoder.run_many(QUESTIONS)
    assert [decoder.run(question).text for question in QUESTIONS] == [result.text for result in together]
    first = together[0]
    assert first.finish_reason == "stop"
    assert len(first.steps) > 1
    own, drafted = first.ledger.target, first.ledger.drafter
    assert own.generated == first.ledger.target.generated > 0
    assert 0 < own.discarded == drafted.discarded < drafted.generated
    assert drafted.computed > drafted.generated


def test_no_more_tokens_are_written_than_were_asked_for(
    draft: HuggingFaceGenerator, target: HuggingFaceGenerator
) -> None:
    for most in (1, 2, 7):
        limits = SETTINGS.updated(limits=Limits(max_tokens=most))
        result = SpeculativeBeams(drafter=draft, target=target, settings=limits).run(QUESTIONS[0])
        assert result.finish_reason == "max_tokens"
        assert sum(step.size for step in result.steps) == most


def test_the_likeliest_of_more_beams_is_likelier(draft: HuggingFaceGenerator, target: HuggingFaceGenerator) -> None:
    """By the mean of its tokens, over some steps; a hot target, so that beams differ."""
    path, found = Path(as_prompt(QUESTIONS[1])), {}
    for beams in (1, 6):
        speculation = Speculation(drafter=draft, beams={"beams": beams, "drafts": 6, "levels": 3})
        total = 0.0
        for seed in range(6):
            request = StepRequest((seed,), 24, sampling=Sampling(2.0), speculation=speculation)
            (step,) = asyncio.run(target.generate(path, request)).steps
            judged = asyncio.run(target.log_likelihoods(path, [step]))
            total += judged.values[0] / step.size
        found[beams] = total / 6
    assert found[6] > found[1]


def test_a_cancelled_step_tells_the_work_of_both(draft: HuggingFaceGenerator, target: HuggingFaceGenerator) -> None:
    path = Path(as_prompt(QUESTIONS[2]))
    request = StepRequest((1,), 200, delimiter=None, sampling=Sampling(0.8), speculation=Speculation(drafter=draft))
    request = replace(request, speculation=Speculation(drafter=draft, beams={}))

    async def cut() -> Interrupted:
        passes = target.runner.passes
        task = asyncio.ensure_future(target.generate(path, request))
        while target.runner.passes < passes + 2:  # noqa: ASYNC110 - there is no event for passes
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(Interrupted) as interrupted:
            await task
        return interrupted.value

    (own, mine), (other, drafting) = asyncio.run(cut()).usage.parts
    assert (own, other) == (target, draft)
    assert min(mine.computed, drafting.computed) > 0


def test_what_it_cannot_do_is_refused(draft: HuggingFaceGenerator, target: HuggingFaceGenerator) -> None:
    other = load("embedded:thinking-draft", role="drafter")
    with pytest.raises(ConfigurationError, match=r"temperature above 0 \(got 0\)"):
        SpeculativeBeams(drafter=draft, target=target)
    with pytest.raises(ConfigurationError, match="need a drafter with its vocabulary"):
        SpeculativeBeams(drafter=other, target=target, settings=SETTINGS)
    with pytest.raises(ConfigurationError, match="beams: Input should be less than or equal to 64"):
        SpeculativeBeams(drafter=draft, target=target, beams=65, settings=SETTINGS)


def test_it_is_a_method() -> None:
    method = parse_method("speculative_beams:2,drafts=3,temperature=0.5")
    assert method.roles == ("drafter", "target")
    assert method.settings(Settings()).temperature == 0.5
    assert parse_method(method.model_dump()) == method
