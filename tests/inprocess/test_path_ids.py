"""For steps given as text, a model reads the encoding of their whole text, wherever it was cut."""

from __future__ import annotations

import asyncio
import copy
import random
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from itertools import pairwise
from math import exp
from pathlib import Path as Folder
from statistics import fmean
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rsd_core import (
    Constant,
    Limits,
    Path,
    Result,
    RewardGuidedDecoder,
    Settings,
    Step,
    StepRequest,
    Thinking,
    as_prompt,
)
from rsd_core.thoughts.markers import MARKERS
from rsd_integrations.huggingface import load_generator, load_likelihood, to_gguf
from rsd_integrations.inprocess.marks import Marks
from rsd_integrations.inprocess.path_cache import shared
from rsd_integrations.inprocess.safe_splits import SafeSplits
from rsd_integrations.inprocess.vocabulary import Vocabulary
from rsd_integrations.llamacpp import load_generator as load_gguf
from rsd_integrations.llamacpp import load_likelihood as load_gguf_likelihood
from rsd_integrations.llamacpp.model import Model
from rsd_integrations.llamacpp.tokenizer import GGUFTokenizer
from rsd_integrations.llamacpp.vocabulary import GGUFVocabulary
from tests.huggingface.tiny import make_causal_lm
from tests.llamacpp.gguf_files import gemma, smollm2
from tests.real_vocabularies import VOCABULARIES

PIECES = (
    "So", " the", "é", "…", "😀", ".", " ", "  ", "\n", "\n\n", "\n\n\n", " \n\n", "\r\n", "\t", "a", "Now", "? ", "12",
    "3456", "7", " 8", "日本", "語です", "。", "'s", "don't", " x", "$$", "\\[", "\\frac{1}{2}", "**", "- ", "| a |\n",
    "    return", "//", "\u00a0", "e\u0301", "<think>", "</s>", " I am", "word", "ing", " of", "\n\n    \n", "▁",
)  # fmt: skip
START = Path(as_prompt("Hi"))
Fast: Any = PreTrainedTokenizerFast


def of_gguf(file: Any) -> Vocabulary:
    model = Model.load(file, gpu_layers=0)
    return GGUFVocabulary(GGUFTokenizer(model), model.vocab_size)


def of_transformers(make: Callable[[], Any]) -> Vocabulary:
    tokenizer = make()
    return Vocabulary(tokenizer, len(tokenizer))


ALL: Mapping[str, Callable[[], Vocabulary]] = {
    "SmolLM2": cache(lambda: of_gguf(smollm2())),
    "Gemma 3": cache(lambda: of_gguf(gemma())),
} | {
    name: cache(lambda make=make: of_transformers(make))
    for name, make in VOCABULARIES.items()
    if name in ("Qwen2.5", "Llama 3", "Llama 4", "Mistral 7B", "Mistral tekken", "DeepSeek V3")
}


@pytest.mark.parametrize("name", ALL)
def test_text_in_steps_is_read_as_the_whole_text(name: str) -> None:
    rng, vocabulary = random.Random(1), ALL[name]()
    prompt = vocabulary.ids(START)[0]
    for _ in range(60):
        text = "".join(rng.choices(PIECES, k=rng.randint(2, 40)))
        cuts = sorted({0, len(text), *rng.choices(range(len(text) + 1), k=rng.randint(0, 6))})
        path, so_far = START, ""
        for begin, end in pairwise(cuts):
            step, other = Step(text[begin:end], "end"), Step(text[begin:end][::-1], "end")
            read = vocabulary.ids.after(path, [step, other])
            for candidate, feed in zip((step, other), read.feeds, strict=True):
                assert [*read.prefix, *feed] == [*prompt, *vocabulary.following(so_far + candidate.text)]
            path, so_far = path.extend(Step(step.text, "delimiter")), so_far + step.text
            ids = vocabulary.ids(path)[0]
            assert ids == [*prompt, *vocabulary.following(so_far)]
            # Where more is to be written, the end is read as it is before a letter, if that leaves it apart.
            open_ids = vocabulary.ids(path, goes_on=True)[0]
            assert open_ids == ids or open_ids == [*prompt, *vocabulary.following(f"{so_far}x")[:-1]]
            # It is a function of the path alone.
            twin = START
            for part in path.steps:
                twin = twin.extend(part)
            assert vocabulary.ids(twin)[0] == ids


