"""A rejected draft as the target's guess: the same steps as without, but read instead of written."""

from __future__ import annotations

import asyncio
import itertools
import random
from dataclasses import replace
from functools import partial
from pathlib import Path as Folder

import pytest

from rsd_core import BinaryStep, Path, RewardGuidedDecoder, Sampling, Settings, Step, StepRequest, as_prompt, load
from rsd_core.testing import ScriptedDrafter, ScriptedVerifier
from rsd_integrations.embedded.models import FOLDER
from rsd_integrations.embedded.task import problems
from rsd_integrations.huggingface import HuggingFaceGenerator, load_generator
from rsd_integrations.huggingface import runner as torch_runner
from rsd_integrations.huggingface.from_pretrained import load_tokenizer
from rsd_integrations.huggingface.fused_decoder import FusedDecoder
from rsd_integrations.inprocess import runner
from tests.conftest import Counter
from tests.huggingface.test_fused_decoder import make

ROOM = 24


def write(model: HuggingFaceGenerator, request: StepRequest, prompt: str = "Mia has 45 apples.") -> Step:
    return asyncio.run(model.generate(Path(as_prompt(prompt)), request)).steps[0]


def guesses(step: Step, model: HuggingFaceGenerator) -> list[Step]:
    """Steps that share longer and shorter beginnings with one, and then differ or end."""
    rng, own = random.Random(0), list(step.tokens)
    made = [own, own[:5], [*own[:9], 7, *own[10:]], [7, 8, 9], [*own, *own], []]
    made += [[*own[: rng.randrange(len(own))], *rng.choices(range(3, 200), k=9)] for _ in range(6)]
    return [Step(model.vocabulary.text(ids), "length", tuple(ids), step.vocabulary, len(ids)) for ids in made]


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.8), Sampling(1.2, 0.9)])
@pytest.mark.parametrize(("chunk", "drawn"), [(512, 64), (7, 3)])
def test_a_step_is_the_same_whatever_is_guessed(
    checkpoint: Folder, sampling: Sampling, chunk: int, drawn: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "PREFILL_CHUNK", chunk)
    monkeypatch.setattr(torch_runner, "SAMPLED_AT_ONCE", drawn)
    check(load_generator(str(checkpoint)), sampling)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("window", [12, 40])
