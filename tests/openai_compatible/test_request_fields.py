"""Fields of a single request at servers: rendered here, sent in chats, or refused."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rsd_core import ConfigurationError, Generation, Path, Step, StepRequest, as_prompt, load
from rsd_core.blocking import wait_for
from rsd_integrations.embedded.models import FOLDER
from rsd_integrations.inprocess.vocabulary import Vocabulary
from rsd_integrations.openai_compatible import OpenAIGenerator, trials
from tests.openai_compatible.answering import Reply, Scripted, scripted

THINKER = str(FOLDER / "thinking-draft")
OFF = {"chat_template_kwargs": {"enable_thinking": False}}
STYLE, OFF_STYLE = {"style": 1}, {"chat_template_kwargs": {"enable_thinking": False, "style": 1}}
JSON = {"response_format": {"type": "json_object"}}
ASKED = Path(as_prompt("Why?"))
TURN = StepRequest((0,), delimiter=None)


def reply(body: dict[str, Any]) -> Reply:
    """An answer in the form that is asked for; a list of no models where nothing is."""
    if not body:
        return Reply(body={"data": []})
    read = len(body["prompt"]) if "prompt" in body else 9
    said = {"text": "So."} if "prompt" in body else {"message": {"role": "assistant", "content": "So."}}
    usage = {"prompt_tokens": read, "completion_tokens": 2}
    return Reply(body={"choices": [{**said, "finish_reason": "stop"}], "usage": usage})


@asynccontextmanager
async def model_at(server: Scripted, **options: Any) -> AsyncIterator[OpenAIGenerator]:
    model = load(f"openai:m@{server.url}", **{"profile": "vllm", **options})
    try:
        yield model
    finally:
        await model.aclose()


def sent(work: Callable[[OpenAIGenerator], Awaitable[object]], **options: Any) -> list[dict[str, Any]]:
    """The bodies that a model sends meanwhile."""

    async def run() -> list[dict[str, Any]]:
        async with scripted(lambda _, body: reply(body)) as server, model_at(server, **options) as model:
            await work(model)
        return [body for body in server.requests if body]

    return wait_for(run())


def turn(*fields: dict[str, Any]) -> Callable[[OpenAIGenerator], Awaitable[Generation]]:
    """Asks for a turn, by a model with these fields, one after the other."""

    async def ask(model: OpenAIGenerator) -> Generation:
        for more in fields:
            model = model.with_fields(more)
        return await model.generate(ASKED, TURN)

    return ask


def test_completions_render_with_the_requests_arguments_here() -> None:
    def prompt_of(model: OpenAIGenerator) -> list[int]:
        assert model.prompts.vocabulary is not None
        return model.prompts.vocabulary.ids(ASKED)[0]

    shown: list[Any] = []

    async def ask(model: OpenAIGenerator) -> None:
        other = model.with_fields(OFF)
        assert other is model.with_fields(OFF)
        shown.extend((prompt_of(other), other.thinking(ASKED.prompt), model.thinking(ASKED.prompt)))
        for one in (model, other):
            await one.generate(ASKED, TURN)

    plain, quick = sent(ask, tokenizer=THINKER)
    assert quick["prompt"] == shown[0] != plain["prompt"]
    assert quick.keys() == plain.keys()
    assert shown[1].is_off
    assert not shown[2].is_off


@pytest.mark.parametrize(
    ("options", "fields", "body"),
    [
        ({}, OFF, OFF),
        ({"template": {"enable_thinking": True, **STYLE}}, OFF, OFF_STYLE),
        ({"profile": "generic", "body": {"chat_template_kwargs": STYLE}}, OFF, OFF_STYLE),
        ({"body": {"reasoning_effort": "high"}}, {"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
        ({}, {"tool_choice": None, **JSON}, JSON),
        ({"body": {"response_format": {"type": "x", "y": 1}}}, JSON, JSON),
    ],
)
def test_chats_send_the_requests_fields_before_the_users(
    options: dict[str, Any], fields: dict[str, Any], body: dict[str, Any]
) -> None:
    (asked,) = sent(turn(fields), **options)
    names = ("chat_template_kwargs", "reasoning_effort", "tool_choice", "parallel_tool_calls", "response_format")
    assert {name: asked[name] for name in names if name in asked} == body


def test_a_further_request_adds_to_what_was_asked() -> None:
    (body,) = sent(turn(OFF, {"reasoning_effort": "low"}))
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert body["reasoning_effort"] == "low"


def test_copies_share_the_server_and_what_is_known_of_it() -> None:
    async def ask(model: OpenAIGenerator) -> None:
        other = model.with_fields({"reasoning_effort": "low"})
        assert other is model.with_fields({"reasoning_effort": "low"}) is not model
        assert other.endpoint is model.endpoint
        assert await other.server() is await model.server()
        other.learnt.most = 7
        await model.generate(ASKED, TURN)

    (body,) = sent(ask)
    assert body["max_tokens"] == 7
    assert "reasoning_effort" not in body


def test_steps_of_a_chat_are_tried_out_as_the_request_asks_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that thinks cannot continue in a chat; the same model without thoughts can."""
    asked: list[dict[str, Any]] = []

    async def check(ask: Any) -> None:
        asked.append(ask.fields.template)
        if not ask.fields.template:
            raise ConfigurationError("its thoughts come apart")

    async def ask(model: OpenAIGenerator) -> None:
        begun = ASKED.extend(Step("So", "length"))
        with pytest.raises(ConfigurationError, match="come apart"):
            await model.generate(begun, TURN)
        for _ in range(2):
            await model.with_fields(OFF).generate(begun, TURN)

    monkeypatch.setattr(trials, "check_chat_steps", check)
    sent(ask)
    assert asked == [{}, {"enable_thinking": False}]