@pytest.mark.parametrize("letter", ["\u212a", "\u2126", "\u0958", "\ufb1d"])
def test_letters_that_a_tokenizer_writes_with_other_bytes_lose_nothing_before_them(letter: str) -> None:
    """Qwen's compose letters (NFC): the sign of kelvin is a K, of fewer bytes, and other letters become longer."""
    vocabulary, text = ALL["Qwen2.5"](), f"It is 12.\n\n{letter}。"
    ids = vocabulary.ids(START.extend(Step(text, "end")))[0]
    assert ids == [*vocabulary.ids(START)[0], *vocabulary.encode(text)]


@pytest.mark.parametrize("name", ["SmolLM2", "Llama 3"])
def test_sampled_ids_stay_and_text_between_them_is_one(name: str) -> None:
    rng, vocabulary = random.Random(2), ALL[name]()
    for _ in range(40):
        path, wanted, text = START, vocabulary.ids(START)[0], ""
        for _ in range(8):
            if rng.random() < 0.6:
                text += (part := "".join(rng.choices(PIECES, k=4)))
                path = path.extend(Step(part, "delimiter"))
                assert vocabulary.ids(path)[0] == [*wanted, *vocabulary.following(text)]
                continue
            ids = vocabulary.encode("".join(rng.choices(PIECES, k=4)))
            wanted = [*vocabulary.ids(path, goes_on=True)[0], *ids]
            step = vocabulary.as_step(ids, "length", len(ids))
            assert vocabulary.ids.guess(path, step) == tuple(ids)
            path, text = path.extend(step), ""
            assert vocabulary.ids(path)[0] == wanted


def test_blank_lines_inside_a_text_are_the_tokens_that_models_write() -> None:
    """GPT-2's way of splitting has one token for a blank line at the end of a text, and two inside of it."""
    vocabulary, steps = ALL["SmolLM2"](), ["Half of 48 is 24.\n\n", "In all 48 + 24 = 72.\n\n", "So it is 72."]
    whole = vocabulary.encode("".join(steps))
    apart = [id_ for text in steps for id_ in vocabulary.encode(text)]
    path = START
    for text in steps:
        path = path.extend(Step(text, "delimiter"))
    assert vocabulary.ids(path)[0] == [*vocabulary.ids(START)[0], *whole]
    assert len(whole) == len(apart) + 2
    blank, newline = vocabulary.encode("\n\n"), vocabulary.encode("\n")
    assert len(blank) == 1
    assert path.parent is not None
    assert vocabulary.ids(path.parent)[0][-1:] == blank
    assert vocabulary.ids(path.parent, goes_on=True)[0][-2:] == newline * 2


def test_only_the_end_of_a_long_text_is_tokenised_again() -> None:
    vocabulary, read = ALL["SmolLM2"](), list[int]()
    plain = vocabulary.following

    def counted(text: str) -> list[int]:
        read.append(len(text))
        return plain(text)

    vocabulary.following = counted  # type: ignore[method-assign]
    try:
        path = START
        for number in range(200):
            path = path.extend(Step(f"Then {number} and so on, and 日本語。\n\n", "delimiter"))
            vocabulary.ids(path)
    finally:
        del vocabulary.following
    assert max(read) < 80


@pytest.mark.parametrize("line", ["12 * 7 = 84.\n\n", "$$4^2$$\n\n", "(5)\n\n", "- 3 + 4\n\n"])
def test_texts_without_letters_are_not_read_from_their_beginning_at_every_step(line: str) -> None:
    vocabulary, path, read = ALL["Llama 3"](), START, list[int]()
    encode = vocabulary.following

    def following(text: str) -> list[int]:
        read.append(len(text))
        return encode(text)

    vocabulary.following = following  # type: ignore[method-assign]
    try:
        for _ in range(30):
            path = path.extend(Step(line, "delimiter"))
            vocabulary.ids(path)
    finally:
        del vocabulary.following
    assert max(read) < 40


