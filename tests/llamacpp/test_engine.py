"""The embedded family with llama.cpp against the same weights with transformers: same tokens, equal numbers."""

from __future__ import annotations

import asyncio
import itertools
from functools import cache
from typing import Any

import pytest

from rsd_core import (
    BinaryStep,
    Decoder,
    FirstTokenEntropy,
    Path,
    RewardGuidedDecoder,
    RSDConfig,
    Sampling,
    Settings,
    Step,
    StepRequest,
    as_prompt,
)
from rsd_core.methods import Setup, parse_method
from rsd_integrations.embedded.models import FOLDER
from rsd_integrations.huggingface import load_generator as load_torch
from rsd_integrations.huggingface import load_likelihood as load_torch_likelihood
from rsd_integrations.llamacpp import load_generator, load_likelihood
from rsd_integrations.verifiers import Confidence, WordJudge
from tests.huggingface.tiny import copied
from tests.llamacpp.gguf_files import embedded

PATH = Path(as_prompt("Mia has 45 apples. On Monday she buys 12 more. How many apples does Mia have now?"))
STEPS = [Step(text, "delimiter") for text in ("45+12=57.\n\n", "No.\n\n", "Then she sells 9 of them.\n\n")]


@cache
def gguf(name: str) -> Any:
    return load_generator(str(embedded(name)))


@cache
def torch(name: str) -> Any:
    return load_torch(str(FOLDER / name))


@cache
def judges() -> tuple[Any, Any]:
    """The target's likelihood by either engine."""
    return load_likelihood(str(embedded("target"))), load_torch_likelihood(str(FOLDER / "target"))


def setups(**options: Any) -> list[Setup]:
    own, other = judges()
    return [
        Setup(drafter=gguf("draft"), verifier=own, target=gguf("target"), **options),
        Setup(drafter=torch("draft"), verifier=other, target=torch("target"), **options),
    ]


def _given(setup: Setup) -> Any:
    return setup.given


def answers(decoder: Decoder, prompts: list[str]) -> list[Any]:
    results = decoder.run_many(prompts, concurrency=4)
    return [(result.text, result.finish_reason, [step.author for step in result.steps]) for result in results]


def test_ids_mean_the_same_to_both_engines() -> None:
    for name in ("draft", "target"):
        assert gguf(name).vocabulary.identity == torch(name).vocabulary.identity
        assert gguf(name).eos_ids >= torch(name).eos_ids  # here everything that ends a response, padding included
        prompt = as_prompt("Zoe walks 5 miles. \U0001f600 <|im_end|>")
        assert gguf(name).vocabulary.prompt(prompt) == torch(name).vocabulary.prompt(prompt)


@pytest.mark.parametrize(
    "settings", [Settings(), Settings(lookahead=2), Settings(hedge=0.3)], ids=["plain", "lookahead", "hedging"]
)
def test_reward_guided_texts_are_equal(questions: list[str], settings: Settings) -> None:
    own, other = (
        RewardGuidedDecoder(
            drafter=given["drafter"],
            verifier=given["verifier"],
            target=given["target"],
            policy=BinaryStep(delta=0.9),
            settings=settings,
        )
        for given in map(_given, setups())
    )
    found = answers(own, questions[:12])
    assert found == answers(other, questions[:12])
    assert {author for _, _, authors in found for author in authors} == {"draft", "target"}


