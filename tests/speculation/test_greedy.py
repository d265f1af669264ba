"""Under greedy decoding, speculation writes what the target writes alone, token for token."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path as Folder

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsd_core import Path, Speculation, Step, StepRequest, as_prompt, load
from rsd_integrations.embedded.models import FOLDER
from rsd_integrations.embedded.task import problems
from rsd_integrations.huggingface import HuggingFaceGenerator, load_generator
from rsd_integrations.huggingface.from_pretrained import load_tokenizer
from rsd_integrations.huggingface.fused_decoder import FusedDecoder
from rsd_integrations.speculation.lookup import Lookup
from tests.huggingface.test_fused_decoder import make
from tests.huggingface.tiny import make_causal_lm
from tests.speculation.scripted import Scripted

QUESTIONS = [problem.question for problem in itertools.islice(problems("test", 5), 16)]
WHOLE = StepRequest((0,), max_tokens=60, delimiter=None)
PROPOSERS = ("drafter", "lookup", "chain", "tree")


async def write(target: HuggingFaceGenerator, question: str, request: StepRequest = WHOLE) -> Step:
    return (await target.generate(Path(as_prompt(question)), request)).steps[0]


def by(name: str, known: Step, drafter: HuggingFaceGenerator, draft_length: int = 5) -> Speculation:
    """Speculation by the proposer of a name, where the text is known that is to be written."""
    if name == "drafter":
        return Speculation(drafter=drafter, draft_length=draft_length)
    if name == "lookup":
        return Speculation(Lookup(), draft_length=draft_length)
    return Speculation(Scripted(text=known.tokens, tree=name == "tree"), draft_length=draft_length)


@pytest.fixture(scope="module")
def alone(target: HuggingFaceGenerator) -> dict[str, Step]:
    return {question: asyncio.run(write(target, question)) for question in QUESTIONS}


@pytest.mark.parametrize("proposer", PROPOSERS)
@pytest.mark.parametrize("batch", [1, 3, 16])
def test_the_tokens_are_the_targets_own_in_every_batch(
    proposer: str, batch: int, draft: HuggingFaceGenerator, target: HuggingFaceGenerator, alone: dict[str, Step]
) -> None:
    async def together(questions: Sequence[str]) -> list[Step]:
        requests = [replace(WHOLE, speculation=by(proposer, alone[question], draft)) for question in questions]
        return await asyncio.gather(*(write(target, *asked) for asked in zip(questions, requests, strict=True)))

    before = target.runner.passes
    asked = QUESTIONS if batch == 16 else QUESTIONS[:3]
    for begin in range(0, len(asked), batch):
        questions = asked[begin : begin + batch]
        for question, step in zip(questions, asyncio.run(together(questions)), strict=True):
            known = alone[question]
            assert (step.tokens, step.text, step.ending) == (known.tokens, known.text, known.ending)
            assert step.logprobs == pytest.approx(known.logprobs, abs=1e-3)
    if batch == 1 and proposer != "lookup":
        assert target.runner.passes - before < 0.5 * sum(alone[question].size for question in asked)


@settings(max_examples=12, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(range(5)),
            st.sampled_from(PROPOSERS),
            st.integers(1, 9),
            st.integers(1, 40),
            st.sampled_from([None, "\n\n", "."]),
        ),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from([None, 2]),
)
def test_a_step_depends_on_nothing_but_its_own_request(
    small: tuple[HuggingFaceGenerator, HuggingFaceGenerator],
    asked: list[tuple[int, str, int, int, str | None]],
    room: int | None,
) -> None:
    """Whatever else runs, however long drafts are, and even if caches hold almost nothing."""
    drafter, target = small
    stores = [model.runner.store for model in small]
    budgets = [store.budget for store in stores]
    plain = [
        (QUESTIONS[i], StepRequest((0,), most, delimiter=delimiter), proposer, length)
        for i, proposer, length, most, delimiter in asked
    ]
    wanted = [asyncio.run(write(target, question, request)) for question, request, *_ in plain]

    async def together() -> list[Step]:
        return await asyncio.gather(
            *(
                write(target, question, replace(request, speculation=by(proposer, known, drafter, length)))
                for (question, request, proposer, length), known in zip(plain, wanted, strict=True)
            )
        )

    try:
        for store in stores:
            store.clear()
            if room is not None:
                store.budget = store.token_bytes * store.context * room
        made = asyncio.run(together())
    finally:
        for store, budget in zip(stores, budgets, strict=True):
            store.budget = budget
    for step, known in zip(made, wanted, strict=True):
        assert (step.tokens, step.ending, step.size) == (known.tokens, known.ending, known.size)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[HuggingFaceGenerator, HuggingFaceGenerator]:
    """Two random models, of which one drafts and the other agrees now and then."""
    folder = tmp_path_factory.mktemp("small")
    made = [load_generator(str(make_causal_lm(folder / str(seed), seed))) for seed in range(2)]
    return made[0], made[1]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("window", [None, 12])
def test_trees_are_read_in_place(fused: bool, window: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the fused pass and by a model's own modules, through a window too, and after a long prompt read in chunks."""
    if not fused:
        monkeypatch.setattr(FusedDecoder, "of", lambda *_: None)
    made = HuggingFaceGenerator(make("Mistral", sliding_window=window), load_tokenizer(FOLDER / "target"), "windowed")
    made.eos_ids = frozenset()
    request = replace(WHOLE, max_tokens=24)
    for question in (QUESTIONS[0], "Mia has 45 apples. " * 12):
        known = asyncio.run(write(made, question, request))
        for right in (1.0, 0.7):
            speculation = Speculation(Scripted(text=known.tokens, tree=True, right=right))
            step = asyncio.run(write(made, question, replace(request, speculation=speculation)))
            assert step.tokens == known.tokens
            assert step.logprobs == pytest.approx(known.logprobs, abs=1e-4)


