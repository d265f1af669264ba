"""/v1/responses with third-party clients: OpenAI's package, and LangChain's with its standard tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from langchain_core.messages import AIMessageChunk, HumanMessage
from langchain_openai import ChatOpenAI
from openai.types.responses import Response, ResponseFunctionToolCall, ResponseReasoningItem

from rsd_core import Decoder, RewardGuidedDecoder
from rsd_integrations.embedded.task import problems
from rsd_integrations.serve.requests import ResponsesRequest
from rsd_integrations.serve.response_requests import as_chat
from tests.openai_compatible.test_tool_calls import answered, says
from tests.serve import test_clients_langchain as standard
from tests.serve.running import Running, events, running, scripted
from tests.serve.test_turns import served as served_turns
from tests.thinkers import ANSWER, THOUGHT, Shown, ShownTarget, agents_steps, thinker

ASKED = [problem.question for _, problem in zip(range(3), problems("test", 8), strict=False)]
TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}


@pytest.fixture
def client(served: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def thinking() -> Iterator[Running]:
    agent = RewardGuidedDecoder(
        drafter=Shown(agents_steps(mistake=True)),
        verifier=thinker().verifier,
        target=ShownTarget(agents_steps(mistake=False)),
    )
    with running(decoders={"rsd": thinker(), "agent": agent, "plain": scripted()}) as server:
        yield server


def of(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_texts_are_those_of_the_bare_decoder(client: openai.OpenAI, bare: Decoder, temperature: float) -> None:
    decoder = bare.with_settings(bare.settings.updated(temperature=temperature))
    for question in ASKED:
        wanted = decoder.run(question, seed=9)
        asked: dict[str, Any] = {"model": "rsd", "temperature": temperature, "extra_body": {"seed": 9}}
        whole = client.responses.create(input=question, **asked)
        assert (whole.output_text, whole.status, whole.incomplete_details) == (wanted.text, "completed", None)
        assert whole.usage is not None
        assert whole.usage.input_tokens == wanted.prompt_tokens
        assert whole.usage.output_tokens == sum(step.size for step in wanted.steps)
        with client.responses.stream(input=[{"role": "user", "content": question}], **asked) as stream:
            told = list(stream)
        deltas = [event.delta for event in told if event.type == "response.output_text.delta"]
        assert deltas == [step.text for step in wanted.steps]
        assert [event.sequence_number for event in told] == list(range(len(told)))
        assert stream.get_final_response().output_text == wanted.text


async def test_asynchronous_streams_are_put_together_by_openais_package(served: str, bare: Decoder) -> None:
    async with openai.AsyncOpenAI(base_url=f"{served}/v1", api_key="none", max_retries=0) as client:
        async with client.responses.stream(model="rsd", input=ASKED[0]) as stream:
            final = await stream.get_final_response()
        raw = await client.responses.create(model="rsd", input=ASKED[0], stream=True)
        kinds = [event.type async for event in raw]
    assert final.output_text == bare.run(ASKED[0]).text
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]


def test_a_stream_grows_into_the_object_that_comes_in_one_piece(thinking: Running) -> None:
    body = {"model": "agent", "input": "Does it rain?", "tools": [TOOL]}
    whole = thinking.client.post("/v1/responses", json=body).json()
    told = events(thinking.client.post("/v1/responses", json=body | {"stream": True}))
    last = told[-1]["response"]
    done = [event["item"] for event in told if event["type"] == "response.output_item.done"]
    assert done == last["output"]

    def same(response: Any) -> Any:
        unlike = {"id", "created_at", "completed_at", "call_id", "seconds"}
        if isinstance(response, dict):
            return {name: same(value) for name, value in response.items() if name not in unlike}
        return [same(one) for one in response] if isinstance(response, list) else response

    assert same(last) == same(whole)
    Response.model_validate(whole, strict=True)


@pytest.mark.parametrize(("asked", "place"), [({}, "content"), ({"summary": "auto"}, "summary")])
def test_a_thought_is_a_reasoning_item_with_its_text(thinking: Running, asked: Any, place: str) -> None:
    with of(thinking) as client:
        whole = client.responses.create(model="rsd", input="How many?", reasoning=asked)
        with client.responses.stream(model="rsd", input="How many?", reasoning=asked) as stream:
            told = list(stream)
        final = stream.get_final_response()
    for response in (whole, final):
        thought, message = response.output
        assert isinstance(thought, ResponseReasoningItem)
        assert "".join(part.text for part in getattr(thought, place)).strip() == THOUGHT
        assert thought.summary if place == "summary" else not thought.summary
        assert message.type == "message"
        assert response.output_text == ANSWER
        assert response.usage is not None
        assert 0 < response.usage.output_tokens_details.reasoning_tokens < response.usage.output_tokens
    kind = "response.reasoning_summary_text" if place == "summary" else "response.reasoning_text"
    deltas = [str(getattr(event, "delta", "")) for event in told if event.type == f"{kind}.delta"]
    assert "".join(deltas).strip() == THOUGHT
    assert not [event for event in told if "BAD" in repr(event)]


def test_a_conversation_with_calls_is_sent_back_item_by_item(thinking: Running) -> None:
    with of(thinking) as client:
        asked: dict[str, Any] = {"model": "agent", "tools": [TOOL], "instructions": "Be brief."}
        first = client.responses.create(input="Does it rain?", **asked)
        thought, call = first.output
        assert (thought.type, first.status) == ("reasoning", "completed")
        assert isinstance(call, ResponseFunctionToolCall)
        assert (call.name, json.loads(call.arguments)) == ("weather", {"city": "Rome"})
        with client.responses.stream(input="Does it rain?", **asked) as stream:
            told = list(stream)
        assert [event.arguments for event in told if event.type == "response.function_call_arguments.done"] == [
            call.arguments
        ]
        history: Any = [
            {"role": "user", "content": [{"type": "input_text", "text": "Does it rain?"}]},
            *[item.to_dict() for item in first.output],
            {"type": "function_call_output", "call_id": call.call_id, "output": "yes"},
        ]
        assert client.responses.create(input=history, **asked).output_text == "It rains in Rome."


def test_items_of_one_turn_are_one_message_of_the_assistants() -> None:
    items: Any = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "1 + 2, and 3 + 4?"},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Add."}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Let me see."}]},
        {"type": "function_call", "call_id": "a", "name": "add", "arguments": '{"a": 1}'},
        {"type": "function_call", "call_id": "b", "name": "add", "arguments": '{"a": 3}'},
        {"type": "function_call_output", "call_id": "a", "output": "3"},
        {"type": "function_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "7"}]},
        {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "x"},
        {"role": "assistant", "content": "3 and 7."},
        {"role": "assistant", "content": "Is that all?"},
        {"role": "user", "content": "Yes."},
    ]
    asked = ResponsesRequest(model="rsd", instructions="Add.", input=items, max_output_tokens=9)
    chat = as_chat(asked)
    calls = [
        {"id": name, "type": "function", "function": {"name": "add", "arguments": json.dumps({"a": n})}}
        for name, n in (("a", 1), ("b", 3))
    ]
    assert chat.longest == 9
    assert chat.messages == [
        {"role": "system", "content": "Add."},
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "1 + 2, and 3 + 4?"},
        {"role": "assistant", "content": "Let me see.", "reasoning_content": "Add.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "a", "content": "3"},
        {"role": "tool", "tool_call_id": "b", "content": "7"},
        {"role": "assistant", "content": "3 and 7."},
        {"role": "assistant", "content": "Is that all?"},
        {"role": "user", "content": "Yes."},
    ]


def test_a_limit_makes_the_response_incomplete(thinking: Running) -> None:
    asked: dict[str, Any] = {"model": "plain", "input": "Count.", "max_output_tokens": 2}
    with of(thinking) as client:
        whole = client.responses.create(**asked, metadata={"of": "mine"}, store=False, truncation="disabled")
        *_, last = client.responses.create(**asked, stream=True)
    assert last.type == "response.incomplete"
    for response in (whole, last.response):
        assert response.status == "incomplete"
        assert response.incomplete_details is not None
        assert response.incomplete_details.reason == "max_output_tokens"
        assert response.output_text == "one\n\ntwo\n\n"
        assert (response.model_extra or {})["rsd"]["finish_reason"] == "max_tokens"
        assert response.output[-1].status == "incomplete"
    assert whole.metadata == {"of": "mine"}


def test_tools_formats_and_effort_reach_the_models_as_chats_have_them() -> None:
    schema = {"type": "object", "properties": {"sum": {"type": "integer"}}}
    body = {
        "model": "rsd",
        "input": "1 + 2?",
        "tools": [{**TOOL, "description": "Of a city.", "strict": True}],
        "tool_choice": {"type": "function", "name": "weather"},
        "reasoning": {"effort": "low"},
        "text": {"format": {"type": "json_schema", "name": "Sum", "schema": schema}, "verbosity": "low"},
    }
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    replies = answered(says(content="Let me see.", tool_calls=[call]))
    told, sent, _ = served_turns(
        replies, replies, 1.0, lambda server: server.client.post("/v1/responses", json=body).json()
    )
    message, called = told["output"]
    assert message["content"][0]["text"] == "Let me see."
    assert (called["type"], called["call_id"], called["name"]) == ("function_call", "c1", "weather")
    (one,) = sent
    named = {"name": "weather", "description": "Of a city.", "parameters": TOOL["parameters"], "strict": True}
    assert one["tools"] == [{"type": "function", "function": named}]
    assert one["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    assert one["reasoning_effort"] == "low"
    assert one["response_format"] == {"type": "json_schema", "json_schema": {"name": "Sum", "schema": schema}}


@pytest.mark.parametrize(
    ("fields", "param", "why"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "stores nothing"),
        ({"store": True}, "store", "stores nothing"),
        ({"background": True}, "background", "stores nothing"),
        ({"conversation": "conv_1"}, "conversation", "stores nothing"),
        ({"truncation": "auto"}, "truncation", "conversations are not truncated"),
        ({"include": ["message.output_text.logprobs"]}, "include", "mixture"),
        (
            {"tools": [{"type": "web_search"}]},
            "tools[0]",
            "only functions, which the client runs, can be called, not 'web_search'",
        ),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice", "one function"),
        ({"text": {"stop": "x"}}, "text.stop", "format and verbosity"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode", "effort and summary"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]", "stores nothing"),
        ({"input": [{"type": "computer_call"}]}, "input[0]", "'computer_call'"),
        ({"input": [{"role": "robot", "content": "Hi"}]}, "input[0]", "role 'robot'"),
        ({"input": [{"type": "function_call", "call_id": "a"}]}, "input[0].name", "is missing"),
        ({"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]}, "input", "no message"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]", "read only text"),
        ({"max_output_tokens": 0}, "max_output_tokens", "greater than or equal to 1"),
    ],
)
def test_what_cannot_be_honoured_is_refused_with_the_reason(
    thinking: Running, fields: dict[str, Any], param: str, why: str
) -> None:
    told = thinking.client.post("/v1/responses", json={"model": "plain", "input": "Hi", **fields})
    assert told.status_code == 400
    error = told.json()["error"]
    assert error["param"] == param
    assert why in error["message"]


def test_what_clients_say_without_meaning_anything_by_it_is_taken(thinking: Running) -> None:
    harmless: dict[str, Any] = {
        "store": False,
        "background": False,
        "include": ["reasoning.encrypted_content"],
        "previous_response_id": None,
        "truncation": "disabled",
        "service_tier": "auto",
        "user": "me",
        "prompt_cache_key": "k",
        "stream_options": {"include_obfuscation": False},
        "text": {"format": {"type": "text"}},
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
    }
    told = thinking.client.post("/v1/responses", json={"model": "plain", "input": "Count.", **harmless})
    assert (told.status_code, told.json()["status"]) == (200, "completed")


def test_what_goes_wrong_in_the_middle_is_raised_by_clients_with_what_was_written() -> None:
    broken = scripted(["one\n\n", RuntimeError("no power")], replacements=[RuntimeError("no power")])
    with running(decoders={"rsd": broken}) as server, of(server) as client:
        stream = client.responses.create(model="rsd", input="Count.", stream=True)
        while next(stream).type != "response.output_text.delta":
            pass
        with pytest.raises(openai.APIError, match="no power") as raised:
            next(stream)
        assert isinstance(raised.value.body, dict)
        assert raised.value.body["rsd"]["text"] == "one\n\n"
        told = events(server.client.post("/v1/responses", json={"model": "rsd", "input": "Hi", "stream": True}))
        assert (told[-1]["type"], told[-1]["code"], told[-1]["sequence_number"]) == (
            "error",
            "model_failed",
            len(told) - 1,
        )


def test_chat_openai_reads_texts_thoughts_and_calls(served: str, bare: Decoder, thinking: Running) -> None:
    model = ChatOpenAI(
        model="rsd", base_url=f"{served}/v1", api_key="none", use_responses_api=True, extra_body={"seed": 5}
    )
    wanted = bare.run(ASKED[1], seed=5)
    assert model.invoke(ASKED[1]).text == wanted.text
    assert [str(chunk.text) for chunk in model.stream(ASKED[1]) if chunk.text] == [step.text for step in wanted.steps]
    thinker = ChatOpenAI(
        model="rsd",
        base_url=f"{thinking.url}/v1",
        api_key="none",
        use_responses_api=True,
        reasoning={"effort": None, "summary": "auto"},
    )
    whole = thinker.invoke("How many?")
    chunks = list(thinker.stream("How many?"))
    added = sum(chunks[1:], chunks[0])
    assert isinstance(added, AIMessageChunk)
    for message in (whole, added):
        thoughts = [block["reasoning"] for block in message.content_blocks if block["type"] == "reasoning"]
        assert "".join(thoughts).strip() == THOUGHT
        assert message.text == ANSWER
        assert message.usage_metadata is not None
    agent = ChatOpenAI(model="agent", base_url=f"{thinking.url}/v1", api_key="none", use_responses_api=True)
    bound = agent.bind_tools([{"type": "function", "function": {"name": "weather", "parameters": TOOL["parameters"]}}])
    history: list[Any] = [HumanMessage("Does it rain?")]
    called = bound.invoke(history)
    (call,) = called.tool_calls
    assert (call["name"], call["args"]) == ("weather", {"city": "Rome"})
    history += [called, {"role": "tool", "tool_call_id": call["id"], "content": "yes"}]
    assert bound.invoke(history).text == "It rains in Rome."


class TestStandardSuite(standard.TestModelsThatCallToolsAndFillForms):
    """LangChain's own tests again, through this API."""

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return super().chat_model_params | {"use_responses_api": True}
