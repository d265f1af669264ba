"""Invalid calls: truncated, broken and empty ones never run, whatever way the message takes."""

import asyncio
import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.messages.utils import message_chunk_to_message
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tools import tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph

from rsd_core import Path, StepRequest, TargetOnly
from rsd_core.blocking import wait_for
from rsd_core.testing import ScriptedTarget
from rsd_integrations.langchain import ChatRSD, LangChainTarget, RSDMiddleware, RSDRunnable
from rsd_integrations.langchain.broken_calls import StreamedCalls, without_cut_call
from rsd_integrations.langchain.messages import as_prompt, as_text
from rsd_integrations.langchain.tools import call_chunks
from tests.benchmarks.agent_conversations import unanswered
from tests.langchain.fakes import Inner, always
from tests.langchain.providers import CHATS, Call, Provider, Reply, provider

pytestmark = [
    pytest.mark.filterwarnings("ignore:The method `BaseChatModel._achat_model_stream_v3` is in beta"),
    pytest.mark.filterwarnings("ignore:astream_events version='v1' is deprecated"),
]
PAID: list[tuple[int, str]] = []


@tool
def transfer_money(amount: int, account: str = "savings") -> str:
    """Send money to an account."""
    PAID.append((amount, account))
    return "sent"


@pytest.fixture(scope="module")
def served() -> Iterator[Provider]:
    with provider() as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_paid() -> None:
    PAID.clear()


def model(served: Provider, name: str = "ChatOpenAI", **options: Any) -> Any:
    return CHATS[name](served, **options)


def rsd(served: Provider, name: str = "ChatOpenAI", *, kind: Any = ChatRSD, inner: Any = None, **options: Any) -> Any:
    """RSD by turns whose drafts are accepted: the answer is the scripted reply."""
    draft = model(served, name, **(inner or {}))
    return kind(draft=draft, target=always("target"), verifier=lambda *_: 1.0, **options)


def merged(chunks: list[Any]) -> AIMessageChunk:
    whole: AIMessageChunk = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    return whole


async def _events(model: Any, version: Any) -> AIMessage:
    """The message of an event stream."""
    if version == "v3":
        stream = await model.astream_events("q", version="v3")
        async for _ in stream:
            pass
        message: AIMessage = await stream.output
        return message
    events = [event async for event in model.astream_events("q", version=version)]
    (last,) = [event["data"]["output"] for event in events if event["event"] == "on_chat_model_end"]
    message = last if isinstance(last, AIMessage) else last["generations"][0][0]["message"]
    assert (
        merged([event["data"]["chunk"] for event in events if event["event"] == "on_chat_model_stream"]).content
        is not None
    )
    return message


def _in_a_graph(model: Any) -> AIMessage:
    """What a node's stream of messages is, merged."""
    graph = StateGraph(MessagesState).add_node("model", lambda state: {"messages": [model.invoke(state["messages"])]})
    built = graph.add_edge(START, "model").add_edge("model", END).compile()
    parts = [part for part, _ in built.stream({"messages": [HumanMessage("q")]}, stream_mode="messages")]
    return merged(parts)


async def _astreamed(model: Any) -> AIMessage:
    return merged([chunk async for chunk in model.astream("q")])


WAYS: dict[str, Callable[[Any], Any]] = {
    "invoke": lambda model: model.invoke("q"),
    "ainvoke": lambda model: asyncio.run(model.ainvoke("q")),
    "batch": lambda model: model.batch(["q"])[0],
    "stream": lambda model: merged(list(model.stream("q"))),
    "astream": lambda model: asyncio.run(_astreamed(model)),
    "stream, converted": lambda model: message_chunk_to_message(merged(list(model.stream("q")))),
    "stream, added to another": lambda model: AIMessageChunk(content="") + merged(list(model.stream("q"))),
    "astream_events v1": lambda model: asyncio.run(_events(model, "v1")),
    "astream_events v2": lambda model: asyncio.run(_events(model, "v2")),
    "astream_events v3": lambda model: asyncio.run(_events(model, "v3")),
    "graph": _in_a_graph,
}


def calls_of(message: AIMessage) -> tuple[list[Any], list[Any]]:
    """Valid and invalid calls, as far as every way tells them."""
    valid = [(call["name"], call["args"], call["id"]) for call in message.tool_calls]
    broken = [(call["name"], (call["args"] or "").lstrip("\u00a0"), call["id"]) for call in message.invalid_tool_calls]
    return valid, broken


