"""All paid work is charged: refused replies, attempts before one that works, interrupted streams."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import pytest

from rsd_core import (
    ConfigurationError,
    DraftOnly,
    Interrupted,
    Path,
    PromptError,
    RewardGuidedDecoder,
    RunError,
    Sampling,
    Step,
    StepRequest,
    Usage,
    VerifierError,
    as_prompt,
    usage_of,
)
from rsd_core.blocking import wait_for
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_integrations.openai_compatible import EndpointError, OpenAIGenerator
from rsd_integrations.openai_compatible.charges import Charges
from rsd_integrations.openai_compatible.reward_models import PoolingVerifier
from tests.inprocess.test_reward_models import STEPS, extended, step
from tests.openai_compatible.server import Habits, wait_until
from tests.openai_compatible.test_reward_models import GOOD, causal, choice, in_a_run, pooled, rows, worded

Connect = Callable[..., OpenAIGenerator]
PRICES = {"prompt_price": 2.0, "generated_price": 10.0, "cached_price": 1.0}


@pytest.fixture
def path(questions: list[str]) -> Path:
    return Path(as_prompt(questions[0]))


def cost_of(call: Coroutine[Any, Any, Any]) -> Usage:
    """The work that the error of a call carries."""
    with pytest.raises((RunError, ConfigurationError)) as caught:
        wait_for(call)
    usage = usage_of(caught.value)
    assert usage is not None
    return usage


def counts(usage: Usage) -> tuple[int, int, int, int]:
    return usage.prefix, usage.computed, usage.reused, usage.generated


@pytest.mark.parametrize("fault", ["no choices", "no reason", "abort", "wrong ids"])
def test_a_reply_that_is_refused_is_charged(vllm: Habits, connect: Connect, path: Path, fault: str) -> None:
    model, request = connect(vllm, retries=1), StepRequest((0,), max_tokens=6, delimiter="never")
    good = wait_for(model.generate(path, request)).usage
    replies = 1 if fault == "wrong ids" else 2  # another tokenizer is not a temporary fault
    vllm.fault = lambda number: fault
    usage = cost_of(model.generate(path, request))
    assert counts(usage) == tuple(replies * count for count in counts(good))
    assert good.generated == 6
    assert good.seconds < usage.seconds * 5


def test_attempts_before_the_one_that_works_are_charged_and_priced(vllm: Habits, connect: Connect, path: Path) -> None:
    model, question = connect(vllm, **PRICES), path.prompt[0].content
    plain = DraftOnly(drafter=model).run(question).ledger.drafter
    vllm.fault = lambda number: "no choices" if number == first else None
    first = len(vllm.requests)
    result = DraftOnly(drafter=model).run(question)
    lost = result.steps[0].size
    read = len(vllm.requests[first]["prompt"])
    account = result.ledger.drafter
    assert account.generated == plain.generated + lost
    assert account.computed == plain.computed + read - read // 2 + lost
    assert account.cost is not None
    assert plain.cost is not None
    extra = 2.0 * (read - read // 2) + 1.0 * (read // 2) + 10.0 * lost
    assert account.cost - plain.cost == pytest.approx(extra / 1e6)
    assert account.calls == plain.calls
    assert not result.degradations


def test_the_prefix_of_a_call_is_its_prompt_however_often_it_was_read(
    vllm: Habits, connect: Connect, path: Path
) -> None:
    vllm.fault = lambda number: "no choices" if number == 0 else None
    usage = wait_for(connect(vllm).generate(path, StepRequest((0,)))).usage
    assert usage.prefix == len(vllm.requests[0]["prompt"])
    assert [part.prefix for _, part in usage.parts] == [usage.prefix] * 2


def test_without_counts_of_the_servers_own_the_text_is_counted(
    vllm: Habits, connect: Connect, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Habits, "usage", lambda *about: None)
    model = connect(vllm, retries=0)
    vllm.fault = lambda number: "no reason"
    usage = cost_of(model.generate(path, StepRequest((0,), max_tokens=6, delimiter="never")))
    prompt = len(vllm.requests[0]["prompt"])
    assert usage.prefix == prompt
    assert 5 <= usage.generated <= 7
    assert usage.computed == prompt + usage.generated
    vllm.fault = lambda number: "no choices"
    assert cost_of(model.generate(path, StepRequest((0,)))).prefix == prompt


def test_candidates_that_were_answered_are_charged_when_another_one_fails(
    vllm: Habits, connect: Connect, path: Path
) -> None:
    model = connect(vllm, retries=0)
    vllm.fault = lambda number: "http500 last" if number == 2 else None
    request = StepRequest((1, 2, 3), max_tokens=5, delimiter="never", sampling=Sampling(1.0))
    usage = cost_of(model.generate(path, request))
    assert usage.generated == 2 * 5
    assert usage.prefix == 2 * len(vllm.requests[0]["prompt"])


def test_a_step_that_is_cut_midway_is_charged_as_far_as_it_came(
    servers: dict[str, Habits], connect: Connect, path: Path
) -> None:
    server = servers["generic"]
    model, request = connect(server, retries=1, patience=0), StepRequest((0,), max_tokens=40, delimiter="never")
    text = wait_for(model.generate(path, request)).steps[0].text
    server.fault = lambda number: "cut"  # after three events of a token each
    usage = cost_of(model.generate(path, request))
    assert model.prompts.vocabulary is not None
    prompt, three = len(model.prompts.vocabulary.ids(path)[0]), model.prompts.vocabulary.encode(text)[:3]
    assert usage.prefix == 2 * prompt
    assert usage.generated == 2 * len(three)
    assert usage.computed == usage.prefix + usage.generated


def test_a_step_that_is_cancelled_midway_is_charged_as_far_as_it_came(
    servers: dict[str, Habits], connect: Connect, path: Path
) -> None:
    server = servers["generic"]
    model, request = connect(server), StepRequest((0,), max_tokens=40, delimiter="never")
    wait_for(model.generate(path, StepRequest((0,), max_tokens=1)))
    server.pace = 0.05

    async def cut() -> Usage:
        call = asyncio.ensure_future(model.generate(path, request))
        await asyncio.sleep(0.6)
        call.cancel()
        with pytest.raises(Interrupted) as interrupted:
            await call
        return interrupted.value.usage

    usage = asyncio.run(cut())
    assert model.prompts.vocabulary is not None
    assert usage.prefix == len(model.prompts.vocabulary.ids(path)[0])
    assert 0 < usage.generated < 20
    assert wait_until(lambda: server.inside == 0)


def test_a_step_that_takes_too_long_is_charged_as_far_as_it_came(
    servers: dict[str, Habits], connect: Connect, path: Path
) -> None:
    server = servers["generic"]
    model = connect(server, retries=0, timeout=0.5)
    wait_for(model.generate(path, StepRequest((0,), max_tokens=1)))
    server.pace = 0.05
    usage = cost_of(model.generate(path, StepRequest((0,), max_tokens=40, delimiter="never")))
    assert model.prompts.vocabulary is not None
    assert usage.prefix == len(model.prompts.vocabulary.ids(path)[0])
    assert 0 < usage.generated < 20


def test_a_stream_that_is_restarted_is_charged_for_both(vllm: Habits, connect: Connect, path: Path) -> None:
    model, request = connect(vllm), StepRequest((0,), max_tokens=60, ahead=8)
    plain = wait_for(model.generate(path, StepRequest((0,), max_tokens=60))).usage
    first = len(vllm.requests)
    vllm.fault = lambda number: "cut" if number == first else None  # after three events of a token each
    usage = wait_for(model.generate(path, request)).usage
    prompt = plain.prefix
    assert usage.generated == plain.generated + 3
    assert usage.reused == prompt // 2, "of the one that worked"
    assert usage.computed == 2 * prompt - usage.reused + usage.generated
    assert sum(part.prefix for _, part in usage.parts or ((model, usage),)) == 2 * prompt


def test_a_stream_that_fails_is_charged(vllm: Habits, connect: Connect, path: Path) -> None:
    model = connect(vllm, retries=1, patience=0)
    prompt = wait_for(model.generate(path, StepRequest((0,), max_tokens=60))).usage.prefix
    vllm.fault = lambda number: "cut"
    usage = cost_of(model.generate(path, StepRequest((0,), max_tokens=60, ahead=8)))
    assert counts(usage) == (2 * prompt, 2 * (prompt + 3), 0, 2 * 3)


def test_a_stream_that_says_nothing_is_not_charged(vllm: Habits, connect: Connect, path: Path) -> None:
    model = connect(vllm, retries=0, timeout=0.5)
    wait_for(model.generate(path, StepRequest((0,))))
    vllm.fault = lambda number: "silent"
    with pytest.raises(EndpointError, match="no answer within") as caught:
        wait_for(model.generate(path, StepRequest((0,), ahead=8)))
    assert usage_of(caught.value) is None


def test_what_a_stream_wrote_is_charged_where_its_ids_are_wrong(
    vllm: Habits, connect: Connect, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = connect(vllm)
    wait_for(model.generate(path, StepRequest((0,), max_tokens=60)))
    monkeypatch.setattr(model.prompts, "step", refuse)
    usage = cost_of(model.generate(path, StepRequest((0,), max_tokens=4, ahead=8)))
    assert usage.generated == 4
    assert usage.computed == len(vllm.requests[-1]["prompt"]) - usage.reused + 4


def refuse(*answer: object) -> Any:
    raise ConfigurationError("another model's")


def test_a_server_that_reads_another_prompt_has_read_one(
    vllm: Habits, connect: Connect, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = connect(vllm)
    wait_for(model.generate(path, StepRequest((0,))))
    read = len(vllm.requests[0]["prompt"]) + 9
    answered = Habits.usage
    monkeypatch.setattr(Habits, "usage", lambda server, ids, made: answered(server, [0] * read, made))
    usage = cost_of(model.generate(path, StepRequest((0,), max_tokens=3, delimiter="never")))
    assert counts(usage) == (read, read - read // 2 + 3, read // 2, 3)


def test_what_was_tried_in_vain_is_charged(
    vllm: Habits, connect: Connect, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream without ids, and a guess that nothing is told of: the step is then written in another way."""
    plain = wait_for(connect(vllm).generate(path, StepRequest((0,))))
    prompt = plain.usage.prefix
    vllm.streams_ids = False
    usage = wait_for(connect(vllm).generate(path, StepRequest((0,), ahead=2))).usage
    assert usage.generated == plain.usage.generated
    assert usage.computed == plain.usage.computed + prompt
    monkeypatch.setattr(Habits, "ranked", lambda server, ids: None)
    (draft,) = plain.steps
    usage = wait_for(connect(vllm, guesses=True).generate(path, StepRequest((0,), guess=draft))).usage
    read = prompt + draft.size
    assert usage.generated == plain.usage.generated + 1
    assert usage.computed == plain.usage.computed + read - read // 2 + 1
    assert usage.prefix == prompt


