"""Tools of a prompt at chats that write whole turns: the requests, and the calls in replies."""

import json
from typing import Any

import pytest

from rsd_core import (
    ConfigurationError,
    Message,
    Path,
    Result,
    RewardGuidedDecoder,
    Settings,
    Step,
    StepRequest,
    TargetOnly,
    as_prompt,
    load,
    usage_of,
)
from rsd_core.baselines.judged import TargetJudge
from rsd_core.blocking import wait_for
from rsd_core.testing import ScriptedVerifier
from rsd_integrations.langchain import ChatRSD
from rsd_integrations.openai_compatible import EndpointError
from rsd_integrations.tool_calls import ToolCallStream, parsed, sees_tools
from tests.openai_compatible.answering import Reply, Scripted, scripted

ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
PROMPT = (Message("tools", json.dumps([ADD])), *as_prompt("1 + 2?"))
TURN = StepRequest((0,), delimiter=None)
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}
TEXT = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'

HM, SO = [{"type": "text", "text": "Hm."}], {"type": "text", "text": "So."}


def says(reason: str = "tool_calls", **message: Any) -> Reply:
    usage = {"prompt_tokens": 9, "completion_tokens": 5}
    choice = {"message": {"role": "assistant", **message}, "finish_reason": reason}
    return Reply(body={"choices": [choice], "usage": usage})


def answered(*replies: Reply) -> Any:
    """Gives these one after the other, the last one again and again, and no list of models."""
    left = list(replies)

    def answer(_: Scripted, body: dict[str, Any]) -> Reply:
        if not body:
            return Reply(body={"data": []})
        return left.pop(0) if len(left) > 1 else left[0]

    return answer


def turn(*replies: Reply, prompt: Any = PROMPT, fields: Any = (), **options: Any) -> tuple[Step, list[dict[str, Any]]]:
    """What a chat writes after a prompt where the server replies so, and what it was sent."""

    async def run() -> tuple[Step, list[dict[str, Any]]]:
        async with scripted(answered(*replies)) as server:
            model = load(f"openai:m@{server.url}", **{"profile": "generic", "retries": 0, **options})
            try:
                made = await model.with_fields(dict(fields)).generate(Path(prompt), TURN)
            finally:
                await model.aclose()
            return made.steps[0], [body for body in server.requests if body]

    return wait_for(run())


def test_a_turn_is_sent_the_tools_and_how_to_call_them() -> None:
    _, (body,) = turn(says(tool_calls=[CALL]), fields={"tool_choice": "required", "parallel_tool_calls": False})
    assert body["tools"] == [ADD]
    assert (body["tool_choice"], body["parallel_tool_calls"]) == ("required", False)
    assert body["messages"] == [{"role": "user", "content": "1 + 2?"}]
    _, (body,) = turn(says("stop", content="3"), prompt=as_prompt("1 + 2?"), fields={"tool_choice": "auto"})
    assert body.keys().isdisjoint({"tools", "tool_choice"})


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "add"}}])
def test_a_server_that_passes_over_a_required_call_is_found_out(choice: Any) -> None:
    """llama.cpp's server does, build 11549: its text is not a call, which would go unnoticed."""
    with pytest.raises(ConfigurationError, match="ignores the field"):
        turn(says("stop", content="3"), fields={"tool_choice": choice})
    cut, _ = turn(says("length", content="Let me"), fields={"tool_choice": choice})
    assert cut.ending == "length"


def test_a_call_is_the_message_as_it_came_and_a_text_for_all_others() -> None:
    step, _ = turn(says(content="Let me see.", tool_calls=[CALL, CALL | {"id": "c2"}], refusal=None, extra=1))
    assert step.native == {
        "role": "assistant", "content": "Let me see.", "tool_calls": [CALL, CALL | {"id": "c2"}], "extra": 1,
    }  # fmt: skip
    assert (step.text, step.ending, step.size) == (f"Let me see.\n{TEXT}\n{TEXT}", "end", 5)
    content, calls = ToolCallStream().feed(step.text, last=True)
    assert content == "Let me see."
    assert [(call.name, json.loads(call.arguments)) for call in calls] == [("add", {"a": 1, "b": 2})] * 2


@pytest.mark.parametrize("content", [None, "", "\n\n"])
def test_a_call_without_text_is_not_a_blank_turn(content: str | None) -> None:
    step, _ = turn(says(content=content, tool_calls=[CALL]))
    assert step.text == TEXT
    assert isinstance(step.native, dict)
    assert step.native["content"] is None


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": None, "reasoning": "Hm."}, f"<think>\nHm.\n</think>\n\n{TEXT}"),
        ({"content": "So.", "reasoning_content": "Hm."}, f"<think>\nHm.\n</think>\n\nSo.\n{TEXT}"),
        ({"content": "<think>\nHm.\n</think>\n\nSo."}, f"<think>\nHm.\n</think>\n\nSo.\n{TEXT}"),
        ({"content": [{"type": "thinking", "thinking": HM}, SO]}, f"<think>\nHm.\n</think>\n\nSo.\n{TEXT}"),
    ],
)  # fmt: skip
def test_a_thought_before_a_call_is_closed_and_no_part_of_the_messages_content(
    message: dict[str, Any], text: str
) -> None:
    step, _ = turn(says(**message, tool_calls=[CALL]))
    assert step.text == text
    assert isinstance(step.native, dict)
    assert step.native["content"] == ("So." if "So." in text else None)


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ({"function": {"name": "add", "arguments": {"a": 1}}}, '{"a": 1}'),
        ({"id": None, "type": None, "function": {"name": "add"}}, "{}"),
        ({"id": "", "function": {"name": "add", "arguments": ""}}, "{}"),
        ({"function": {"name": "add", "arguments": "null"}}, "{}"),
        ({"function": {"name": "add", "arguments": '{"a": 1'}}, '{"a": 1'),
    ],
)
def test_calls_of_other_forms_are_those_of_the_api(call: dict[str, Any], arguments: str) -> None:
    step, _ = turn(says("stop", tool_calls=[call]))
    assert isinstance(step.native, dict)
    (made,) = step.native["tool_calls"]
    assert made.pop("id").startswith("call_")
    assert made == {"type": "function", "function": {"name": "add", "arguments": arguments}}
    _, (read,) = ToolCallStream().feed(step.text, last=True)
    if parsed(arguments) == arguments:  # no object: nothing that may be executed
        assert (read.name, read.arguments) == (None, step.text)
    else:
        assert (read.name, read.arguments) == ("add", arguments)