@pytest.mark.parametrize(("drafter", "target"), [(gguf, torch), (torch, gguf)])
def test_models_of_both_engines_exchange_ids(
    questions: list[str], drafter: Any, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps are read as the ids that were sampled: nothing is tokenised but prompts."""
    own, _ = judges()
    mixed = RewardGuidedDecoder(
        drafter=drafter("draft"), verifier=own, target=target("target"), policy=BinaryStep(delta=0.9)
    )
    plain = RewardGuidedDecoder(
        drafter=torch("draft"), verifier=judges()[1], target=torch("target"), policy=BinaryStep(delta=0.9)
    )
    wanted = answers(plain, questions[:8])
    encoded: list[str] = []

    def noting(encode: Any) -> Any:
        def noted(text: str) -> Any:
            encoded.append(text)
            return encode(text)

        return noted

    for model in (drafter("draft"), target("target"), own):
        encode = model.vocabulary.encode
        monkeypatch.setattr(model.vocabulary, "encode", noting(encode))
    assert answers(mixed, questions[:8]) == wanted
    assert all(any(question in text for question in questions[:8]) for text in encoded)


def test_numbers_of_given_steps_agree() -> None:
    for name in ("draft", "target"):
        own, other = gguf(name), torch(name)
        steps = [*STEPS, Step("The answer is \\boxed{57}.", "end"), Step("", "end")]
        likely = [asyncio.run(model.log_likelihoods(copied(PATH), steps)).values for model in (own, other)]
        assert likely[0] == pytest.approx(likely[1], abs=0.05)
        words = [asyncio.run(model.next_word(copied(PATH), ["1", "2", "S"])).logprobs for model in (own, other)]
        assert words[0] == pytest.approx(words[1], abs=0.05)
        assert isinstance(own, FirstTokenEntropy)
        entropies = [asyncio.run(model.first_token_entropy(copied(PATH))).nats for model in (own, other)]
        assert entropies[0] == pytest.approx(entropies[1], abs=0.02)


@pytest.mark.parametrize("how", ["min", "mean", "entropy"])
def test_likelihoods_agree(how: Any) -> None:
    own = load_likelihood(str(embedded("target")), how=how)
    other = load_torch_likelihood(str(FOLDER / "target"), how=how)
    rewards = [asyncio.run(model.score(copied(PATH), STEPS)).rewards for model in (own, other)]
    assert rewards[0] == pytest.approx(rewards[1], abs=0.01)
    assert own.explain(PATH, STEPS[0]) == other.explain(PATH, STEPS[0])


def test_judges_agree() -> None:
    def reward(model: Any) -> Any:
        return asyncio.run(WordJudge(model, min_mass=0).score(copied(PATH), STEPS[:1])).rewards

    assert reward(gguf("draft")) == pytest.approx(reward(torch("draft")), abs=0.02)


def test_confidence_reads_the_log_probabilities_of_sampled_tokens() -> None:
    request = StepRequest((0,), 24)
    own, other = (
        asyncio.run(model.generate(copied(PATH), request)).steps[0] for model in (gguf("draft"), torch("draft"))
    )
    assert own.tokens == other.tokens
    assert own.logprobs == pytest.approx(other.logprobs, abs=0.02)
    scores = [asyncio.run(Confidence().score(PATH, [step])).rewards for step in (own, other)]
    assert scores[0] == pytest.approx(scores[1], abs=0.02)


def test_an_output_that_was_kept_is_the_last_token_s_own() -> None:
    """A path that was read before it was written on, and whose step ends the response."""
    model, path = gguf("draft"), copied(PATH)

    async def numbers() -> tuple[Any, Any]:
        await model.first_token_entropy(path)
        step = (await model.generate(path, StepRequest((0,), 400, delimiter=None))).steps[0]
        assert step.ending == "end"
        after = path.extend(step)
        return await model.first_token_entropy(after), await model.first_token_entropy(copied(after))

    cached, fresh = asyncio.run(numbers())
    assert cached.nats == pytest.approx(fresh.nats, abs=0.02)


def test_sampled_steps_are_those_of_the_transformers_engine(questions: list[str]) -> None:
    """Own random numbers for each request and position; logits of the engines differ in their last digits."""
    same = 0
    for sampling, question in itertools.product((Sampling(0.7), Sampling(1.0, 0.9)), questions[:6]):
        request, path = StepRequest((1, 2, 3), 40, sampling=sampling), Path(as_prompt(question))
        own, other = (
            [step.tokens for step in asyncio.run(model.generate(copied(path), request)).steps]
            for model in (gguf("draft"), torch("draft"))
        )
        same += own == other
        alone = [
            asyncio.run(gguf("draft").generate(copied(path), StepRequest((seed,), 40, sampling=sampling)))
            .steps[0]
            .tokens
            for seed in (1, 2, 3)
        ]
        assert sum(a == b for a, b in zip(alone, own, strict=True)) >= 2
    assert same >= 10


def test_a_configuration_names_gguf_models(questions: list[str]) -> None:
    config = RSDConfig(
        drafter=f"gguf:{embedded('draft')}",
        verifier=f"likelihood:gguf={embedded('target')}",
        target=f"gguf,threads=1:{embedded('target')}",
        policy=BinaryStep(delta=0.9),
    )
    with config.build() as decoder:
        own = [result.text for result in decoder.run_many(questions[:3])]
    wanted = RewardGuidedDecoder(
        drafter=torch("draft"), verifier=judges()[1], target=torch("target"), policy=BinaryStep(delta=0.9)
    )
    assert own == [result.text for result in wanted.run_many(questions[:3])]


METHODS = [
    "target",
    "draft",
    "majority:3",
    "best_of_n:3",
    "beam",
    "backtracking",
    "specreason",
    "glimprouter",
    "first_steps:1",
]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_on_it(method: str, questions: list[str]) -> None:
    own, other = (parse_method(method).build(setup) for setup in setups())
    found, wanted = answers(own, questions[:4]), answers(other, questions[:4])
    sampled = method.partition(":")[0] in ("majority", "best_of_n", "beam")  # a number decides, rounded otherwise
    assert sum(a == b for a, b in zip(found, wanted, strict=True)) >= (2 if sampled else 4)
