"""Gateways drop, add and change fields: the answer is the same, or refused with a clear message."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from rsd_core import (
    ConfigurationError,
    Delimiter,
    DraftOnly,
    Interrupted,
    Path,
    PromptError,
    RunError,
    Settings,
    StepRequest,
    Usage,
    as_prompt,
)
from rsd_core.blocking import wait_for
from rsd_core.paths import Ending
from rsd_core.splitting import Splitter
from rsd_integrations.huggingface import HuggingFaceGenerator
from rsd_integrations.openai_compatible import OpenAIGenerator
from rsd_integrations.openai_compatible.answers import Answer, StepReader, StreamedSteps, read_answer
from rsd_integrations.openai_compatible.charges import token_counts
from rsd_integrations.openai_compatible.finish_reasons import FinishReasons
from rsd_integrations.openai_compatible.profiles import PROFILES
from tests.openai_compatible.gateways import COUNTS_NOTHING, NO_LAST_TEXT, NULL_TEXT, choices, reasons, usage, without
from tests.openai_compatible.server import Gateway, Habits, wait_until
from tests.openai_compatible.test_thoughts import VOCABULARY

Connect = Callable[..., OpenAIGenerator]
ASKED = StepRequest((0,), max_tokens=60)
GENERIC = PROFILES["generic"]
LOUD = reasons({"stop": "STOP", "length": "MAX_TOKENS"})
GATEWAYS: dict[str, Gateway] = {
    "no stop_reason": without("stop_reason"),
    "no ids either": without("stop_reason", "token_ids", "prompt_token_ids"),
    "no usage": without("usage"),
    "usage zero": usage({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}),
    "counts early": COUNTS_NOTHING,
    "no last text": NO_LAST_TEXT,
    "text null, and loud": Gateway(reply=lambda data: LOUD.reply(NULL_TEXT.reply(data))),
}


@pytest.mark.usefixtures("untried")
@pytest.mark.parametrize("name", GATEWAYS)
def test_answers_through_a_gateway_are_those_of_the_model(
    vllm: Habits, connect: Connect, draft: HuggingFaceGenerator, questions: list[str], name: str
) -> None:
    """In one piece, in a stream of many steps, in streams that are cut, and in chats."""
    vllm.gateway = GATEWAYS[name]
    wanted = DraftOnly(drafter=draft).run(questions[0])
    for model, settings in (
        (connect(vllm), Settings()),
        (connect(vllm), Settings(lookahead=4)),
        (connect(vllm, profile="generic"), Settings()),
        (connect(vllm, None), Settings()),
    ):
        made = DraftOnly(drafter=model, settings=settings).run(questions[0])
        assert (made.text, made.finish_reason, made.degradations) == (wanted.text, wanted.finish_reason, ())
        assert [step.text for step in made.steps] == [step.text for step in wanted.steps]
        account = made.ledger.drafter
        assert account.generated >= wanted.ledger.drafter.generated // 2
        if model.profile is GENERIC or ("usage" in name and model.prompts.mode == "chat"):
            assert account.estimated > 0
        elif "usage" not in name:
            assert account.estimated == 0


@pytest.mark.usefixtures("untried")
def test_who_tells_no_counts_is_tried_out_by_its_answers(
    servers: dict[str, Habits], connect: Connect, questions: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A chat that opens a new turn, and completions that put a template around: each is found out all the same."""
    for server in servers.values():
        server.gateway = without("usage")
    with pytest.raises(ConfigurationError, match=r"does not report how many tokens it read, and .* was continued with"):
        DraftOnly(drafter=connect(servers["generic"], None, profile="ollama")).run(questions[0])
    with pytest.raises(ConfigurationError, match=r"does not continue a text exactly"):
        DraftOnly(drafter=connect(servers["ollama"], profile="generic")).run(questions[0])
    assert "figures on the ledger are estimates" not in caplog.text
    DraftOnly(drafter=connect(servers["ollama"], None)).run(questions[0])
    assert caplog.text.count("figures on the ledger are estimates") == 1


@pytest.mark.usefixtures("untried")
def test_a_gateways_own_counts_prove_nothing(
    servers: dict[str, Habits], connect: Connect, questions: list[str]
) -> None:
    """One that counts the messages and not the template makes every new turn look like an answer that goes on."""
    server = servers["generic"]
    counted: list[int] = []

    def request(body: dict[str, Any]) -> dict[str, Any]:
        counted.append(len(server.words("".join(message["content"] for message in body["messages"]))["input_ids"]))
        return body

    server.gateway = Gateway(request, lambda data: data | {"usage": {"prompt_tokens": counted[-1]}})
    with pytest.raises(ConfigurationError, match="was continued with"):
        DraftOnly(drafter=connect(server, None, profile="ollama")).run(questions[0])