@pytest.mark.parametrize(
    ("options", "fields", "told"),
    [
        ({"tokenizer": THINKER}, {"chat_template_kwargs": {"x": 1}}, "m: chat_template_kwargs: unknown template arg"),
        ({"tokenizer": THINKER}, {"reasoning_effort": "low"}, "reasoning_effort: unknown template argument"),
        ({"tokenizer": THINKER}, {"tool_choice": "required"}, "m cannot honour tool_choice='required': completions wr"),
        ({"mode": "completions"}, OFF, "chat_template_kwargs: plain text is sent, without a chat template"),
        ({"profile": "generic"}, OFF, "template.enable_thinking needs a tokenizer=… and mode=completions"),
        ({}, {"response_format": "json"}, 'response_format takes an object such as {"type": "json_object"}'),
    ],
)
def test_what_a_server_cannot_honour_is_refused_before_it_is_asked(
    options: dict[str, Any], fields: dict[str, Any], told: str
) -> None:
    async def ask(model: OpenAIGenerator) -> None:
        with pytest.raises(ConfigurationError, match=told):
            await turn(fields)(model)

    assert sent(ask, **options) == []


def test_fields_of_a_message_are_refused_where_steps_are_written() -> None:
    async def ask(model: OpenAIGenerator) -> None:
        with pytest.raises(
            ConfigurationError, match=r"m cannot honour response_format=.*a step is text.*granularity='tu"
        ):
            await model.with_fields(JSON).generate(ASKED, StepRequest((0,)))

    assert sent(ask) == []


def test_a_chat_that_refuses_a_requests_field_says_so_in_its_words() -> None:
    async def run() -> str:
        refusal = Reply(422, {"detail": "Unexpected fields in the request: {'reasoning_effort'}"})
        answer = lambda _, body: refusal if body else reply(body)  # noqa: E731
        async with scripted(answer) as server, model_at(server) as model:
            with pytest.raises(ConfigurationError) as caught:
                await turn({"reasoning_effort": "low"})(model)
        return str(caught.value)

    told = wait_for(run())
    assert "HTTP 422: Unexpected fields in the request: {'reasoning_effort'}" in told
    assert told.endswith(
        "Remedy: this server does not accept reasoning_effort: remove it from the request, or from body.NAME=…."
    )


def test_the_vocabulary_of_a_request_is_that_of_a_spec_with_the_option() -> None:
    by_spec = load(f"openai,template.enable_thinking=false,tokenizer={THINKER}:m@http://127.0.0.1:1")
    asked = load(f"openai,tokenizer={THINKER}:m@http://127.0.0.1:1").with_fields(OFF)
    both: list[Vocabulary] = [by_spec.prompts.vocabulary, asked.prompts.vocabulary]
    assert both[0].ids(ASKED) == both[1].ids(ASKED)