def test_a_line_that_may_begin_a_special_token_is_not_a_place_to_cut() -> None:
    """The text before one is tokenised as at an end, where GPT-2's way of splitting has another blank line."""
    vocabulary, path, parts = ALL["SmolLM2"](), START, ["It is 12.\n\n<", "|im_start|", "> 5\n\n"]
    for part in parts:
        path = path.extend(Step(part, "delimiter"))
    assert vocabulary.ids(path)[0] == [*vocabulary.ids(START)[0], *vocabulary.following("".join(parts))]


def test_tokens_over_a_place_make_it_no_place_to_cut() -> None:
    for tokens, words, lines in [
        (["Ġthe", "ĊĊ", "Ċčx"], True, True),
        (["ofĠthe"], False, True),
        (["of▁the"], False, True),
        (["Ċthe"], True, False),
        (["ĊÃł"], True, False),
        (["\nthe"], True, False),
        (["Ċ("], True, False),
        (["4Ġ2"], False, True),
    ]:
        assert SafeSplits.of(tokens) == SafeSplits(words, lines)
    text = "A line.\nSo it goes on"
    assert text[SafeSplits(True, True).last(text) :] == " on"
    assert text[SafeSplits(False, True).last(text) :] == "So it goes on"
    assert SafeSplits(False, False).last(text) == 0
    assert SafeSplits(False, True).last("1.\n(2)") == 3
    assert SafeSplits(False, True, frozenset("(")).last("1.\n(2)") == SafeSplits(True, True).last("1.\n//") == 0


TEXTS = ["Half of 48 is 24.\n\n", "\nIn all 48 + 24 = 72.\n\n", "So it is 72."]


def make_gpt2_like(folder: Folder) -> Folder:
    """A random model whose vocabulary splits as GPT-2's, with a token for a blank line."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"])
    made.train_from_iterator(["It is so.\n\n", "All in all"] * 9, trainer)
    tokenizer: Any = Fast(tokenizer_object=made, eos_token="<|endoftext|>")
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = LlamaConfig(vocab_size=len(tokenizer), eos_token_id=0, bos_token_id=None, initializer_range=0.3, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)  # transformers has its own pattern for Qwen's
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("backend", ["transformers", "llama.cpp"])
def test_a_verifier_reads_what_a_single_pass_over_the_whole_text_reads(tmp_path: Folder, backend: str) -> None:
    """The probabilities of each step's own tokens; those at the path's end that are read again are charged."""
    folder = str(make_gpt2_like(tmp_path / "model"))
    file = folder if backend == "transformers" else str(to_gguf.export(folder, tmp_path / "model.gguf"))
    verifier, writer = (
        (load_gguf_likelihood(file, how="mean"), load_gguf(file))
        if backend == "llama.cpp"
        else (load_likelihood(file, how="mean", dtype="float32"), load_generator(file, dtype="float32"))
    )
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    vocabulary, path = verifier.vocabulary, Path(as_prompt("How many?"))
    read, blank = list[int](), vocabulary.encode("\n\n")
    assert len(blank) == 1

    async def score() -> None:
        nonlocal path, read
        for text in TEXTS:
            step = Step(text, "end" if text is TEXTS[-1] else "delimiter")
            scores = await verifier.score(path, [step])
            (likely,) = (await writer.log_likelihoods(path, [step])).values
            path = path.extend(step)
            ids = vocabulary.ids(path, goes_on=step.ending != "end")[0]
            assert blank[0] not in ids[-3:]
            again = len(read) - shared(read, ids)
            assert 0 <= scores.usage.computed - (len(ids) - len(read) + again) <= (1 if path.depth > 1 else 0)
            read, count = ids, 0
            while sum(len(vocabulary.written(id_)) for id_ in ids[len(ids) - count :]) < len(text.encode()):
                count += 1
            with torch.inference_mode():
                logprobs = reference(torch.tensor([ids])).logits[0].double().log_softmax(-1)
            own = [float(logprobs[at - 1, ids[at]]) for at in range(len(ids) - count, len(ids))]
            assert scores.rewards[0] == pytest.approx(exp(fmean(own)), rel=1e-2 if backend == "llama.cpp" else 1e-4)
            end = float(logprobs[-1, 0]) if step.ending == "end" else 0.0
            assert likely == pytest.approx(sum(own) + end, rel=1e-2 if backend == "llama.cpp" else 1e-4)

    asyncio.run(score())
    # The next step continues from the tokens that it would follow inside a text.
    assert path.parent is not None
    made = asyncio.run(writer.generate(path.parent, StepRequest((0,), 4)))
    assert made.usage.prefix == len(vocabulary.ids(path.parent, goes_on=True)[0])


@pytest.mark.parametrize("text", [" cafe\u0301, un e\u0301te\u0301", " \u0958\u0959\u095a है", " 12 \u212b"])
def test_what_a_step_owns_is_what_a_tokenizer_writes_of_it(text: str) -> None:
    """Qwen's composes letters, so that decomposed ones take fewer bytes, and some composed ones more."""
    vocabulary, path = ALL["Qwen2.5"](), START.extend(Step("It is so. In the…end of it", "length"))
    read = vocabulary.ids.after(path, [Step(text, "end")])
    own = read.feeds[0][len(read.feeds[0]) - read.own[0] :]
    assert vocabulary.text(list(own)) == unicodedata.normalize("NFC", text)