@pytest.mark.usefixtures("untried")
@pytest.mark.parametrize("lost", ["blank lines", "a begun thought"])
def test_what_a_template_loses_is_found_out_without_counts(
    vllm: Habits, connect: Connect, questions: list[str], lost: str
) -> None:
    def request(body: dict[str, Any]) -> dict[str, Any]:
        texts = [message["content"] for message in body["messages"]]
        texts = [text.rstrip("\n") if lost == "blank lines" else text.rpartition("</think>\n\n")[2] for text in texts]
        messages = [{**old, "content": text} for old, text in zip(body["messages"], texts, strict=True)]
        return {**body, "messages": messages}

    vllm.gateway = Gateway(request, without("usage").reply)
    with pytest.raises(ConfigurationError, match=lost):
        DraftOnly(drafter=connect(vllm, None)).run(questions[0])


@pytest.mark.parametrize(
    ("reason", "ending"),
    [(word, "end") for word in ("stop", "STOP", "eos", "eos_token", "stop_sequence", "end_turn", "stop_token")]
    + [(word, "end") for word in ("completed", "COMPLETE")]
    + [(word, "length") for word in ("length", "MAX_TOKENS", "model_length", "max_output_tokens")],
)
def test_the_words_of_other_servers_are_known(reason: str, ending: Ending) -> None:
    assert FinishReasons().ending({"finish_reason": reason}) == ending


@pytest.mark.parametrize(
    ("reason", "error", "told"),
    [
        ("content_filter", PromptError, "a filter of .* stopped the answer"),
        ("SAFETY", PromptError, "a filter of .* stopped the answer"),
        ("tool_calls", ConfigurationError, "called a tool.*body.tool_choice=none"),
        ("function_call", ConfigurationError, "called a tool"),
        ("weather", ConfigurationError, "unknown reason 'weather'"),
        ({"type": "eos"}, ConfigurationError, "unknown reason"),
    ],
)
@pytest.mark.parametrize("ahead", [0, 4])
def test_reasons_that_no_step_can_end_by_are_reported_at_once(
    vllm: Habits, connect: Connect, questions: list[str], reason: Any, error: type[Exception], told: str, ahead: int
) -> None:
    model, path = connect(vllm), Path(as_prompt(questions[0]))
    vllm.gateway = choices(lambda choice: choice["finish_reason"] and choice.update(finish_reason=reason))
    with pytest.raises(error, match=told):
        wait_for(model.generate(path, StepRequest((0,), 60, "never", ahead=ahead)))
    assert len(vllm.requests) == 1


@pytest.mark.parametrize("reason", ["abort", "error", "repetition"])
def test_a_server_that_gave_up_is_asked_again(
    vllm: Habits, connect: Connect, questions: list[str], reason: str
) -> None:
    model, path = connect(vllm), Path(as_prompt(questions[0]))
    vllm.fault = lambda number: reason if number == 0 else None
    assert wait_for(model.generate(path, ASKED)).steps[0].text
    assert len(vllm.requests) == 2


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_without_a_finish_reason_is_cut_unless_there_never_is_one(
    vllm: Habits, connect: Connect, questions: list[str], streamed: bool
) -> None:
    asked = StepRequest((0,), 60, "never", ahead=4 * streamed)
    path, missing = Path(as_prompt(questions[0])), without("finish_reason")
    never = connect(vllm, retries=1)
    vllm.gateway = missing
    with pytest.raises(ConfigurationError, match="sends no finish reasons"):
        wait_for(never.generate(path, asked))
    assert len(vllm.requests) == 2  # it may have been cut once
    vllm.requests.clear()
    vllm.gateway = Gateway()
    wait_for(never.generate(path, asked))
    vllm.gateway = missing
    with pytest.raises(RunError, match="cut short"):
        wait_for(never.generate(Path(as_prompt(questions[0])), asked))
    assert len(vllm.requests) == 3  # told before: a fault, and asked again


def test_bodies_without_choices_are_faults_and_events_are_not() -> None:
    with pytest.raises(ValueError, match="unpack"):
        read_answer({"choices": []}, None, GENERIC)
    with pytest.raises(KeyError):
        read_answer({}, None, GENERIC)
    told = {"prompt_tokens": 3, "completion_tokens": 2}
    events: list[dict[str, Any]] = [
        {"choices": [], "prompt_filter_results": []},  # Azure begins so
        {"choices": [{"delta": {"role": "assistant", "content": None}}]},
        {"choices": [{"delta": {"content": "So."}, "finish_reason": ""}], "usage": None},
        {"choices": [{"delta": None, "finish_reason": "stop"}]},
        {"choices": [], "usage": told},
        {"usage": told},
        {"choices": [], "usage": {}},
    ]
    reader = StepReader(GENERIC)
    assert not any(reader.take(event) for event in events)
    reader.end()
    assert (reader.answer.text, reader.answer.ending) == ("So.", "end")
    assert (reader.answer.read, reader.answer.wrote) == (3, 2)
    steps = list[str]()

    def put(answer: Answer) -> bool:
        steps.append(answer.ending)
        return False

    cut = StreamedSteps(Delimiter(), VOCABULARY, 9, put)
    last: list[dict[str, Any]] = [
        {"choices": []},
        {"choices": [{"finish_reason": "stop", "index": 0}]},
        {"usage": told},
    ]
    for event in last:
        cut.take(event)
    cut.end()
    assert steps == ["end"]


