"""Thoughts in steps: reasoning blocks of chat models, `generation_info` of the LLM, and nothing that was rejected."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from pydantic import ValidationError

from rsd_core import RewardGuidedDecoder, Settings, TargetOnly
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_integrations.langchain import RSDLLM, ChatRSD, RSDRunnable, result_of
from tests.thinkers import ANSWER, DRAFT, KNOWN, RAW, TARGET, THOUGHT, Shown, ShownTarget, agents_steps, thinker

OPENED = pytest.mark.parametrize("opens", [False, True])
VERSIONS = pytest.mark.parametrize("version", ["v0", "v1"])


def merged(chunks: list[Any]) -> AIMessageChunk:
    whole: AIMessageChunk = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    return whole


def blocks(message: BaseMessage) -> list[tuple[str, str]]:
    """The blocks of a message as pairs of type and text."""
    return [(block["type"], str(block.get(block["type"]))) for block in message.content_blocks]


BLOCKS = [("reasoning", THOUGHT), ("text", ANSWER)]


@OPENED
@VERSIONS
def test_thoughts_are_reasoning_blocks_on_every_face_and_no_part_of_the_text(opens: bool, version: str) -> None:
    model = ChatRSD(decoder=thinker(opens=opens), output_version=version)

    async def asynchronously() -> list[BaseMessage]:
        streamed = [chunk async for chunk in model.astream("q")]
        return [await model.ainvoke("q"), *(await model.abatch(["q", "r"])), merged(streamed)]

    messages: list[Any] = [model.invoke("q"), *model.batch(["q", "r"]), merged(list(model.stream("q")))]
    for message in messages + asyncio.run(asynchronously()):
        assert blocks(message) == BLOCKS
        assert message.text == ANSWER
        if version == "v0":
            assert message.content == ANSWER
            assert message.additional_kwargs["reasoning_content"] == THOUGHT
    assert (model | StrOutputParser()).invoke("q") == ANSWER


@VERSIONS
def test_a_stream_tells_each_step_by_the_kind_of_its_text(version: str) -> None:
    chunks: list[Any] = list(ChatRSD(decoder=thinker(), output_version=version).stream("q"))
    kinds = [[block["type"] for block in chunk.content_blocks] for chunk in chunks]
    assert [kind for kind in kinds if kind] == [["reasoning"], ["reasoning"], ["reasoning"], ["text"], ["text"]]
    assert "".join(str(chunk.text) for chunk in chunks) == ANSWER
    told = [step for chunk in chunks for step in chunk.additional_kwargs.get("rsd_steps", ())]
    assert [(step["kind"], step["author"]) for step in told] == [
        ("thought", "draft"),
        ("thought", "target"),
        ("thought", "draft"),
        ("answer", "target"),
        ("answer", "draft"),
    ]


def test_a_step_that_ends_a_thought_and_begins_the_answer_is_reported_in_two_chunks() -> None:
    whole = "<think>\nHm.\n</think>\n\nTen."
    model = ChatRSD(decoder=TargetOnly(target=ScriptedTarget([whole]), settings=Settings(max_step_tokens=100)))
    chunks: list[Any] = list(model.stream("q"))
    assert [(chunk.text, chunk.additional_kwargs.get("reasoning_content")) for chunk in chunks][:2] == [
        ("", "Hm."),
        ("Ten.", None),
    ]
    stream = model.stream_events("q", version="v3")
    assert "".join(stream.reasoning) == "Hm."
    assert blocks(stream.output) == [("reasoning", "Hm."), ("text", "Ten.")]


@OPENED
def test_events_of_version_3_tell_reasoning_and_text_apart(opens: bool) -> None:
    model = ChatRSD(decoder=thinker(opens=opens))
    stream = model.stream_events("q", version="v3")
    assert "".join(stream.reasoning) == THOUGHT
    assert "".join(stream.text) == ANSWER
    assert blocks(stream.output) == BLOCKS
    assert result_of(stream.output).raw_text == RAW


def test_the_tokens_of_the_thought_are_reported() -> None:
    message = ChatRSD(decoder=thinker()).invoke("q")
    steps = result_of(message).steps
    usage: Any = message.usage_metadata
    assert usage["output_token_details"]["reasoning"] == sum(step.size for step in steps if step.kind == "thought") > 0
    assert merged(list(ChatRSD(decoder=thinker()).stream("q"))).usage_metadata == usage
    plain = ChatRSD(draft="scripted:draft", target="scripted:target", verifier="scripted:verifier").invoke("q")
    assert dict(plain.usage_metadata or {})["output_token_details"]["reasoning"] == 0  # type: ignore[index]
    both = TargetOnly(target=ScriptedTarget(["<think>\nabcd\n</think>\n\nabcd"]))
    counted: Any = ChatRSD(decoder=both).invoke("q").usage_metadata
    assert counted["output_tokens"] == 5
    assert counted["output_token_details"]["reasoning"] == 2


@pytest.mark.parametrize("stop", ["STOP", "12", "taken.\n\nThe"])
def test_stop_strings_end_the_answer_and_never_the_thought(stop: str) -> None:
    wanted = ANSWER.partition(stop)[0]
    for message in (
        ChatRSD(decoder=thinker()).invoke("q", stop=[stop]),
        merged(list(ChatRSD(decoder=thinker(), stop=[stop]).stream("q"))),
    ):
        assert message.text == wanted
        assert message.additional_kwargs["reasoning_content"] == THOUGHT
    llm = RSDLLM(decoder=thinker())
    assert llm.invoke("q", stop=[stop]) == wanted
    assert "".join(llm.stream("q", stop=[stop])) == wanted


@OPENED
def test_the_llm_gives_the_answer_with_a_separate_thought(opens: bool) -> None:
    llm = RSDLLM(decoder=thinker(opens=opens))
    assert llm.invoke("q") == ANSWER
    assert asyncio.run(llm.abatch(["q", "r"])) == [ANSWER, ANSWER]
    (generation,) = llm.generate(["q"]).generations[0]
    info: Any = generation.generation_info
    assert (generation.text, info["reasoning_content"], info["rsd"]["raw_text"]) == (ANSWER, THOUGHT, RAW)
    chunks = list(llm._stream("q"))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    told: Any = whole.generation_info
    assert (whole.text, told["reasoning_content"]) == (ANSWER, THOUGHT)
    assert [chunk.text for chunk in chunks[:3]] == ["", "", ""]
    assert "".join(llm.stream("q")) == ANSWER
    plain = RSDLLM(draft="scripted:draft", target="scripted:target", verifier="scripted:verifier").generate(["q"])
    assert "reasoning_content" not in (plain.generations[0][0].generation_info or {})


def test_the_runnable_gives_the_whole_result() -> None:
    message = RSDRunnable(decoder=thinker()).invoke("q")
    result = result_of(message)
    assert (result.text, result.thought, result.raw_text, result.answer) == (ANSWER, THOUGHT, RAW, "10")
    assert blocks(message) == BLOCKS


def test_a_response_that_ends_in_its_thought_has_no_answer() -> None:
    decoder = TargetOnly(target=ScriptedTarget(["<think>\none two\n\n", "three four"]), settings=Settings())
    message = ChatRSD(decoder=decoder, max_tokens=3).invoke("q")
    assert blocks(message) == [("reasoning", "one two")]
    assert message.text == ""
    assert message.response_metadata["finish_reason"] == "length"
    assert "no_answer" in [one.kind for one in result_of(message).degradations]


HISTORY = [HumanMessage("q"), AIMessage("a", additional_kwargs={"reasoning_content": "hm"}), HumanMessage("and?")]


@pytest.mark.parametrize(
    "message",
    [
        HISTORY[1],
        AIMessage(content_blocks=[{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "a"}]),
        AIMessage([{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "a"}]),
        AIMessage(
            [{"type": "thinking", "thinking": [{"type": "text", "text": "h"}, {"type": "text", "text": "m"}]}, "a"]
        ),
        AIMessage([{"type": "reasoning_content", "reasoning_content": {"text": "hm"}}, {"type": "text", "text": "a"}]),
        AIMessage(
            [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}, {"type": "text", "text": "a"}]
        ),
        AIMessage([{"type": "redacted_thinking", "data": "x"}, {"type": "thinking", "thinking": "hm"}, "a"]),
    ],
)
def test_thoughts_of_a_history_reach_the_models(message: AIMessage) -> None:
    target = ScriptedTarget(["fine"])
    ChatRSD(decoder=TargetOnly(target=target)).invoke([HISTORY[0], message, HISTORY[2]])
    asked = target.calls[0].prompt[1]
    assert (asked.content, dict(asked.extra)) == ("a", {"reasoning_content": "hm"})
    RSDLLM(decoder=TargetOnly(target=target)).invoke([HISTORY[0], message, HISTORY[2]])
    assert target.calls[1].prompt == target.calls[0].prompt
    assert target.calls[1].prompt[1].extra == asked.extra


@VERSIONS
def test_messages_go_out_and_come_in_again(version: str) -> None:
    message = ChatRSD(decoder=thinker(), output_version=version).invoke("q")
    target = ScriptedTarget(["fine"])
    ChatRSD(decoder=TargetOnly(target=target)).invoke(["q", message, HumanMessage("and?")])
    asked = target.calls[0].prompt[1]
    assert (asked.content, dict(asked.extra)) == (ANSWER, {"reasoning_content": THOUGHT})


def test_a_response_that_was_begun_in_its_thought_is_continued() -> None:
    target = ScriptedTarget(["So ten.\n</think>\n\n", "Ten."])
    begun = AIMessage("", additional_kwargs={"reasoning_content": "12-2=10."})
    message = ChatRSD(decoder=TargetOnly(target=target)).invoke([HumanMessage("q"), begun])
    assert blocks(message) == [("reasoning", "So ten."), ("text", "Ten.")]


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"It rains in {city}."


def agent_model() -> ChatRSD:
    decoder = RewardGuidedDecoder(
        drafter=Shown(agents_steps(mistake=True)),
        verifier=ScriptedVerifier(lambda _path, step: 0.1 if "BAD" in step.text else 0.9),
        target=ShownTarget(agents_steps(mistake=False)),
    )
    return ChatRSD(decoder=decoder)


def test_a_turn_with_a_tool_call_keeps_its_thought() -> None:
    message = agent_model().bind_tools([weather]).invoke("Rain in Rome?")
    assert [(call["name"], call["args"]) for call in message.tool_calls] == [("weather", {"city": "Rome"})]
    assert [block["type"] for block in message.content_blocks] == ["reasoning", "tool_call"]
    target = ScriptedTarget(["fine"])
    called = str(message.tool_calls[0]["id"])
    ChatRSD(decoder=TargetOnly(target=target)).invoke(["q", message, ToolMessage("It rains.", tool_call_id=called)])
    extra: Any = target.calls[0].prompt[1].extra
    assert extra["reasoning_content"] == "I must ask .\n\nIn Rome."
    assert extra["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "Rome"}}


@VERSIONS
@pytest.mark.parametrize("before", ["", "Let me see. "])
def test_thoughts_text_and_calls_of_a_stream_stay_apart(version: str, before: str) -> None:
    calls = "".join(
        f'<tool_call>\n{{"name": "weather", "arguments": {{"city": "{city}"}}}}\n</tool_call>\n\n'
        for city in ("Rome", "Oslo")
    )
    steps = ["<think>\nI must ask.\n</think>\n\n", f"{before}{calls}Wait."]
    model = ChatRSD(decoder=TargetOnly(target=ShownTarget(steps)), output_version=version).bind_tools([weather])
    stream: Any = model.stream_events("q", version="v3")
    for message in (model.invoke("q"), merged(list(model.stream("q"))), stream.output):
        assert [call["args"] for call in message.tool_calls] == [{"city": "Rome"}, {"city": "Oslo"}]
        assert message.text == before.rstrip() + "Wait."
        kinds = [block["type"] for block in message.content_blocks]
        assert sorted(kinds) == ["reasoning", *["text"] * kinds.count("text"), "tool_call", "tool_call"]
        assert [block.get("reasoning") for block in message.content_blocks if block["type"] == "reasoning"] == [
            "I must ask."
        ]


def agents() -> dict[str, Any]:
    model = agent_model()
    bound = model.bind_tools([weather])
    graph = StateGraph(MessagesState)
    graph.add_node("model", lambda state: {"messages": [bound.invoke(state["messages"])]})
    graph.add_node("tools", ToolNode([weather]))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition, {"tools": "tools", END: END})
    graph.add_edge("tools", "model")
    return {"agent": create_agent(model, [weather]), "graph": graph.compile()}


@pytest.mark.parametrize("name", ["agent", "graph"])
def test_an_agent_over_thinking_models_streams_their_thoughts_as_reasoning(name: str) -> None:
    agent = agents()[name]
    question: Any = {"messages": [HumanMessage("Rain in Rome?")]}
    parts = [part for part, _ in agent.stream(question, stream_mode="messages")]
    state = agent.invoke(question)
    replies = [message for message in state["messages"] if isinstance(message, AIMessage)]
    assert [message.additional_kwargs["reasoning_content"] for message in replies] == [
        "I must ask .\n\nIn Rome.",
        "I know the rain .\n\nDone.",
    ]
    assert [message.content for message in replies] == ["", "It rains in Rome."]
    said = [part for part in parts if isinstance(part, AIMessageChunk)]
    thought = "".join(
        block["reasoning"] for part in said for block in part.content_blocks if block["type"] == "reasoning"
    )
    assert thought == "I must ask .\n\nIn Rome.I know the rain .\n\nDone."
    assert "".join(str(part.text) for part in said) == "It rains in Rome."
    assert all(isinstance(part.content, str) and "think" not in part.content for part in said)
    assert "BAD" not in str(parts)
    assert "BAD" not in str(state)


def test_no_rejected_thought_gets_into_any_stream() -> None:
    chain = RunnableLambda(lambda x: x) | ChatRSD(decoder=thinker())

    async def events() -> str:
        return str([event async for event in chain.astream_events("q", version="v2")])

    assert "BAD" not in asyncio.run(events())
    assert "BAD" not in str(list(chain.stream("q")))
    stream: Any = ChatRSD(decoder=thinker()).stream_events("q", version="v3")
    assert "BAD" not in str(list(stream))
    assert "BAD" not in str(list(RSDLLM(decoder=thinker())._stream("q")))
    assert "BAD" in str(ChatRSD(decoder=thinker(), trace_inner=True).invoke("q"))


def test_thoughts_with_custom_markers() -> None:
    settings = Settings.model_validate({"thoughts": {"markers": {"name": "mine", "open": "<hm>", "close": "</hm>"}}})
    steps = ["<hm>Two.\n\n", "Ten.</hm>", "Ten."]
    decoder = RewardGuidedDecoder(
        drafter=ScriptedDrafter(steps),
        verifier=ScriptedVerifier([0.9]),
        target=ScriptedTarget(steps),
        settings=settings,
    )
    assert blocks(ChatRSD(decoder=decoder).invoke("q")) == [("reasoning", "Two.\n\nTen."), ("text", "Ten.")]


def test_thoughts_may_have_models_and_a_policy_of_their_own() -> None:
    spare = ScriptedTarget(["<think>\nMine.\n</think>\n\n"], thinking=KNOWN)
    own: Any = {"target": spare, "policy": "constant:0"}
    plain = {
        "draft": ScriptedDrafter(DRAFT, thinking=KNOWN),
        "target": ScriptedTarget(TARGET, thinking=KNOWN),
        "verifier": ScriptedVerifier([0.9]),
    }
    for model in (ChatRSD(**plain, thoughts=own), RSDRunnable(**plain, thoughts=own)):
        message = model.invoke("q")
        assert message.additional_kwargs["reasoning_content"] == "Mine."
        assert [step.author for step in result_of(message).steps][:2] == ["target", "draft"]
    assert RSDLLM(**plain, thoughts=own).invoke("q") != ""
    shared = copy.deepcopy(ChatRSD(**plain, thoughts=own))
    assert shared.thoughts["target"] is spare
    same = {"draft": "scripted:draft", "target": "scripted:target", "verifier": "scripted:verifier"}
    keys = [
        ChatRSD(**same, thoughts=one).identity() for one in ({}, {"policy": "constant:0"}, {"draft": "scripted:target"})
    ]
    assert len({str(key) for key in keys}) == 3
    for wrong, told in (
        (
            {"thoughts": {"writer": "scripted:draft"}},
            "takes a dictionary of draft, target, verifier, policy.*no writer",
        ),
        ({"thoughts": {"draft": "nowhere:x"}}, "nowhere"),
        ({"thoughts": own, "granularity": "turn"}, "one piece"),
        ({"thoughts": own, "decoder": "majority:4"}, "remove thoughts"),
        ({"thoughts": "x"}, "takes a dictionary"),
    ):
        with pytest.raises(ValidationError, match=told):
            ChatRSD(**(same | wrong))
    with pytest.raises(ValidationError, match="remove thoughts"):
        ChatRSD(decoder=thinker(), thoughts=own)