def test_marks_are_found_in_what_a_tokenizer_writes() -> None:
    tokenizer: Any = copy.deepcopy(ALL["Qwen2.5"]().tokenizer)
    tokenizer.add_tokens(["<think>", "</think>"])
    vocabulary = Vocabulary(tokenizer, len(tokenizer))
    letters = "e\u0301te\u0301 \u0958" * 4
    step = Step(f"<think>\nSo {letters}.\n</think>\n\nIt is {letters}.", "end")
    path = Path(as_prompt("Hi"), thinking=Thinking(MARKERS["think"]))
    read, (judged,) = Marks(vocabulary).after(path, [step])
    own = read.feeds[0][len(read.feeds[0]) - read.own[0] :]
    text = vocabulary.text([id_ for id_, is_judged in zip(own, judged, strict=True) if is_judged])
    assert text == unicodedata.normalize("NFC", f"So {letters}.\nIt is {letters}.")


def test_early_work_and_neighbours_that_are_cancelled_change_no_answer_of_two_vocabularies(tmp_path: Folder) -> None:
    gpt2, other = str(make_gpt2_like(tmp_path / "a")), str(make_causal_lm(tmp_path / "b", 3))
    questions = ["Mia has 45 apples.", "Leo has 7 pens é.", "Ina has 12 🧮."]

    def made(drafter: str, target: str, **options: Any) -> RewardGuidedDecoder:
        limits = Limits(max_tokens=50, max_repeats=None)
        return RewardGuidedDecoder(
            drafter=load_generator(drafter),
            verifier=load_likelihood(target, how="mean"),
            target=load_generator(target),
            policy=Constant(p=0.5),
            settings=Settings(temperature=0.9, max_step_tokens=9, limits=limits, **options),
        )

    async def beside_others(decoder: RewardGuidedDecoder) -> list[Result]:
        async def cut(number: int) -> None:
            task = asyncio.ensure_future(decoder.arun(questions[number % 3], seed=9 + number))
            await asyncio.sleep(number * 0.02)
            task.cancel()
            await asyncio.wait([task])

        cuts = [asyncio.ensure_future(cut(number)) for number in range(6)]
        results = await decoder.arun_many(questions)
        await asyncio.gather(*cuts)
        return results

    for pair in ((gpt2, other), (other, gpt2)):
        plain = made(*pair, lookahead=0, reuse_rejected=False).run_many(questions)
        assert {step.author for result in plain for step in result.steps} == {"draft", "target"}
        for options in ({"lookahead": 2}, {"lookahead": 1, "hedge": 0.01}):
            found = asyncio.run(beside_others(made(*pair, **options)))
            for result, alone in zip(found, plain, strict=True):
                assert [replace(step, reward=None) for step in result.steps] == [
                    replace(step, reward=None) for step in alone.steps
                ]
                rewards = [step.reward for step in result.steps]
                assert rewards == pytest.approx([step.reward for step in alone.steps], abs=1e-5)