BROKEN = [
    '{"amount": 100',
    '{"amount": 100, "account": "sav',
    "{bad",
    '{"amount": 1,}',
    "not json",
    "{",
    '{"a": [1, {"b": "',
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("text", ["", "I pay."], ids=["alone", "after a text"])
def test_what_the_inner_model_calls_invalid_stays_invalid(served: Provider, way: str, text: str) -> None:
    for arguments in BROKEN:
        whole = Call("transfer_money", '{"amount": 5}', "call_0")
        served.answers(Reply(text, reason="tool_calls", calls=(whole, Call("transfer_money", arguments))))
        alone = model(served).invoke("q")
        message = WAYS[way](rsd(served))
        assert calls_of(message) == calls_of(alone)
        assert calls_of(message)[1] == [("transfer_money", arguments, "call_1")]
        assert message.text == text


@pytest.mark.parametrize("version", ["v0", "v1"])
@pytest.mark.parametrize("name", ["ChatOpenAI, Responses", "ChatMistralAI", "ChatDeepSeek"])
def test_other_classes_invalid_calls_stay_invalid_too(served: Provider, name: str, version: str) -> None:
    whole = Call("transfer_money", '{"amount": 5}', "call_0")
    served.answers(Reply("I pay.", reason="length", calls=(whole, Call("transfer_money", '{"amount": 100'))))
    alone = model(served, name, output_version=version).invoke("q")
    assert len(alone.invalid_tool_calls) == 1
    for way in ("invoke", "stream", "stream, converted", "astream_events v2", "graph"):
        message = WAYS[way](rsd(served, name, inner={"output_version": version}))
        assert calls_of(message) == calls_of(alone)
        assert message.text == "I pay."


def test_an_invoked_message_has_the_very_calls_of_the_inner_one(served: Provider) -> None:
    served.answers(Reply(reason="tool_calls", calls=(Call("transfer_money", '{"amount": 100'),)))
    alone = model(served).invoke("q")
    for kind in (ChatRSD, RSDRunnable):
        message = rsd(served, kind=kind).invoke("q")
        assert message.invalid_tool_calls == alone.invalid_tool_calls
        assert "not valid JSON" in message.invalid_tool_calls[0]["error"]
        assert not message.tool_calls


class Whole(Inner):
    """Gives its message as it is, in no chunks."""

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self.answer)])

    async def _agenerate(self, *_: Any, **__: Any) -> ChatResult:
        return self._generate()


def invalid(arguments: Any, name: str | None = "transfer_money") -> AIMessage:
    broken: Any = {"name": name, "args": arguments, "id": "call_1", "error": "no", "type": "invalid_tool_call"}
    return AIMessage("", invalid_tool_calls=[broken])


@pytest.mark.parametrize("arguments", [None, "", "[1, 2]", "5", "null", '"text"', '{"amount": 1}', "{}", " "], ids=repr)
@pytest.mark.parametrize("way", ["invoke", "stream", "astream", "astream_events v2", "astream_events v3", "graph"])
def test_whatever_is_called_invalid_never_becomes_a_call(arguments: Any, way: str) -> None:
    message = WAYS[way](
        ChatRSD(draft=Whole(answer=invalid(arguments)), target=always("target"), verifier=lambda *_: 1.0)
    )
    assert message.tool_calls == []
    assert calls_of(message)[1] == [("transfer_money", arguments or "", "call_1")]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.text(), json_values, max_size=4), st.data())
def test_no_prefix_of_a_calls_arguments_is_completed_in_merged_chunks(
    args: dict[str, Any], data: st.DataObject
) -> None:
    whole = json.dumps(args, ensure_ascii=data.draw(st.booleans()))
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    message = invalid(cut)
    message.tool_calls.append({"name": "pay", "args": args, "id": "call_0", "type": "tool_call"})
    calls, broken = call_chunks(message)
    chunk = AIMessageChunk(content="", tool_call_chunks=calls + broken)
    for one in (
        chunk,
        chunk + AIMessageChunk(content="", chunk_position="last"),
        AIMessageChunk(content="a") + chunk + AIMessageChunk(content="", response_metadata={"output_version": "v1"}),
        AIMessageChunk.model_validate_json(chunk.model_dump_json()) + AIMessageChunk(content=""),
    ):
        assert calls_of(one) == ([("pay", args, "call_0")], [("transfer_money", cut, "call_1")])
        assert calls_of(message_chunk_to_message(one)) == calls_of(one)  # type: ignore[arg-type]