def test_a_call_that_the_tokens_cut_is_kept_as_far_as_it_came() -> None:
    cut = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b'}}
    step, _ = turn(says("length", tool_calls=[cut]))
    assert step.ending == "length"
    assert isinstance(step.native, dict)
    assert step.native["tool_calls"] == [cut]


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ({"content": "x"}, "the finish reason is 'tool_calls', but the message has no tool_calls"),
        ({"tool_calls": []}, "the message has no tool_calls"),
        ({"tool_calls": [{"id": "c", "function": {"arguments": "{}"}}]}, "a tool call names no function"),
        ({"tool_calls": [{"id": "c"}]}, "an answer in an unknown format"),
        ({"tool_calls": "add"}, "an answer in an unknown format"),
    ],
)
def test_an_invalid_call_is_a_fault_of_the_server_and_charged(message: dict[str, Any], told: str) -> None:
    with pytest.raises(EndpointError, match=told) as caught:
        turn(says(**message))
    usage = usage_of(caught.value)
    assert usage is not None
    assert usage.generated == 5
    step, bodies = turn(says(**message), says(tool_calls=[CALL]), retries=1)
    assert (step.text, len(bodies)) == (TEXT, 2)


def test_only_functions_are_called() -> None:
    with pytest.raises(ConfigurationError, match="a tool of the type 'custom'; only functions"):
        turn(says(tool_calls=[{"id": "c", "type": "custom", "custom": {"name": "sh", "input": "ls"}}]))


@pytest.mark.parametrize("arguments", ['{"a": 1, "b": 2}', {"a": 1, "b": 2}])
def test_a_history_with_calls_is_sent_as_the_api_has_it(arguments: Any) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": arguments}}
    history = [*PROMPT, Message("assistant", "", {"tool_calls": [call]}), Message("tool", "3", {"tool_call_id": "c1"})]
    step, (body,) = turn(says("stop", content="It is 3."), prompt=tuple(history))
    assert step.text == "It is 3."
    assert step.native is None
    assert body["messages"][1:] == [
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "3", "tool_call_id": "c1"},
    ]


def test_steps_see_no_tools_and_say_so() -> None:
    chat, text = load("openai:m@http://127.0.0.1:1"), load("openai,mode=completions:m@http://127.0.0.1:1")
    assert sees_tools(chat, "turn")
    assert not sees_tools(chat, "step")
    assert not sees_tools(text, "turn")
    with pytest.raises(ValueError, match="cannot choose tools to call: its chat template does not show them"):
        ChatRSD(decoder=TargetOnly(target=chat)).bind_tools([ADD]).invoke("1 + 2?")


def test_a_chat_that_judges_is_asked_without_the_tools() -> None:
    async def run() -> list[dict[str, Any]]:
        async with scripted(answered(says("stop", content="9"))) as server:
            model = load(f"openai,profile=generic:m@{server.url}")
            assert (await TargetJudge(model).score(Path(PROMPT), [Step("3", "end")])).rewards == (1.0,)
            await model.aclose()
            return [body for body in server.requests if body]

    (body,) = wait_for(run())
    assert "tools" not in body
    assert len(body["messages"]) == 1


def decoded(reward: float) -> tuple[Result, Any]:
    """RSD over two chats that call the same tool with other arguments; and what ChatRSD makes of it."""
    wrong = CALL | {"id": "bad", "function": {"name": "add", "arguments": '{"a": 9}'}}

    async def run() -> tuple[Result, Any]:
        async with (
            scripted(answered(says(tool_calls=[wrong]))) as cheap,
            scripted(answered(says(tool_calls=[CALL]))) as strong,
        ):
            models = [load(f"openai,profile=generic:m@{server.url}") for server in (cheap, strong)]
            decoder = RewardGuidedDecoder(
                drafter=models[0],
                verifier=ScriptedVerifier([reward] * 2),
                target=models[1],
                settings=Settings(granularity="turn"),
            )
            result = await decoder.arun(list(PROMPT))
            message = await ChatRSD(decoder=decoder).bind_tools([ADD]).ainvoke("1 + 2?")
            for model in models:
                await model.aclose()
        return result, message

    return wait_for(run())


def test_the_targets_call_takes_the_place_of_a_rejected_one() -> None:
    result, message = decoded(0.1)
    (record,) = result.steps
    assert (record.author, result.finish_reason, result.text) == ("target", "stop", TEXT)
    assert isinstance(record.native, dict)
    assert record.native["tool_calls"] == [CALL]
    assert [call["args"] for call in message.tool_calls] == [{"a": 1, "b": 2}]
    assert "bad" not in repr(record.native) + repr(message.tool_calls)
    result, message = decoded(0.9)
    assert (result.steps[0].author, result.text) == ("draft", TEXT.replace('"a": 1, "b": 2', '"a": 9'))
    assert [call["args"] for call in message.tool_calls] == [{"a": 9}]