def test_what_comes_after_speculation_finds_all_of_it_cached(checkpoint: Folder) -> None:
    """Nodes of a tree that were not chosen leave nothing behind, and chosen ones are where a chain would be."""
    model = load_generator(str(checkpoint))
    path = Path(as_prompt(QUESTIONS[0]))
    request = replace(WHOLE, max_tokens=20)
    known = asyncio.run(write(model, QUESTIONS[0], request))
    speculation = Speculation(Scripted(text=known.tokens, tree=True, right=0.9))
    made = asyncio.run(model.generate(path, replace(request, speculation=speculation)))
    going_on = asyncio.run(model.generate(path.extend(made.steps[0]), request))
    assert going_on.usage.computed == 20  # the last token of the step, and all but the last of the next
    fresh = Path(as_prompt(QUESTIONS[0])).extend(made.steps[0])
    assert (
        going_on.steps[0].tokens
        == asyncio.run(load_generator(str(checkpoint)).generate(fresh, request)).steps[0].tokens
    )


def test_a_drafter_of_another_vocabulary_proposes_by_its_text(
    target: HuggingFaceGenerator, alone: dict[str, Step]
) -> None:
    """The thinking family has its own tokens for markers of thoughts; told not to think, it writes similar text."""
    drafter = load("embedded,template.enable_thinking=false:thinking-target")
    assert drafter.vocabulary.identity != target.vocabulary.identity
    request = replace(WHOLE, speculation=Speculation(drafter=drafter))
    before, written = target.runner.passes, 0
    for question in QUESTIONS[:4]:
        made = asyncio.run(target.generate(Path(as_prompt(question)), request))
        assert made.steps[0].tokens == alone[question].tokens
        (own, _), (other, drafting) = made.usage.parts
        assert (own, other) == (target, drafter)
        assert drafting.discarded < drafting.generated
        written += made.steps[0].size
    assert target.runner.passes - before < 0.6 * written