def test_every_cut_of_a_call_is_as_the_inner_model_reads_it_and_none_runs(served: Provider) -> None:
    whole = '{"amount": 100, "account": "savings \\"x\\""}'
    for end in range(1, len(whole)):
        served.answers(Reply(reason="length", calls=(Call("transfer_money", whole[:end]),)))
        alone = model(served).invoke("q")
        for way in ("invoke", "stream"):
            assert (
                calls_of(WAYS[way](rsd(served))) == calls_of(alone) == ([], [("transfer_money", whole[:end], "call_1")])
            )


# Where the inner model's class completes a call itself


@pytest.mark.parametrize(
    ("name", "inner"),
    [("ChatOpenAI", {"streaming": True}), ("ChatAnthropic", {}), ("ChatAnthropic", {"streaming": True})],
    ids=["OpenAI, streaming", "Anthropic", "Anthropic, streaming"],
)
@pytest.mark.parametrize("way", ["invoke", "stream", "ainvoke", "graph", "astream_events v3"])
def test_the_last_call_of_a_reply_that_used_up_its_tokens_is_invalid(
    served: Provider, name: str, inner: dict[str, Any], way: str
) -> None:
    arguments = '{"amount": 100' if inner else '{"amount": 100}'  # an API whose calls are objects sends what it has
    served.answers(Reply("I pay.", reason="length", calls=(Call("transfer_money", arguments),)))
    message = WAYS[way](rsd(served, name, inner=inner).bind_tools([transfer_money]))
    assert message.tool_calls == []
    assert calls_of(message)[1] == [("transfer_money", arguments, "call_1")]
    assert "tool_use" not in str(message.content)


@pytest.mark.parametrize("trace_inner", [False, True])
@pytest.mark.parametrize("version", ["v0", "v1"])
@pytest.mark.parametrize("name", ["ChatOpenAI", "ChatOpenAI, Responses", "ChatMistralAI", "ChatAnthropic"])
@pytest.mark.parametrize("way", ["invoke", "graph"])
def test_what_a_class_that_streams_completes_is_as_it_was_written(
    served: Provider, name: str, version: str, trace_inner: bool, way: str
) -> None:
    for arguments in ('{"amount": 100', "{bad", '{"amount": 1, "amount": '):
        whole = Call("transfer_money", '{"amount": 5}', "call_0")
        served.answers(Reply("I pay.", reason="tool_calls", calls=(whole, Call("transfer_money", arguments))))
        streams = {"streaming": True, "output_version": version}
        answers = rsd(served, name, inner=streams, trace_inner=trace_inner).bind_tools([transfer_money])
        message = WAYS[way](answers)
        broken = ("transfer_money", arguments, "call_1")
        assert calls_of(message) == ([("transfer_money", {"amount": 5}, "call_0")], [broken])
        assert "call_1" not in str(message.content)


@pytest.mark.parametrize("way", ["astream_events v3", "graph"])
def test_an_event_stream_that_sees_inner_calls_completes_none_of_them(served: Provider, way: str) -> None:
    served.answers(Reply(reason="tool_calls", calls=(Call("transfer_money", "{bad"),)))
    message = WAYS[way](rsd(served, trace_inner=True))
    assert calls_of(message) == ([], [("transfer_money", "{bad", "call_1")])


@pytest.mark.parametrize("name", ["ChatOpenAI", "ChatAnthropic", "ChatGoogleGenerativeAI"])
def test_a_call_cut_by_a_filter_is_not_a_call(served: Provider, name: str) -> None:
    served.answers(Reply("I pay.", reason="filter", calls=(Call("transfer_money", '{"amount": 100}'),)))
    message = rsd(served, name).invoke("q")
    assert message.tool_calls == []
    assert [call["name"] for call in message.invalid_tool_calls] == ["transfer_money"]


def test_calls_before_the_one_that_was_cut_are_calls(served: Provider) -> None:
    first = Call("transfer_money", '{"amount": 5}', "call_0")
    served.answers(Reply(reason="length", calls=(first, Call("transfer_money", '{"amount": 100'))))
    message = rsd(served).invoke("q")
    assert [call["id"] for call in message.tool_calls] == ["call_0"]
    assert [call["id"] for call in message.invalid_tool_calls] == ["call_1"]


