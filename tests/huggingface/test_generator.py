"""In-process generation: the same tokens as plain `generate()`, each computed once, steps cut at tokens."""

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path as Folder
from typing import Any

import pytest
import torch

from rsd_core import (
    ConfigurationError,
    Constant,
    DraftOnly,
    Limits,
    Path,
    PromptError,
    RewardGuidedDecoder,
    Sampling,
    Settings,
    Step,
    StepRequest,
    TargetOnly,
    as_prompt,
)
from rsd_core.concurrency import run_all
from rsd_core.testing import ScriptedVerifier
from rsd_integrations.huggingface import HuggingFaceGenerator, load_generator
from rsd_integrations.huggingface.attention import Batch
from rsd_integrations.huggingface.output import TorchOutput
from tests.conftest import Counter
from tests.huggingface.tiny import copied, make_causal_lm

PROMPT = "Mia has 45 apples."
ENDLESS = Settings(limits=Limits(max_tokens=120, max_steps=None, max_repeats=None))
BATCHES = [(1, slice(0, 30)), (3, slice(30, 80)), (16, slice(80, 200))]


def generated(model: HuggingFaceGenerator, questions: list[str], tokens: int) -> list[list[int]]:
    """What transformers' own `generate()` writes, greedily, up to the end of the answer."""
    tokenizer: Any = model.vocabulary.tokenizer
    answers: list[list[int]] = []
    for at in range(0, len(questions), 20):
        texts = [
            tokenizer.apply_chat_template([{"role": "user", "content": q}], tokenize=False, add_generation_prompt=True)
            for q in questions[at : at + 20]
        ]
        inputs = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
        out = model.model.generate(**inputs, max_new_tokens=tokens, do_sample=False)  # type: ignore[operator]
        for row in out[:, inputs["input_ids"].shape[1] :].tolist():
            end = row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else len(row)
            answers.append(row[:end])
    return answers


def tokens(path_text: str, model: HuggingFaceGenerator) -> list[int]:
    return model.vocabulary.encode(path_text)


@pytest.fixture(scope="session")
def draft_answers(draft: HuggingFaceGenerator, questions: list[str]) -> dict[str, list[int]]:
    return dict(zip(questions, generated(draft, questions, 120), strict=True))


@pytest.fixture(scope="session")
def target_answers(target: HuggingFaceGenerator, questions: list[str]) -> dict[str, list[int]]:
    return dict(zip(questions, generated(target, questions, 120), strict=True))


@pytest.mark.parametrize(("batch", "asked"), BATCHES)
def test_the_drafter_in_any_batch_equals_generate(
    draft: HuggingFaceGenerator, questions: list[str], draft_answers: dict[str, list[int]], batch: int, asked: slice
) -> None:
    twin = load_generator(draft.name)
    coin = RewardGuidedDecoder(  # whatever is rejected, the same model writes it again
        drafter=draft, verifier=ScriptedVerifier([0.5]), target=twin, policy=Constant(p=0.5), settings=ENDLESS
    )
    wanted = [draft_answers[question] for question in questions[asked]]
    assert sampled(DraftOnly(drafter=draft, settings=ENDLESS), questions[asked], batch) == wanted
    assert sampled(coin, questions[asked], batch) == wanted


@pytest.mark.parametrize(("batch", "asked"), BATCHES)
def test_the_target_in_any_batch_equals_generate(
    draft: HuggingFaceGenerator,
    target: HuggingFaceGenerator,
    questions: list[str],
    target_answers: dict[str, list[int]],
    batch: int,
    asked: slice,
) -> None:
    never = RewardGuidedDecoder(
        drafter=draft, verifier=ScriptedVerifier([0.5]), target=target, policy=Constant(p=0), settings=ENDLESS
    )
    wanted = [target_answers[question] for question in questions[asked]]
    assert sampled(never, questions[asked], batch) == wanted
    assert sampled(TargetOnly(target=target, settings=ENDLESS), questions[asked], batch) == wanted


def sampled(decoder: DraftOnly | TargetOnly | RewardGuidedDecoder, questions: list[str], batch: int) -> list[list[int]]:
    """The ids of answers as their authors sampled them, several questions at once."""

    async def decode(question: str) -> list[int]:
        request, calls, guard = decoder._begin(as_prompt(question), {})
        async with decoder._running(request, calls, guard) as events:
            async for _ in events:
                pass
        return [id_ for step in request.path.steps for id_ in step.tokens]

    return asyncio.run(run_all(map(decode, questions), batch))


