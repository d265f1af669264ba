"""Steps end where a splitter says, at a boundary of tokens, and follow each other as one text."""

from __future__ import annotations

import asyncio
import itertools
import random
from dataclasses import replace
from pathlib import Path as Folder

import pytest

from rsd_core import Delimiter, Path, Sampling, Sentence, Splitter, Step, StepRequest, Words, as_prompt, load
from rsd_core.splitting import splitter
from rsd_integrations.embedded.task import problems
from rsd_integrations.huggingface import HuggingFaceGenerator, load_generator
from rsd_integrations.inprocess.step_end import OpenStep, StepEnd
from tests.huggingface.tiny import make_causal_lm

TOTAL = 96
SPLITTERS: list[Splitter] = [
    Delimiter(text=". "),
    Delimiter(text="é"),
    Sentence(),
    Words(words=("So", "Now", "a")),
    splitter("\n", close="So"),  # type: ignore[list-item]
    splitter(None, close="."),  # type: ignore[list-item]
    splitter(Sentence(), close=" the"),  # type: ignore[list-item]
]


class Pieces:
    """Tokens with the given numbers of bytes, for a step alone."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces


def expected(pieces: list[bytes], rule: Splitter, cap: int) -> tuple[int, int, str]:
    """Tokens sampled and kept, and the ending, by the whole text at every token."""
    for sampled in range(1, min(cap, len(pieces)) + 1):
        texts = [b"".join(pieces[:count]) for count in range(1, sampled + 1)]
        whole = [not _is_open(text) for text in texts]
        decoded = texts[-1] if whole[-1] else texts[-1][: _closed(texts[-1])]
        end = rule.end(decoded.decode(errors="replace"))
        if end is not None:
            for count, text in enumerate(texts, 1):
                if whole[count - 1] and len(text.decode(errors="replace")) >= end:
                    return sampled, count, "delimiter"
    return min(cap, len(pieces)), min(cap, len(pieces)), "length"


def _closed(text: bytes) -> int:
    """Bytes of a text without a character that is begun at its end."""
    for length in (1, 2, 3):
        if length <= len(text) and text[-length] >= 0xC0:
            needed = 2 if text[-length] < 0xE0 else 3 if text[-length] < 0xF0 else 4
            return len(text) - length if length < needed else len(text)
        if length > len(text) or text[-length] < 0x80:
            break
    return len(text)


def _is_open(text: bytes) -> bool:
    return _closed(text) < len(text)


@pytest.mark.parametrize("rule", SPLITTERS, ids=repr)
def test_a_step_ends_at_the_first_boundary_after_its_end(rule: Splitter) -> None:
    rng, seen = random.Random(0), set()
    for _ in range(400):
        text = "".join(
            rng.choices(["So", " the", "é", "…", "😀", ".", " ", "\n", "\n\n", "a", "Now", "? "], k=24)
        ).encode()
        cuts = sorted({0, *rng.sample(range(1, len(text)), min(12, len(text) - 1)), len(text)})
        pieces = [text[begin:end] for begin, end in itertools.pairwise(cuts)]
        cap = rng.randrange(1, len(pieces) + 2)
        step = OpenStep(StepEnd(Pieces(pieces), frozenset(), rule), cap)  # type: ignore[arg-type]
        sampled = next((i + 1 for i in range(len(pieces)) if step.append(i, -float(i))), len(pieces))
        wanted = expected(pieces, rule, cap)
        assert (sampled, step.size, step.ending) == wanted
        assert step.sampled == sampled
        assert step.tokens == list(range(step.size))
        assert step.logprobs == [-float(i) for i in range(step.size)]
        seen.add((step.ending, sampled > step.size))
    assert ("delimiter", False) in seen


def test_the_splitter_is_not_asked_before_one_of_its_marks_is_written() -> None:
    asked: list[str] = []

    class Asked(Delimiter):
        def end(self, text: str) -> int | None:
            asked.append(text)
            return super().end(text)

    pieces = [b"So", b" it", b" is\n", b"\nfour."]
    step = OpenStep(StepEnd(Pieces(pieces), frozenset(), Asked()), 9)  # type: ignore[arg-type]
    assert [step.append(i, 0.0) for i in range(4)] == [False, False, False, True]
    assert asked == ["So it is\n\nfour."]


@pytest.mark.parametrize(
    ("rule", "marks"),
    [
        (Delimiter(), (b"\n\n",)),
        (splitter("\n", close="</think>"), (b"</think>", b"\n")),
        (splitter(None, close="</think>"), (b"</think>",)),
        (splitter(Sentence(), close="</think>"), ()),
        (None, ()),
    ],
)
def test_marks_are_what_steps_cannot_end_without(rule: Splitter | None, marks: tuple[bytes, ...]) -> None:
    assert StepEnd(Pieces([]), frozenset(), rule).marks == marks  # type: ignore[arg-type]


def test_a_token_that_ends_the_response_counts_and_is_not_text() -> None:
    step = OpenStep(StepEnd(Pieces([b"So", b""]), frozenset([1]), Delimiter()), 9)  # type: ignore[arg-type]
    assert [step.append(i, 0.0) for i in range(2)] == [False, True]
    assert (step.tokens, step.size, step.sampled, step.ending) == ([0], 2, 2, "end")


def in_steps(model: HuggingFaceGenerator, question: str, request: StepRequest) -> list[Step]:
    async def decode() -> list[Step]:
        path, steps = Path(as_prompt(question)), list[Step]()
        while (left := TOTAL - sum(step.size for step in steps)) > 0:
            asked = replace(request, max_tokens=min(request.max_tokens, left))
            generation = await model.generate(path, asked)
            (step,) = generation.steps
            assert generation.usage.generated >= step.size == len(step.tokens) + (step.ending == "end")
            assert len(step.logprobs) == len(step.tokens)
            steps.append(step)
            path = path.extend(step)
            if step.ending == "end":
                break
        return steps

    return asyncio.run(decode())


@pytest.mark.parametrize("rule", SPLITTERS, ids=repr)
@pytest.mark.parametrize("cap", [7, 200])
def test_steps_are_the_very_tokens_of_one_call(tmp_path: Folder, rule: Splitter, cap: int) -> None:
    trained: HuggingFaceGenerator = load("embedded:target")
    wild = load_generator(str(make_causal_lm(tmp_path / "model", 3)))
    asked = StepRequest((0,), cap, rule)
    for model, question in [
        (wild, "Mia has 45 apples."),
        *((trained, problem.question) for problem in itertools.islice(problems("test", 7), 3)),
    ]:
        (whole,) = in_steps(model, question, StepRequest((0,), TOTAL, None))
        steps = in_steps(model, question, asked)
        assert [token for step in steps for token in step.tokens] == list(whole.tokens)
        assert all("\ufffd" not in step.text for step in steps if step.ending == "delimiter") or model is wild
        assert "".join(step.text for step in steps) == whole.text


@pytest.mark.parametrize("rule", SPLITTERS, ids=repr)
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.9, 0.95)])
def test_a_step_is_the_same_with_a_guess_in_a_batch_and_next_to_a_cancelled_one(
    tmp_path: Folder, rule: Splitter, sampling: Sampling
) -> None:
    model = load_generator(str(make_causal_lm(tmp_path / "model", 3)))
    plain = StepRequest((5,), 40, rule, sampling)
    prompt = as_prompt("Mia has 45 apples.")

    async def one(request: StepRequest) -> Step:
        return (await model.generate(Path(prompt), request)).steps[0]

    wanted = asyncio.run(one(plain))
    longer = asyncio.run(one(replace(plain, delimiter=None)))
    assert longer.tokens[: len(wanted.tokens)] == wanted.tokens
    guesses = [longer, replace(longer, tokens=(*longer.tokens[:3], 7, 8)), replace(longer, tokens=longer.tokens[:1])]
    asked = [plain, *(replace(plain, guess=guess) for guess in guesses)]

    async def together() -> list[Step]:
        cancelled = asyncio.ensure_future(one(asked[1]))
        await asyncio.sleep(0)
        cancelled.cancel()
        made = await asyncio.gather(*map(one, asked))
        twins = (await model.generate(Path(prompt), replace(plain, seeds=(5, 6)))).steps
        return [*made, twins[0]]

    for step in (*(asyncio.run(one(request)) for request in asked), *asyncio.run(together())):
        assert (step.tokens, step.text, step.ending, step.size) == (
            wanted.tokens,
            wanted.text,
            wanted.ending,
            wanted.size,
        )


def test_what_a_step_does_not_keep_is_charged_and_rolled_back() -> None:
    model: HuggingFaceGenerator = load("embedded:target")
    question = next(iter(problems("test", 7))).question

    class Second(Splitter):
        """A step of two words, known when the fourth is written."""

        kind: str = "second"

        def end(self, text: str) -> int | None:
            words = text.split(" ")
            return len(" ".join(words[:2])) if len(words) > 4 else None

    async def decode() -> None:
        path = Path(as_prompt(question))
        first = await model.generate(path, StepRequest((0,), 64, Second()))
        (step,) = first.steps
        beyond = first.usage.generated - step.size
        assert beyond >= 2
        assert first.usage.computed == first.usage.prefix + first.usage.generated - 1
        after = await model.generate(path.extend(step), StepRequest((0,), 64, Second()))
        assert after.usage.reused == first.usage.prefix + step.size - 1  # the last one's logits were of no use before
        assert after.usage.computed == after.usage.generated

    asyncio.run(decode())