def test_guesses_are_read_through_a_window(fused: bool, window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if not fused:
        monkeypatch.setattr(FusedDecoder, "of", lambda *_: None)
    made = HuggingFaceGenerator(make("Mistral", sliding_window=window), load_tokenizer(FOLDER / "target"), "windowed")
    made.eos_ids = frozenset()
    check(made, Sampling())


def check(model: HuggingFaceGenerator, sampling: Sampling) -> None:
    """Guesses change nothing, one at a time, concurrently, and with a cancelled one."""
    plain = StepRequest((5,), ROOM, delimiter=None, sampling=sampling)
    wanted = write(model, plain)
    assert wanted.size == ROOM
    asked = [plain, *(replace(plain, guess=guess) for guess in guesses(wanted, model))]

    async def together() -> list[Step]:
        async def one(request: StepRequest) -> Step:
            return (await model.generate(Path(as_prompt("Mia has 45 apples.")), request)).steps[0]

        cancelled = asyncio.ensure_future(one(asked[1]))
        await asyncio.sleep(0)
        cancelled.cancel()
        return await asyncio.gather(*map(one, asked))

    for made in (*map(partial(write, model), asked), *asyncio.run(together())):
        assert made.tokens == wanted.tokens
        assert (made.text, made.ending, made.size) == (wanted.text, wanted.ending, wanted.size)
        assert made.logprobs == pytest.approx(wanted.logprobs, abs=1e-4)


def test_a_step_ends_within_a_guess_where_it_would_have_ended() -> None:
    model: HuggingFaceGenerator = load("embedded:target")
    plain = StepRequest((0,))
    wanted = write(model, plain)
    assert wanted.ending == "delimiter"
    longer = replace(wanted, tokens=(*wanted.tokens, *wanted.tokens), text=2 * wanted.text)
    whole = write(model, replace(plain, delimiter=None))
    assert whole.ending == "end"
    assert write(model, replace(plain, guess=longer)).tokens == wanted.tokens
    made = write(model, StepRequest((0,), delimiter=None, guess=replace(whole, tokens=(*whole.tokens, 7, 7))))
    assert (made.tokens, made.ending) == (whole.tokens, "end")


def test_what_was_guessed_right_takes_one_pass_and_is_computed_once(checkpoint: Folder, counted: Counter) -> None:
    model = load_generator(str(checkpoint))
    counted.watch("target", model.model)
    plain = StepRequest((0,), ROOM, delimiter=None)
    path = Path(as_prompt("Mia has 45 apples."))
    wanted = asyncio.run(model.generate(path, plain)).steps[0]
    before, passes = counted.tokens["target"], model.runner.passes
    fresh = Path(as_prompt("Mia has 45 apples."))
    made = asyncio.run(model.generate(fresh, replace(plain, guess=wanted)))
    assert model.runner.passes - passes == 1
    assert counted.tokens["target"] - before == made.usage.computed == made.usage.prefix + ROOM - 1
    wrong = replace(wanted, tokens=(*wanted.tokens[:10], 7, *wanted.tokens[11:]))
    before, passes = counted.tokens["target"], model.runner.passes
    made = asyncio.run(model.generate(Path(as_prompt("Mia has 45 apples.")), replace(plain, guess=wrong)))
    assert made.steps[0].tokens == wanted.tokens
    assert model.runner.passes - passes == 1 + ROOM - 11  # ten tokens and the one after them in the first
    in_vain = ROOM - 1 - 10
    assert counted.tokens["target"] - before == made.usage.computed == made.usage.prefix + ROOM - 1 + in_vain
    going_on = fresh.extend(wanted)
    before = counted.tokens["target"]
    asyncio.run(model.generate(going_on, plain))
    assert counted.tokens["target"] - before == ROOM  # the last token of the step, and all but one of the next


def test_a_guess_of_another_vocabulary_is_read_by_its_text() -> None:
    model: HuggingFaceGenerator = load("embedded:target")
    plain = StepRequest((0,))
    wanted = write(model, plain)
    passes = model.runner.passes
    foreign = Step(wanted.text, "delimiter", (1, 2, 3), "another", 3)
    assert write(model, replace(plain, guess=foreign)).tokens == wanted.tokens
    assert model.runner.passes - passes == 1


def test_answers_are_the_same_and_the_target_runs_less_often() -> None:
    drafter, verifier = load("embedded:draft"), load("embedded:prm")
    target: HuggingFaceGenerator = load("embedded:target")
    plain, reusing = (
        RewardGuidedDecoder(
            drafter=drafter,
            verifier=verifier,
            target=target,
            policy=BinaryStep(delta=0.9),
            settings=Settings(reuse_rejected=reuse),
        )
        for reuse in (False, True)
    )
    questions = [problem.question for problem in itertools.islice(problems("test", 11), 24)]
    before = target.runner.passes
    was = [plain.run(question) for question in questions]
    between = target.runner.passes
    now = [reusing.run(question) for question in questions]
    assert [result.steps for result in now] == [result.steps for result in was]
    assert target.runner.passes - between < (between - before) / 2
    for old, new in zip(was, now, strict=True):
        assert new.ledger.target.generated == old.ledger.target.generated
        in_vain = new.ledger.target.computed - old.ledger.target.computed
        assert 0 <= in_vain <= old.ledger.drafter.discarded


def test_a_rejected_draft_of_scripts_is_read_by_a_real_target(checkpoint: Folder) -> None:
    target = load_generator(str(checkpoint))
    texts = [
        RewardGuidedDecoder(
            drafter=ScriptedDrafter(["Mia has 45.\n\n", "So 7."]),
            verifier=ScriptedVerifier([0.1, 0.1]),
            target=target,
            settings=Settings(max_step_tokens=12, reuse_rejected=reuse).updated(max_steps=3),
        )
        .run("How many?")
        .text
        for reuse in (False, True)
    ]
    assert texts[0] == texts[1]


def test_a_guess_is_read_behind_a_prefix_whose_last_output_is_kept(draft: HuggingFaceGenerator) -> None:
    path, request = Path(as_prompt("A baker sells 12 loaves at 3 dollars each.")), StepRequest((0,), 24)
    (step,) = asyncio.run(draft.generate(path, request)).steps
    again = Path(path.prompt)
    asyncio.run(draft.first_token_entropy(again))  # leaves what the model gave at the end of the prompt
    made = asyncio.run(draft.generate(again, replace(request, guess=step)))
    assert made.steps[0].tokens == step.tokens
    assert made.usage.generated == step.size