@pytest.mark.parametrize("seed", range(5))
def test_random_rejections_never_disturb_the_cache(checkpoint: Folder, seed: int, counted: Counter) -> None:
    """Whatever is accepted, rejected or branched, the next tokens are those of a fresh computation."""
    model, fresh = load_generator(str(checkpoint)), load_generator(str(checkpoint))
    counted.watch("model", model.model)
    rng = random.Random(seed)
    path, computed = Path(as_prompt(PROMPT)), 0
    request = StepRequest(seeds=(1,), max_tokens=6)
    for _ in range(12):
        made = asyncio.run(model.generate(path, request))
        again = asyncio.run(fresh.generate(copied(path), request))
        computed += made.usage.computed + again.usage.computed  # of one checkpoint, so of one model
        assert made.steps == again.steps
        assert again.usage.reused == 0
        move = rng.random()
        if move < 0.5:
            path = path.extend(made.steps[0])
        elif move < 0.8:
            path = path.extend(Step("She buys 12 more.\n\n", "delimiter"))
        elif path.parent is not None:
            path = path.parent
    assert counted.tokens["model"] == computed


def test_each_token_is_computed_once(checkpoint: Folder, counted: Counter) -> None:
    model = load_generator(str(checkpoint))
    counted.watch("model", model.model)
    result = DraftOnly(drafter=model, settings=ENDLESS).run(PROMPT)
    prompt = len(model.vocabulary.prompt(as_prompt(PROMPT)))
    assert counted.tokens["model"] == prompt + result.ledger.drafter.generated - 1  # the last one is not read back
    assert result.ledger.drafter.computed == counted.tokens["model"]


def test_candidates_are_seeded_and_differ(checkpoint: Folder) -> None:
    model = load_generator(str(checkpoint))
    request = StepRequest(seeds=(1, 2, 1), max_tokens=12, sampling=Sampling(temperature=1.0, top_p=0.9))
    first, second, third = asyncio.run(model.generate(Path(as_prompt(PROMPT)), request)).steps
    assert first == third
    assert first != second


def test_steps_end_at_every_token_that_holds_the_delimiter(draft: HuggingFaceGenerator) -> None:
    vocabulary = draft.vocabulary
    assert vocabulary.pieces[vocabulary.encode(".\n\n")[0]] == b".\n\n"  # one token
    made = asyncio.run(draft.generate(Path(as_prompt(PROMPT + " She buys 4 more.")), StepRequest(seeds=(0,))))
    assert made.steps[0].ending in ("delimiter", "end")


def test_a_delimiter_in_pieces_ends_the_step(checkpoint: Folder) -> None:
    """Two newlines as two tokens, and a delimiter of several tokens."""
    model = load_generator(str(checkpoint))
    script = [*model.vocabulary.encode("ab\n"), *model.vocabulary.encode("\n"), *model.vocabulary.encode("cd")]
    for delimiter, length in (("\n\n", 4), ("b\n", 3)):
        play = iter(script)
        model.runner._run = scripted(model, play)  # type: ignore[method-assign,assignment]
        request = StepRequest(seeds=(0,), max_tokens=len(script), delimiter=delimiter)
        made = asyncio.run(model.generate(Path(as_prompt(PROMPT)), request))
        assert made.steps[0].tokens == tuple(script[:length])
        assert made.steps[0].ending == "delimiter"


def scripted(model: HuggingFaceGenerator, play: Iterator[int]) -> Callable[[Batch, list[int]], TorchOutput]:
    """Forward passes as they are, with logits that ask for the tokens of a script."""
    plain = type(model.runner)._run

    def run(batch: Batch, indices: list[int]) -> TorchOutput:
        plain(model.runner, batch, indices)
        return TorchOutput(None, torch.nn.functional.one_hot(torch.tensor([next(play)]), model.model.config.vocab_size))

    return run


@pytest.mark.parametrize(
    "text", ["She buys 12 more: 45+12=57.\n\n", "héé — 数学 🙂\n", "<b> \\boxed{3}", "a  b\t\n\n\nc"]
)
def test_pieces_spell_every_text(draft: HuggingFaceGenerator, text: str) -> None:
    assert draft.vocabulary.text(draft.vocabulary.encode(text)) == text