def test_a_prompt_that_is_refused_costs_nothing_and_one_that_is_cut_does(
    servers: dict[str, Habits], connect: Connect
) -> None:
    vllm, cutter = servers["vllm"], servers["transformers"]
    vllm.context, cutter.context, cutter.cuts = 64, 64, True
    long = Path(as_prompt("word " * 200))
    with pytest.raises(PromptError) as refused:
        wait_for(connect(vllm, context=5000).generate(long, StepRequest((0,))))
    assert len(vllm.requests) == 1
    assert usage_of(refused.value) is None
    cut = connect(cutter, profile="transformers")
    assert counts(cost_of(cut.generate(long, StepRequest((0,), max_tokens=4, delimiter="never")))) == (32, 20, 16, 4)
    begun = long.extend(Step("So.\n\n", "delimiter"))
    vllm.requests.clear()
    generation = wait_for(connect(vllm, context=5000, **PRICES).generate(begun, StepRequest((0,))))
    assert (generation.steps, counts(generation.usage)) == ((Step("", "length"),), (0, 0, 0, 0))


def test_words_and_likelihoods_that_cannot_be_read_are_charged(
    vllm: Habits, connect: Connect, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = connect(vllm, retries=0)
    steps = [Step("45\n\n", "delimiter"), Step("So 57.", "end")]
    word = wait_for(model.next_word(path, ("4", "5"))).usage
    read = len(vllm.requests[-1]["prompt"])
    assert counts(word) == (read, read - read // 2 + 1, read // 2, 1)
    likely = wait_for(model.log_likelihoods(path, steps)).usage
    monkeypatch.setattr(Habits, "likely", lambda *about: {})
    assert counts(cost_of(model.next_word(path, ("4", "5")))) == counts(word)
    usage = cost_of(model.log_likelihoods(path, steps))
    assert 0 < usage.computed <= likely.computed


@pytest.mark.parametrize(
    "body", [rows([]), rows(GOOD[:2]), rows([*GOOD[:2], [0.2, 0.3]]), lambda body: {"data": [], "usage": None}]
)
def test_rows_that_are_not_scores_are_charged(body: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
    alone, run = pooled(body), in_a_run(body)
    calls: list[tuple[PoolingVerifier, Coroutine[Any, Any, Any]]] = [
        (alone, alone.score(extended(STEPS[:2]), [step(STEPS[2])])),
        (run, run.score_run(extended(STEPS[:1]), [step(text) for text in STEPS[1:3]])),
    ]
    for model, call in calls:
        with pytest.raises((VerifierError, KeyError)) as caught:
            asyncio.run(call)
        ((_, sent),) = model.endpoint.asked  # type: ignore[attr-defined]
        usage = usage_of(caught.value)
        assert usage is not None
        (ids,) = sent["input"]
        assert usage.computed == len(ids)
        assert 0 < usage.scored < usage.computed


def test_what_a_reward_model_had_cached_is_neither_computed_nor_scored() -> None:
    def cached(body: Mapping[str, Any]) -> dict[str, Any]:
        sent = sum(len(ids) for ids in body["input"])
        counts = {"prompt_tokens": sent, "prompt_tokens_details": {"cached_tokens": sent - 3}}
        return {**causal(False)(body), "usage": counts}

    alone = asyncio.run(pooled(cached).score(extended(STEPS[:2]), [step(STEPS[2])])).usage
    assert (alone.computed, alone.scored) == (3, 3)
    shares = asyncio.run(in_a_run(cached).score_run(extended(STEPS[:1]), [step(text) for text in STEPS[1:3]]))
    assert (shares[0].usage.computed, shares[0].usage.scored) == (0, 0)
    assert shares[1].usage.computed > 3


def test_missing_words_are_charged() -> None:
    usage = {"prompt_tokens": 0, "completion_tokens": 1}
    model = worded(lambda body: {"choices": [choice(None)], "usage": usage})

    def count(body: Mapping[str, Any]) -> dict[str, Any]:
        usage["prompt_tokens"] = sum(len(ids) for ids in body["prompt"])
        return {"choices": [choice(None)], "usage": usage}

    model.endpoint.answer = count  # type: ignore[attr-defined]
    with pytest.raises(VerifierError) as caught:
        asyncio.run(model.score(extended(STEPS[:2]), [step(STEPS[2])]))
    charged = usage_of(caught.value)
    assert charged is not None
    assert (charged.computed, charged.generated) == (usage["prompt_tokens"] + 1, 1)


def test_charges_of_several_replies_are_priced_one_by_one() -> None:
    drafter = ScriptedDrafter(["a"])
    charges = Charges(drafter)
    assert charges.total() == Usage()
    assert charges.total(7) == Usage(7)
    one = Usage(10, 12, 0, 2)
    charges.add(one)
    assert charges.total() is one
    assert charges.total(10) is one
    assert charges.total(8) == Usage(8, 12, 0, 2, parts=((drafter, one),))
    charges.add(other := Usage(11, 5, 8, 2))
    assert charges.total() == Usage(11, 17, 8, 4, parts=((drafter, one), (drafter, other)))
    with pytest.raises(EndpointError) as caught, charges:
        raise EndpointError("no")
    assert usage_of(caught.value) == Usage(21, 17, 8, 4)  # without parts: sums of both kinds would lose some
    with pytest.raises(asyncio.CancelledError) as cancelled, charges:
        raise Interrupted(Usage(1, 1))
    assert usage_of(cancelled.value) == Usage(22, 18, 8, 4)
    with pytest.raises(asyncio.CancelledError) as plain, Charges(drafter):
        raise asyncio.CancelledError
    assert usage_of(plain.value) is None


def test_the_ledger_of_a_result_has_the_work_of_roles_that_failed(
    vllm: Habits, connect: Connect, questions: list[str]
) -> None:
    """Every draft is paid for and refused, so the target writes; and then the rows of its verifier are not scores."""
    drafter = connect(vllm, retries=0, **PRICES)
    vllm.fault = lambda number: "no choices"
    target, scores = ScriptedTarget(["So 57.\n\n", "The end."]), ScriptedVerifier([0.9])
    result = RewardGuidedDecoder(drafter=drafter, verifier=scores, target=target).run(questions[0])
    assert [step.author for step in result.steps] == ["target"] * 2
    account = result.ledger.drafter
    prompts = [len(request["prompt"]) for request in vllm.requests]
    assert account.read == sum(prompts)
    assert account.generated > 2
    assert account.cost is not None
    assert account.cost >= 10.0 * account.generated / 1e6
    refused = RewardGuidedDecoder(
        drafter=ScriptedDrafter(["So 57."]), verifier=in_a_run(rows([])), target=ScriptedTarget(["The end."])
    ).run(questions[0])
    assert [step.author for step in refused.steps] == ["target"]
    assert refused.ledger.verifier.computed > 0


def test_a_stream_that_is_cut_here_is_charged_as_llama_cpp_counts_until_then(
    servers: dict[str, Habits], connect: Connect, questions: list[str]
) -> None:
    """What its slot still had of the prompt is cached."""
    model, path = connect(servers["llamacpp"]), Path(as_prompt(questions[0]))
    generation = wait_for(model.generate(path, StepRequest((0,), 60)))
    (step,), usage = generation.steps, generation.usage
    assert step.ending == "delimiter"
    assert usage.reused == usage.prefix // 2 > 0, "the fake says so"
    assert usage.generated == step.size == len(step.tokens)
    assert usage.computed == usage.prefix - usage.reused + usage.generated
