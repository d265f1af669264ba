"""Fields of a single request, and tools of a prompt, at LangChain models that write whole turns."""

import json
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from rsd_core import ConfigurationError, DraftOnly, Message, Path, RewardGuidedDecoder, Settings, StepRequest, as_prompt
from rsd_core.blocking import wait_for
from rsd_core.testing import ScriptedTarget, ScriptedVerifier
from rsd_integrations.langchain import ChatRSD, LangChainDrafter, LangChainTarget
from rsd_integrations.langchain.roles import LangChainGenerator
from tests.langchain.fakes import always
from tests.langchain.server import Server, serving

ASKED, TURN = Path(as_prompt("1 + 2?")), StepRequest((0,), delimiter=None)
ADD = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}}
CALL: Any = {"name": "add", "args": {"a": 1, "b": 2}, "id": "c", "type": "tool_call"}
WITH_TOOLS = (Message("tools", json.dumps([ADD])), *ASKED.prompt)
OFF = {"chat_template_kwargs": {"enable_thinking": False}}


def written(model: LangChainGenerator, path: Path = ASKED) -> str:
    return wait_for(model.generate(path, TURN)).steps[0].text


def test_fields_are_options_of_the_call() -> None:
    inner = always("fine")
    model = LangChainTarget(inner, options={"top_k": 1})
    other = model.with_fields({"reasoning_effort": "low", "tool_choice": "auto"})
    assert other is model.with_fields({"reasoning_effort": "low", "tool_choice": "auto"}) is not model
    assert written(other.with_fields({"response_format": {"type": "json_object"}})) == written(model) == "fine"
    assert [options for _, options in inner.asked] == [
        {"top_k": 1, "reasoning_effort": "low", "response_format": {"type": "json_object"}},
        {"top_k": 1},
    ]
    assert len({other.fingerprint, model.fingerprint}) == 2
    assert other.using(options={}).with_fields(OFF_EFFORT).asked == OFF_EFFORT | {"tool_choice": "auto"}


OFF_EFFORT = {"reasoning_effort": "none"}


def test_tools_of_the_prompt_are_bound_where_none_are() -> None:
    inner = always(AIMessage("", tool_calls=[CALL]))
    model = LangChainTarget(inner).with_fields({"tool_choice": "required", "parallel_tool_calls": False})
    step = wait_for(model.generate(Path(WITH_TOOLS), TURN)).steps[0]
    assert step.text == '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'
    assert [call["name"] for call in step.native.tool_calls] == ["add"]  # type: ignore[attr-defined]
    ((messages, options),) = inner.asked
    assert options == {"tools": [ADD], "tool_choice": "required", "parallel_tool_calls": False}
    assert [message.type for message in messages] == ["human"]


def test_a_model_that_cannot_call_tools_says_so_and_is_shown_none() -> None:
    model = LangChainTarget(FakeListChatModel(responses=["fine"]))
    assert LangChainTarget(always("x")).renders_tools == "turn"
    assert model.renders_tools is False
    assert written(model, Path(WITH_TOOLS)) == "fine"


@pytest.fixture(scope="module")
def server() -> Any:
    with serving("draft") as served:
        yield served


def test_arguments_of_the_chat_template_join_the_body_of_the_model(server: Server) -> None:
    body: dict[str, Any] = {"chat_template_kwargs": {"style": 1}, "top_k": 3}
    client = ChatOpenAI(
        model="m", base_url=server.url, api_key=SecretStr("x"), use_responses_api=False, extra_body=body, max_tokens=4
    )
    written(LangChainDrafter(client).with_fields({"reasoning_effort": "low", **OFF}))
    sent = server.requests[-1]
    assert sent["chat_template_kwargs"] == {"style": 1, "enable_thinking": False}
    assert (sent["top_k"], sent["reasoning_effort"]) == (3, "low")


def test_what_a_model_cannot_honour_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="inner does not accept chat_template_kwargs: Inner cannot add fields"):
        LangChainTarget(always("x")).with_fields(OFF)
    model = LangChainTarget(always("x"), prefix="trailing_assistant")
    with pytest.raises(ConfigurationError, match=r"cannot honour reasoning_effort='low': that is for whole turns"):
        wait_for(model.with_fields({"reasoning_effort": "low"}).generate(ASKED, StepRequest((0,))))
    in_steps = model.with_fields({"tool_choice": "auto"})
    assert wait_for(in_steps.generate(ASKED, StepRequest((0,)))).steps[0].text == "x"


def test_a_langchain_model_and_another_one_call_tools_in_turns_together() -> None:
    """What one calls with a message the other writes as text; both come out as calls."""
    text = '<tool_call>\n{"name": "add", "arguments": {"a": 3, "b": 4}}\n</tool_call>'
    for reward, wanted in ((0.9, {"a": 1, "b": 2}), (0.1, {"a": 3, "b": 4})):
        target = ScriptedTarget([text])
        target.renders_tools = True
        decoder = RewardGuidedDecoder(
            drafter=LangChainDrafter(always(AIMessage("", tool_calls=[CALL]))),
            verifier=ScriptedVerifier([reward]),
            target=target,
            settings=Settings(granularity="turn"),
        )
        message = ChatRSD(decoder=decoder).bind_tools([ADD]).invoke("1 + 2?")
        assert [call["args"] for call in message.tool_calls] == [wanted]
    steps = ChatRSD(decoder=DraftOnly(drafter=LangChainDrafter(always("x"), prefix="trailing_assistant")))
    with pytest.raises(ValueError, match="cannot choose tools to call: its chat template does not show them"):
        steps.bind_tools([ADD]).invoke("1 + 2?")