def test_a_text_after_the_last_call_was_cut_and_not_the_call() -> None:
    call: Any = {"name": "pay", "args": {"a": 1}, "id": "call_1", "type": "tool_call"}
    used = {"type": "tool_use", "id": "call_1", "name": "pay", "input": {"a": 1}}
    cut = {"stop_reason": "max_tokens"}
    after = AIMessage([used, {"type": "text", "text": "I pai"}], tool_calls=[call], response_metadata=cut)
    assert without_cut_call(after) is after
    last = without_cut_call(
        AIMessage([{"type": "text", "text": "I pay"}, used], tool_calls=[call], response_metadata=cut)
    )
    assert (last.tool_calls, len(last.invalid_tool_calls), len(last.content)) == ([], 1, 1)


# Agents


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("trace_inner", [False, True])
def test_an_agent_does_not_run_a_call_that_was_cut(
    served: Provider, asynchronous: bool, streamed: bool, trace_inner: bool
) -> None:
    agent: Any = create_agent(rsd(served, trace_inner=trace_inner), [transfer_money], checkpointer=InMemorySaver())
    question: Any = {"messages": [HumanMessage("Send 1000 to savings.")]}

    async def stream(config: Any) -> None:
        async for _ in agent.astream(question, config, stream_mode="messages"):
            pass

    for n, arguments in enumerate(['{"amount": 100', "{bad"]):
        config: Any = {"configurable": {"thread_id": str(n)}}
        served.answers(Reply(reason="length", calls=(Call("transfer_money", arguments),)))
        if streamed:
            asyncio.run(stream(config)) if asynchronous else list(
                agent.stream(question, config, stream_mode="messages")
            )
        else:
            asyncio.run(agent.ainvoke(question, config)) if asynchronous else agent.invoke(question, config)
        last = agent.get_state(config).values["messages"][-1]
        assert isinstance(last, AIMessage)
        assert len(last.invalid_tool_calls) == 1
        assert last.tool_calls == []
    assert PAID == []
    served.answers(Reply(reason="tool_calls", calls=(Call("transfer_money", '{"amount": 7}'),)), "done")
    agent.invoke(question, {"configurable": {"thread_id": "whole"}})
    assert PAID == [(7, "savings")]


# Steps: calls in a text


class SeesTools(ScriptedTarget):
    renders_tools = True


def in_steps(*steps: str) -> Any:
    return ChatRSD(decoder=TargetOnly(target=SeesTools(list(steps)))).bind_tools([transfer_money])


TEXTS = [
    '<tool_call>\n{"name": "transfer_money", "arguments": {"amount": 100',
    '<tool_call>\n{"name": "transfer_money", "arguments": "{\\"amount\\": 100"}\n</tool_call>',
    '<tool_call>\n{"name": "transfer_money", "arguments": [100]}\n</tool_call>',
    '<tool_call>\n{"name": "transfer_money", "arguments": 0}\n</tool_call>',
    '<tool_call>\n{"name": "transfer_money", "arguments": false}\n</tool_call>',
    '<tool_call>\n{"name": "transfer_money", "arguments": []}\n</tool_call>',
    "<tool_call>\n{bad}\n</tool_call>",
]


@pytest.mark.parametrize("way", WAYS)
def test_calls_in_a_text_that_are_cut_or_broken_are_invalid(way: str) -> None:
    for text in TEXTS:
        message = WAYS[way](in_steps("I pay.\n\n", text))
        assert message.tool_calls == []
        assert [call["args"] for call in message.invalid_tool_calls] == [text]


# Histories


def history(*messages: BaseMessage) -> list[tuple[str, str, Any]]:
    return [(message.role, message.content, dict(message.extra).get("tool_calls")) for message in as_prompt(messages)]


def test_a_failed_call_of_a_history_is_shown_as_it_was_written() -> None:
    failed = invalid('\u00a0{"amount": 100')
    failed.content = "I pay."
    written = 'I pay.\n<tool_call>\n{"name": "transfer_money", "arguments": {"amount": 100\n</tool_call>'
    assert history(HumanMessage("q"), failed) == [("user", "q", None), ("assistant", written, None)]
    assert as_text(failed) == written
    raw = invalid('<tool_call>{"name', name=None)
    assert history(raw) == [("assistant", '<tool_call>{"name', None)]


