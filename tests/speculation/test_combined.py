"""RSD whose target speculates within its steps, and whose drafter repeats text that it has read."""

from __future__ import annotations

import itertools

import pytest

from rsd_core import (
    BinaryStep,
    ConfigurationError,
    Generation,
    Limits,
    Path,
    RewardGuidedDecoder,
    Settings,
    StepRequest,
)
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_integrations.embedded.task import problems
from rsd_integrations.huggingface import HuggingFaceGenerator

QUESTIONS = [problem.question for problem in itertools.islice(problems("test", 5), 6)]


def rsd(draft: HuggingFaceGenerator, target: HuggingFaceGenerator, settings: Settings) -> RewardGuidedDecoder:
    """RSD that rejects every second step."""
    verifier = ScriptedVerifier(lambda path, _: 0.9 if path.depth % 2 else 0.1)
    return RewardGuidedDecoder(
        drafter=draft, verifier=verifier, target=target, policy=BinaryStep(delta=0.5), settings=settings
    )


@pytest.mark.parametrize("reuse", [True, False])
@pytest.mark.parametrize("proposer", ["drafter", "lookup"])
def test_the_answers_are_the_same_and_the_target_takes_fewer_passes(
    reuse: bool, proposer: str, draft: HuggingFaceGenerator, target: HuggingFaceGenerator
) -> None:
    plain = Settings(reuse_rejected=reuse)
    without, speculating = rsd(draft, target, plain), rsd(draft, target, plain.updated(speculate=proposer))
    passes = []
    for decoder in (without, speculating):
        before = target.runner.passes
        texts = [result.text for result in decoder.run_many(QUESTIONS[:4], concurrency=1)]
        passes.append(target.runner.passes - before)
        if decoder is without:
            wanted = texts
    assert texts == wanted
    assert passes[1] <= passes[0]  # rejected for no reason, nearly all of a draft is kept where it is reused
    if proposer == "drafter" and not reuse:
        assert passes[1] < 0.7 * passes[0]


def test_the_drafter_repeats_what_it_has_read(draft: HuggingFaceGenerator, target: HuggingFaceGenerator) -> None:
    passes = []
    for settings in (Settings(), Settings(speculate_drafts="lookup"), Settings(speculate_drafts="lookup", lookahead=2)):
        before = draft.runner.passes
        results = rsd(draft, target, settings).run_many(QUESTIONS[:3], concurrency=1)
        passes.append(draft.runner.passes - before)
        if len(passes) == 1:
            wanted = [result.text for result in results]
        assert [result.text for result in results] == wanted
        assert all(result.ledger.target.calls for result in results)
    assert passes[1] < passes[0]


def test_drafts_ahead_are_proposed_as_others_are(
    draft: HuggingFaceGenerator, target: HuggingFaceGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner, asked = draft.generate, list[StepRequest]()

    async def generate(path: Path, request: StepRequest) -> Generation:
        asked.append(request)
        return await inner(path, request)

    monkeypatch.setattr(draft, "generate", generate)
    texts, passes = [], []
    for settings in (Settings(lookahead=2), Settings(lookahead=2, speculate_drafts="lookup")):
        asked.clear()
        before = draft.runner.passes
        decoder = RewardGuidedDecoder(
            drafter=draft, verifier=ScriptedVerifier(lambda *_: 0.9), target=target, settings=settings
        )
        texts.append([result.text for result in decoder.run_many(QUESTIONS[:3], concurrency=1)])
        passes.append(draft.runner.passes - before)
        assert {request.speculation is not None for request in asked} == {settings.speculate_drafts is not None}
    assert texts[0] == texts[1]
    assert passes[1] < passes[0]


def test_sampled_answers_are_the_requests_own(draft: HuggingFaceGenerator, target: HuggingFaceGenerator) -> None:
    """The same alone and among others; and by a proposer that draws nothing, the same as without."""
    warm = Settings(temperature=0.8, top_p=0.9, seed=3, speculate="drafter")
    decoder = rsd(draft, target, warm)
    assert [result.text for result in decoder.run_many(QUESTIONS)] == [decoder.run(one).text for one in QUESTIONS]
    by_lookup = rsd(draft, target, warm.updated(speculate="lookup", speculate_drafts="lookup"))
    without = rsd(draft, target, warm.model_copy(update={"speculate": None}))
    assert by_lookup.run(QUESTIONS[0]).text == without.run(QUESTIONS[0]).text


def test_under_a_limit_on_the_target_nothing_is_computed_in_vain(
    draft: HuggingFaceGenerator, target: HuggingFaceGenerator
) -> None:
    limited = Settings(speculate="drafter", limits=Limits(max_target_tokens=1000))
    assert rsd(draft, target, limited).run(QUESTIONS[0]).ledger.target.discarded == 0


def test_who_cannot_speculate_is_reported_before_the_first_request(
    draft: HuggingFaceGenerator, target: HuggingFaceGenerator
) -> None:
    with pytest.raises(ConfigurationError, match="cannot verify proposed tokens"):
        RewardGuidedDecoder(
            drafter=draft, verifier=ScriptedVerifier([1.0]), target=ScriptedTarget(["x"]),
            settings=Settings(speculate="drafter"),
        )  # fmt: skip
    with pytest.raises(ConfigurationError, match="cannot propose tokens"):
        RewardGuidedDecoder(
            drafter=ScriptedDrafter(["x"]), verifier=ScriptedVerifier([1.0]), target=target,
            settings=Settings(speculate="drafter"),
        )  # fmt: skip
    with pytest.raises(ConfigurationError, match="cannot draft for itself"):
        Settings().updated(speculate_drafts="drafter")