@pytest.mark.parametrize(
    ("told", "counts"),
    [
        (None, {}),
        ({}, {}),
        ({"prompt_tokens": None, "completion_tokens": None}, {}),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, {}),
        ({"completion_tokens": 5}, {"wrote": 5}),
        ({"prompt_tokens": 7}, {"read": 7, "cached": 0}),
        ({"prompt_tokens": 7, "completion_tokens": 0}, {"read": 7, "cached": 0, "wrote": 0}),
        ({"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 19}, {"read": 7, "cached": 0, "wrote": 12}),
    ],
)
def test_counts_are_what_is_reported(told: Any, counts: dict[str, int]) -> None:
    assert token_counts({"usage": told}) == counts


class Never(Splitter):
    """No step ends, and there is nothing to ask a server for."""

    def end(self, text: str) -> int | None:
        return None


def cancelled(model: OpenAIGenerator, path: Path, request: StepRequest, server: Habits) -> Usage:
    """The work of a call that is cancelled in the middle of its stream."""

    async def cut() -> Usage:
        call = asyncio.ensure_future(model.generate(path, request))
        await asyncio.sleep(0.4)
        call.cancel()
        with pytest.raises(Interrupted) as interrupted:
            await call
        return interrupted.value.usage

    try:
        return asyncio.run(cut())
    finally:
        assert wait_until(lambda: server.inside == 0)


@pytest.mark.parametrize(("hidden", "tokenizer"), [((), None), (("usage",), None), (("usage",), "given")])
def test_what_a_cancelled_stream_wrote_is_reported_or_estimated(
    vllm: Habits, connect: Connect, questions: list[str], hidden: tuple[str, ...], tokenizer: str | None
) -> None:
    """By the counts that come with every event; by the ids or the text that came where a gateway hides them."""
    model = connect(vllm, **({} if tokenizer else {"tokenizer": None}))
    path, request = Path(as_prompt(questions[0])), StepRequest((0,), 60, Never())
    wait_for(model.generate(path, StepRequest((0,), 1)))
    vllm.pace, vllm.gateway = 0.04, without(*hidden)
    usage = cancelled(model, path, request, vllm)
    assert 3 < usage.generated < 20
    assert vllm.requests[-1]["stream_options"]["continuous_usage_stats"]
    exact = usage.prefix if tokenizer else 0
    assert usage.estimated == (usage.prefix + usage.generated - exact if hidden else 0)


@pytest.mark.parametrize("hidden", [False, True])
def test_what_a_stream_of_many_steps_wrote_for_nobody_is_estimated_behind_a_gateway(
    vllm: Habits, connect: Connect, questions: list[str], hidden: bool
) -> None:
    """It may let the server write on when its client hangs up."""
    model, path = connect(vllm), Path(as_prompt(questions[0]))
    wait_for(model.generate(path, StepRequest((0,), 1)))
    vllm.pace = 0.04
    vllm.gateway = without("prompt_token_ids", "usage") if hidden else Gateway()
    usage = cancelled(model, path, StepRequest((0,), 60, Never(), ahead=4), vllm)
    assert 3 < usage.generated < 20
    assert usage.estimated == (usage.generated if hidden else 0)


def test_estimates_are_marked_on_the_ledger(servers: dict[str, Habits], connect: Connect, questions: list[str]) -> None:
    made = DraftOnly(drafter=connect(servers["llama_cpp_python"])).run(questions[0])
    account = made.ledger.drafter
    assert 0 < account.estimated <= account.computed + account.reused
    assert made.ledger.to_dict()["drafter"]["estimated"] == account.estimated  # type: ignore[index]
    assert DraftOnly(drafter=connect(servers["vllm"])).run(questions[0]).ledger.drafter.estimated == 0


def test_logging_names_what_was_found(
    vllm: Habits, connect: Connect, questions: list[str], caplog: pytest.LogCaptureFixture, untried: None
) -> None:
    with caplog.at_level(logging.INFO, "rsd_integrations.openai_compatible"):
        DraftOnly(drafter=connect(vllm)).run(questions[0])
    assert sum("leaves stop strings in the text" in record.message for record in caplog.records) == 1