def test_a_failed_call_that_was_answered_is_a_call_of_the_history() -> None:
    said, answer = as_prompt([invalid('{"amount": 100'), ToolMessage("no JSON", tool_call_id="call_1")])
    (call,) = said.extra["tool_calls"]
    assert (said.content, call["id"], call["function"]["arguments"]) == ("", "call_1", '{"amount": 100')
    assert answer.extra["tool_call_id"] == "call_1"


def test_a_targets_broken_call_is_reported_and_not_lost(served: Provider) -> None:
    served.answers(Reply(reason="length", calls=(Call("transfer_money", '{"amount": 100'),)))
    target = LangChainTarget(model(served))
    generation = wait_for(target.generate(Path(as_prompt([HumanMessage("q")])), StepRequest((0,), delimiter=None)))
    assert "transfer_money" in generation.steps[0].text
    assert generation.steps[0].ending == "length"


@pytest.mark.parametrize("name", CHATS)
def test_a_conversation_goes_on_after_a_call_that_was_cut(served: Provider, name: str) -> None:
    whole: Any = {"name": "transfer_money", "args": {"amount": 5}, "id": "call_0", "type": "tool_call"}
    text: Any = {"type": "text", "text": "I pay."}
    used: Any = [{"type": "tool_use", "id": f"call_{i}", "name": "transfer_money", "input": {}} for i in range(2)]
    raw: Any = {"tool_calls": [{"id": "call_1", "function": {"name": "transfer_money", "arguments": "{bad"}}]}
    for content, kwargs in (("I pay.", raw), ("", {}), ([text, *used], {})):
        failed = invalid("{bad")
        failed.content, failed.additional_kwargs, failed.tool_calls = content, kwargs, [whole]
        asked = [HumanMessage("q"), failed, ToolMessage("sent", tool_call_id="call_0"), HumanMessage("go on")]
        served.answers("fine")
        for kind in (ChatRSD, RSDRunnable):
            rsd(served, name, kind=kind).invoke(asked, tools=[convert_to_openai_tool(transfer_money)])
            sent = json.dumps(served.sent)
            assert "call_1" not in sent
            assert "{bad" in sent or name == "ChatMistralAI"  # whose class sends no text with calls
            assert json.dumps(5) in sent  # the call that was answered is one still
        assert failed.invalid_tool_calls[0]["id"] == "call_1"


def test_an_agent_goes_on_after_one_of_several_calls_was_broken(served: Provider) -> None:
    calls = (Call("transfer_money", '{"amount": 5}', "call_0"), Call("transfer_money", "{bad"))
    question: Any = {"messages": [HumanMessage("Pay twice.")]}
    target = model(served, "ChatAnthropic")
    for agent in (
        create_agent(rsd(served), [transfer_money]),
        create_agent(target, [transfer_money], middleware=[RSDMiddleware(model(served), policy="always_draft")]),
        create_agent(model(served), [transfer_money], middleware=[RSDMiddleware(target, policy="always_target")]),
    ):
        served.answers(Reply("I pay.", reason="tool_calls", calls=calls), "done")
        assert cast("Any", agent).invoke(question)["messages"][-1].text == "done"
        assert unanswered(served.sent["messages"]) == 0


def test_streamed_calls_are_watched_where_a_server_gives_no_ids() -> None:
    watch, run = StreamedCalls(), uuid.uuid4()
    parts = [("pay", '{"amount": ', 0), (None, "100", 0), ("look", '{"at": 1}', 1), ("pay", '{"amount": 2}', 2)]
    chunks = [
        AIMessageChunk(content="", tool_call_chunks=[tool_call_chunk(name=name, args=args, id=None, index=index)])
        for name, args, index in parts
    ]
    for chunk in chunks:
        watch.on_llm_new_token("", chunk=ChatGenerationChunk(message=chunk), run_id=run)
    whole = message_chunk_to_message(chunks[0] + chunks[1] + chunks[2] + chunks[3])
    assert isinstance(whole, AIMessage)
    assert [call["name"] for call in whole.tool_calls] == ["pay", "look", "pay"]  # completed by LangChain
    read = watch.without_unreadable_calls(whole)
    assert [(call["name"], call["args"]) for call in read.tool_calls] == [("look", {"at": 1})]
    # Which of the two was broken, nothing tells.
    assert [(call["name"], call["args"]) for call in read.invalid_tool_calls] == [("pay", '{"amount": 100')] * 2