def test_models_of_one_vocabulary_exchange_ids_and_others_text(
    draft: HuggingFaceGenerator, target: HuggingFaceGenerator
) -> None:
    assert draft.vocabulary.identity == target.vocabulary.identity
    ids = tuple(draft.vocabulary.encode("x\n\n"))
    odd = (ids[0], ids[0])  # not what the text would be tokenised to
    same = Path(as_prompt(PROMPT)).extend(Step("x\n\n", "delimiter", odd, draft.vocabulary.identity))
    other = Path(as_prompt(PROMPT)).extend(Step("x\n\n", "delimiter", odd, "another vocabulary"))
    assert tuple(target.vocabulary.ids(same)[0][-2:]) == odd
    assert tuple(target.vocabulary.ids(other)[0][-len(ids) :]) == ids


def test_a_last_assistant_message_is_continued(draft: HuggingFaceGenerator) -> None:
    prompt = as_prompt([("user", "q"), ("assistant", "The answer")])
    assert draft.vocabulary.text(draft.vocabulary.prompt(prompt)).endswith("The answer")


def test_a_prompt_longer_than_the_context_is_refused(checkpoint: Folder) -> None:
    model = load_generator(str(checkpoint))
    with pytest.raises(PromptError, match=r"context of .* is 256"):
        TargetOnly(target=model).run("apples " * 300)


def test_an_answer_ends_with_the_context(checkpoint: Folder) -> None:
    model = load_generator(str(checkpoint))
    result = DraftOnly(drafter=model, settings=Settings(limits=Limits(max_repeats=None, max_steps=None))).run(PROMPT)
    assert result.finish_reason in ("max_tokens", "stop")
    assert result.ledger.drafter.computed <= 256


def test_flops_count_the_weights_that_multiply(checkpoint: Folder, tmp_path: Folder) -> None:
    tied = load_generator(str(checkpoint))
    total = sum(p.numel() for p in tied.model.parameters())
    assert tied.flops_per_token == 2 * total  # the embeddings are the head as well
    untied = load_generator(str(make_causal_lm(tmp_path / "untied", tie_word_embeddings=False)))
    assert untied.flops_per_token == 2 * total


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("./nowhere", "no folder"),
        ("no-such-org/no-such-model", "could not be fetched"),
        ("a/b/c", "could not be fetched"),
    ],
)
def test_a_missing_checkpoint(model: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        load_generator(model)


def test_a_folder_without_a_checkpoint(tmp_path: Folder) -> None:
    with pytest.raises(ConfigurationError, match=r"config\.json is missing"):
        load_generator(str(tmp_path))


def test_pickled_weights_are_refused_unless_asked_for(checkpoint: Folder) -> None:
    weights = checkpoint / "model.safetensors"
    torch.save(load_generator(str(checkpoint)).model.state_dict(), checkpoint / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ConfigurationError, match="allow_pickles=True"):
        load_generator(str(checkpoint))
    assert load_generator(str(checkpoint), allow_pickles=True).context == 256


def test_an_unknown_dtype_is_refused_before_anything_is_read() -> None:
    with pytest.raises(ConfigurationError, match="float8"):
        load_generator("./nowhere", dtype="float8")


def test_a_generation_cut_short_is_charged_and_does_not_outlive_its_request(
    checkpoint: Folder, counted: Counter
) -> None:
    model = load_generator(str(checkpoint))
    counted.watch("model", model.model)
    plain = model.runner._run

    def slowly(batch: Batch, indices: list[int]) -> TorchOutput:
        time.sleep(0.02)
        return plain(batch, indices)

    model.runner._run = slowly  # type: ignore[method-assign]
    limits = Limits(max_seconds=0.3, max_repeats=None, max_steps=None)
    result = DraftOnly(drafter=model, settings=Settings(granularity="turn", limits=limits)).run(PROMPT)
    seen = counted.tokens["model"]
    assert result.finish_reason == "max_seconds"
    assert result.ledger.drafter.computed == seen > 0
    time.sleep(0.1)
    assert counted.tokens["model"] == seen


def test_ids_beyond_the_tokenizer_are_not_text(tmp_path: Folder) -> None:
    """Published checkpoints have more rows than their tokenizers have entries."""
    padded = load_generator(str(make_causal_lm(tmp_path / "padded", vocab_size=640)))
    assert len(padded.vocabulary.pieces) == 640
    assert padded.vocabulary.text([639]) == ""
