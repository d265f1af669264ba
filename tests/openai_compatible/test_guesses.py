"""A target that reads the draft it replaces writes the very step that it would have written without."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rsd_core import (
    BinaryStep,
    ConfigurationError,
    Delimiter,
    Generation,
    Interrupted,
    Limits,
    Path,
    Result,
    RewardGuidedDecoder,
    Sampling,
    Settings,
    Step,
    StepRequest,
    Usage,
    as_prompt,
)
from rsd_core.blocking import wait_for
from rsd_core.paths import Ending
from rsd_core.testing import ScriptedDrafter, ScriptedVerifier
from rsd_integrations.huggingface import HuggingFaceGenerator
from rsd_integrations.openai_compatible import OpenAIGenerator
from rsd_integrations.openai_compatible.accepted_prefix import Guess
from tests.openai_compatible.server import Habits, wait_until

Connect = Callable[..., OpenAIGenerator]


def asked(guess: Step | None = None, *, seeds: tuple[int, ...] = (0,), **more: Any) -> StepRequest:
    return StepRequest(seeds, **{"max_tokens": 60, **more}, guess=guess)


def made(model: OpenAIGenerator, path: Path, guess: Step | None = None, **more: Any) -> Generation:
    return wait_for(model.generate(path, asked(guess, **more)))


def answer(model: OpenAIGenerator, question: str) -> list[tuple[Path, Step]]:
    """The steps of an answer without guesses, each with the path before it."""
    path, found = Path(as_prompt(question)), list[tuple[Path, Step]]()
    while not found or found[-1][1].ending != "end":
        (step,) = made(model, path).steps
        found.append((path, step))
        path = path.extend(step)
    return found


def text(step: Step) -> Step:
    """A step as a model of another vocabulary hands it over."""
    return Step(step.text, step.ending, size=step.size)


@pytest.fixture
def target(vllm: Habits, connect: Connect) -> OpenAIGenerator:
    return connect(vllm, guesses=True)


def test_a_guess_that_is_right_is_one_reading(vllm: Habits, target: OpenAIGenerator, questions: list[str]) -> None:
    for path, step in answer(target, questions[0]):
        for guess in (step, text(step)):
            vllm.requests.clear()
            found = made(target, path, guess)
            assert found.steps == (step,)
            (request,) = vllm.requests
            assert request["max_tokens"] == 1
            length, size = len(request["prompt"]), step.size
            assert (found.usage.prefix, found.usage.generated) == (length - size, size)
            assert found.usage.reused == length // 2  # which this server says it has cached
            assert found.usage.computed == length - length // 2 + 1


def test_of_a_wrong_guess_the_beginning_is_kept(vllm: Habits, target: OpenAIGenerator, questions: list[str]) -> None:
    path, step = answer(target, questions[0])[0]
    ids = step.tokens
    wrong = Step("", "delimiter", (*ids[:4], (ids[4] + 1) % 300, *ids[5:]), step.vocabulary)
    vllm.requests.clear()
    found = made(target, path, wrong)
    assert found.steps == (step,)
    reading, writing = vllm.requests
    assert writing["prompt"] == reading["prompt"][: found.usage.prefix + 4]
    assert writing["max_tokens"] == 60 - 4
    assert found.usage.generated == step.size
    read, wrote = (usage for _, usage in found.usage.parts)
    assert (read.generated, wrote.generated) == (4, step.size - 4)
    assert read.computed + wrote.computed == found.usage.computed
    assert (read.prefix, wrote.prefix) == (found.usage.prefix + len(wrong.tokens), found.usage.prefix + 4)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_step_is_the_one_without_a_guess(data: st.DataObject, target: OpenAIGenerator) -> None:
    """Whatever the guess: cut, longer, other tokens in its midst, newlines anywhere, an end or none; and any cap."""
    words = target.prompts.vocabulary
    assert words is not None
    path = Path(as_prompt("Mia has 45 apples. Then she buys 12 more. How many apples does Mia have now?"))
    for _ in range(data.draw(st.integers(0, 1))):
        path = path.extend(made(target, path).steps[0])
    most = data.draw(st.sampled_from([1, 2, 9, 60]))
    (wanted,) = made(target, path, max_tokens=most).steps
    newlines = [id_ for id_ in range(words.size) if (piece := words.pieces[id_]) and not piece.strip(b"\n")]
    others = st.lists(st.sampled_from([*newlines, 5, 50, 200]), max_size=3)
    begins, ends = sorted(data.draw(st.integers(0, wanted.size)) for _ in range(2))
    ids = (*wanted.tokens[:begins], *data.draw(others), *wanted.tokens[ends:], *data.draw(others))
    ending: Ending = data.draw(st.sampled_from(["delimiter", "end", "length"]))
    found = made(target, path, Step(words.text(list(ids)), ending, ids, words.identity), max_tokens=most)
    assert found.steps == (wanted,)
    assert found.usage.generated == wanted.size


@pytest.mark.parametrize("room", [1, 2, 12, 30])
def test_no_guess_is_longer_than_the_context(vllm: Habits, connect: Connect, questions: list[str], room: int) -> None:
    plain = connect(vllm)
    path, step = answer(plain, questions[0])[0]
    vllm.context = made(plain, path).usage.prefix + room
    vllm.requests.clear()
    assert made(connect(vllm, guesses=True), path, step).steps == made(connect(vllm), path).steps
    assert max(len(request["prompt"]) for request in vllm.requests) < vllm.context
    assert ("prompt_logprobs" in vllm.requests[0]) == (room > 1)


def test_a_delimiter_that_begins_in_the_guess_ends_the_step(target: OpenAIGenerator) -> None:
    """The server looks for it in what it writes alone, so no beginning of it may be left in the prompt."""
    words = target.prompts.vocabulary
    assert words is not None
    guess = Guess(words, Path(as_prompt("Go on.")), Step("So 4\n", "length"), Delimiter(), 60)
    told: list[Any] = [None, *({str(id_): {"rank": 1, "logprob": -0.5}} for id_ in guess.ids)]
    accepted = guess.accepted(told)
    assert not accepted.ended
    assert words.text(list(accepted.answer.ids)) == "So 4"
    assert len(accepted.answer.logprobs) == len(accepted.answer.ids)
    assert Guess(words, Path(as_prompt("Go on.")), Step("So 4\n", "length"), None, 60).accepted(
        told
    ).answer.ids == tuple(guess.ids)


def test_log_probabilities_are_those_of_what_was_written(vllm: Habits, connect: Connect, questions: list[str]) -> None:
    plain, target = connect(vllm, logprobs=True), connect(vllm, logprobs=True, guesses=True)
    path, step = answer(plain, questions[0])[0]
    for guess in (step, Step("", "length", step.tokens[:5], step.vocabulary)):
        (found,) = made(target, path, guess).steps
        assert found.tokens == step.tokens
        assert found.logprobs == pytest.approx(step.logprobs, abs=1e-4)
        assert made(connect(vllm, guesses=True), path, guess).steps[0].logprobs == ()


def test_only_greedy_steps_are_guessed(vllm: Habits, target: OpenAIGenerator, questions: list[str]) -> None:
    path, step = answer(target, questions[0])[0]
    vllm.requests.clear()
    made(target, path, step, sampling=Sampling(temperature=0.7))
    made(target, path, step, seeds=(1, 2))
    made(target, path, Step("", "length"))  # nothing to read
    assert not [request for request in vllm.requests if "prompt_logprobs" in request]


def rsd(drafter: Any, target: Any, question: str, rewards: Sequence[float], **options: Any) -> Result:
    return RewardGuidedDecoder(
        drafter=drafter,
        verifier=ScriptedVerifier(list(rewards)),
        target=target,
        policy=BinaryStep(delta=0.5),
        settings=Settings(limits=Limits(max_steps=8), **options),
    ).run(question)


@pytest.mark.parametrize("lookahead", [0, 2])
def test_answers_are_the_same_with_and_without(
    vllm: Habits, connect: Connect, questions: list[str], lookahead: int
) -> None:
    drafter = ScriptedDrafter(["She buys 12 more: 45+12=57.\n\n", "First, 3 times 4 is 12.\n\n"])
    rewards = [0.1, 0.9, 0.2, 0.1, 0.9]
    for question in questions[:4]:
        plain = rsd(drafter, connect(vllm), question, rewards, lookahead=lookahead)
        vllm.requests.clear()
        off = rsd(drafter, connect(vllm, guesses=True), question, rewards, reuse_rejected=False)
        assert not [request for request in vllm.requests if "prompt_logprobs" in request]
        read = rsd(drafter, connect(vllm, guesses=True), question, rewards, lookahead=lookahead)
        assert [request for request in vllm.requests if "prompt_logprobs" in request]
        assert read.steps == plain.steps == off.steps
        assert read.ledger.target.generated == plain.ledger.target.generated
        assert not read.degradations


def test_the_model_in_process_makes_the_same_of_a_guess(
    target: OpenAIGenerator, draft: HuggingFaceGenerator, questions: list[str]
) -> None:
    for question in questions[:2]:
        path = Path(as_prompt(question))
        guess = Step("She buys 12 more: 45+12=57.\n\n", "delimiter")
        (inside,) = wait_for(draft.generate(path, asked(guess))).steps
        (over,) = made(target, path, guess).steps
        assert (over.text, over.tokens, over.ending) == (inside.text, inside.tokens, inside.ending)


@pytest.mark.parametrize("fault", ["http500", "429", "malformed"])
def test_a_fault_while_reading_is_handled(
    vllm: Habits, target: OpenAIGenerator, questions: list[str], fault: str
) -> None:
    path, step = answer(target, questions[0])[0]
    first = len(vllm.requests)
    vllm.fault = lambda number: fault if number == first else None
    assert made(target, path, step).steps == (step,)
    assert len(vllm.requests) == first + 2


def test_without_counts_of_what_is_read_the_target_writes(
    vllm: Habits, connect: Connect, questions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drafter, rewards = ScriptedDrafter(["First, 3 times 4 is 12.\n\n"]), [0.1, 0.1, 0.9]
    plain = rsd(drafter, connect(vllm), questions[0], rewards)
    monkeypatch.setattr(Habits, "ranked", lambda server, ids: None)  # as a proxy that hands on what it knows
    vllm.requests.clear()
    read = rsd(drafter, connect(vllm, guesses=True), questions[0], rewards)
    assert read.steps == plain.steps
    assert not read.degradations
    assert sum("prompt_logprobs" in request for request in vllm.requests) == 1


def test_where_no_ids_are_reported_the_text_goes_on(
    vllm: Habits, connect: Connect, questions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, step = answer(connect(vllm), questions[0])[0]
    ended = Habits.ended
    monkeypatch.setattr(
        Habits, "ended", lambda *told: {key: value for key, value in ended(*told).items() if key != "token_ids"}
    )
    wrong = Step("", "delimiter", (*step.tokens[:4], (step.tokens[4] + 1) % 300), step.vocabulary)
    (found,) = made(connect(vllm, guesses=True), path, wrong).steps
    assert (found.text, found.ending, found.tokens, found.size) == (step.text, step.ending, (), step.size)


def test_nothing_is_kept_beyond_what_may_end_the_answer(target: OpenAIGenerator) -> None:
    words = target.prompts.vocabulary
    assert words is not None
    special = next(id_ for id_, piece in enumerate(words.pieces) if not piece)
    ids = words.encode("So 4 and")
    draft = Step("", "delimiter", (*ids, special, *ids), words.identity)
    assert Guess(words, Path(as_prompt("Go on.")), draft, Delimiter(), 60).ids == list(ids)


def test_what_was_read_is_reported_when_the_writing_is_cancelled(
    vllm: Habits, target: OpenAIGenerator, questions: list[str]
) -> None:
    path, step = answer(target, questions[0])[0]
    second = len(vllm.requests) + 1
    vllm.fault = lambda number: "hang" if number == second else None
    wrong = Step("", "delimiter", (*step.tokens[:4], (step.tokens[4] + 1) % 300), step.vocabulary)

    async def cut() -> Usage:
        call = asyncio.ensure_future(target.generate(path, asked(wrong)))
        await asyncio.to_thread(wait_until, lambda: len(vllm.requests) > second)
        call.cancel()
        try:
            await call
        except Interrupted as told:
            return told.usage
        raise AssertionError("it was not interrupted")

    usage = asyncio.run(cut())
    assert usage.generated == 4
    assert usage.prefix == len(vllm.requests[-2]["prompt"])


def test_guesses_need_ids_and_ranks(servers: dict[str, Habits], connect: Connect, questions: list[str]) -> None:
    for options in ({"mode": "chat"}, {"tokenizer": None}):
        with pytest.raises(ConfigurationError, match="guesses=true needs a tokenizer"):
            connect(servers["vllm"], guesses=True, **options)
    target, path = connect(servers["sglang"], guesses=True), Path(as_prompt(questions[0]))
    with pytest.raises(ConfigurationError, match=r"SGLang.*Remove guesses=true"):
        made(target, path, Step("So it is.\n\n", "delimiter"))


def test_the_doctor_tries_a_guess(
    servers: dict[str, Habits], connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    def findings(server: Habits) -> dict[str, tuple[bool | None, str]]:
        return {one.name: (one.ok, one.told) for one in wait_for(connect(server, guesses=True).examine())}

    assert findings(servers["vllm"])["guesses"][0]
    ok, told = findings(servers["sglang"])["answers"]
    assert not ok
    assert "Remove guesses=true" in told
    monkeypatch.setattr(Habits, "ranked", lambda server, ids: None)
    assert findings(servers["vllm"])["guesses"] == (
        False, "the server does not report the ranks of the tokens it reads",
    )  # fmt: skip


def test_whole_answers_are_guessed_too(vllm: Habits, target: OpenAIGenerator, questions: list[str]) -> None:
    path = Path(as_prompt(questions[0]))
    (whole,) = made(target, path, delimiter=None, max_tokens=200).steps
    vllm.requests.clear()
    assert made(target, path, whole, delimiter=None, max_tokens=200).steps == (whole,)
    assert len(vllm.requests) == 1
