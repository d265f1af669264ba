"""Thoughts in LlamaIndex: blocks of messages, both ways, apart from every text."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest
from llama_index.core.agent.workflow import AgentStream, ReActAgent
from llama_index.core.base.llms.types import TextBlock, ThinkingBlock
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import ChatMessage, ChatResponse
from llama_index.core.memory import ChatMemoryBuffer
from pydantic import ValidationError

from rsd_core import TargetOnly
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_integrations.llamaindex import RSDLLM, RSDStepEvent, result_of
from tests.llamaindex.worlds import FACES, ask, text
from tests.thinkers import ANSWER, DRAFT, KNOWN, RAW, TARGET, THOUGHT, thinker

OPENED = pytest.mark.parametrize("opens", [False, True])


def thought(response: Any) -> str:
    """What a response tells of the thought so far."""
    if not isinstance(response, ChatResponse):
        return str(response.additional_kwargs.get("thinking", ""))
    return "".join(block.content or "" for block in response.message.blocks if isinstance(block, ThinkingBlock))


@OPENED
@pytest.mark.parametrize("face", FACES)
async def test_every_interface_gives_the_answer_with_a_separate_thought(face: str, opens: bool) -> None:
    responses = await ask(RSDLLM(decoder=thinker(opens=opens)), face)
    assert (text(responses[-1]), thought(responses[-1])) == (ANSWER, THOUGHT)
    result = result_of(responses[-1])
    assert (result.text, result.thought, result.raw_text) == (ANSWER, THOUGHT, RAW)
    assert "BAD" not in str(responses)
    if "stream" in face:
        assert "".join(response.delta or "" for response in responses) == ANSWER
        assert "".join(response.additional_kwargs.get("thinking_delta", "") for response in responses) == THOUGHT
        assert all(ANSWER.startswith(text(response)) for response in responses)
        assert all(THOUGHT.startswith(thought(response)) for response in responses)


@pytest.mark.parametrize("face", FACES)
async def test_stop_strings_end_the_answer_and_never_the_thought(face: str) -> None:
    last = (await ask(RSDLLM(decoder=thinker()), face, stop=["12"]))[-1]
    assert (text(last), thought(last)) == ("Two of ", THOUGHT)


def test_blocks_of_a_message_are_the_thought_and_the_text() -> None:
    message = RSDLLM(decoder=thinker()).chat([ChatMessage(role="user", content="q")]).message
    assert message.blocks == [ThinkingBlock(content=THOUGHT), TextBlock(text=ANSWER)]
    plain = RSDLLM(draft="scripted:draft", target="scripted:target", verifier="scripted:verifier")
    response = plain.chat([ChatMessage(role="user", content="q")])
    assert [block.block_type for block in response.message.blocks] == ["text"]
    assert "thinking" not in plain.complete("q").additional_kwargs


def test_thoughts_of_a_history_reach_the_models() -> None:
    message = RSDLLM(decoder=thinker()).chat([ChatMessage(role="user", content="q")]).message
    memory = ChatMemoryBuffer.from_defaults(token_limit=1000, tokenizer_fn=str.split)
    memory.set([ChatMessage(role="user", content="q"), message, ChatMessage(role="user", content="and?")])
    target = ScriptedTarget(["fine"])
    llm = RSDLLM(decoder=TargetOnly(target=target))
    llm.chat(memory.get())
    asked = target.calls[0].prompt[1]
    assert (asked.content, dict(asked.extra)) == (ANSWER, {"reasoning_content": THOUGHT})
    signed = [ThinkingBlock(content="hm", additional_information={"signature": "s"}), TextBlock(text="a")]
    llm.chat([ChatMessage(role="assistant", blocks=signed), ChatMessage(role="user", content="and?")])
    assert dict(target.calls[1].prompt[0].extra) == {"reasoning_content": "hm"}


def test_a_response_that_was_begun_in_its_thought_is_continued() -> None:
    llm = RSDLLM(decoder=TargetOnly(target=ScriptedTarget(["So ten.\n</think>\n\n", "Ten."])))
    begun = ChatMessage(role="assistant", blocks=[ThinkingBlock(content="12-2=10.")])
    message = llm.chat([ChatMessage(role="user", content="q"), begun]).message
    assert message.blocks == [ThinkingBlock(content="So ten."), TextBlock(text="Ten.")]


def test_step_events_tell_what_a_step_is_part_of() -> None:
    events: list[RSDStepEvent] = []

    class Handler(BaseEventHandler):
        def handle(self, event: Any, **_: Any) -> None:
            events.extend([event] if isinstance(event, RSDStepEvent) else [])

    handler = Handler()
    get_dispatcher().add_event_handler(handler)
    try:
        RSDLLM(decoder=thinker()).complete("q")
    finally:
        get_dispatcher().event_handlers.remove(handler)
    assert [event.kind for event in events] == ["thought", "thought", "thought", "answer", "answer"]
    assert "".join(event.text for event in events) == RAW


def test_an_agent_streams_thoughts_apart_from_its_answer() -> None:
    steps = ["<think>\nNo tool for that.\n</think>\n\n", "Thought: I know.\nAnswer: Ten."]
    agent = ReActAgent(tools=[], llm=RSDLLM(decoder=TargetOnly(target=ScriptedTarget(steps))))

    async def run() -> tuple[str, list[AgentStream]]:
        handler = agent.run("q")
        told = [event async for event in handler.stream_events() if isinstance(event, AgentStream)]
        return str(await handler), told

    answer, told = asyncio.run(run())
    assert answer == "Ten."
    assert "".join(event.thinking_delta or "" for event in told) == "No tool for that."
    assert "".join(event.delta for event in told) == steps[1]


def test_thoughts_may_have_models_and_a_policy_of_their_own() -> None:
    plain: Any = {
        "draft": ScriptedDrafter(DRAFT, thinking=KNOWN),
        "target": ScriptedTarget(TARGET, thinking=KNOWN),
        "verifier": ScriptedVerifier([0.9]),
    }
    own = {"target": ScriptedTarget(["<think>\nMine.\n</think>\n\n"], thinking=KNOWN), "policy": "constant:0"}
    llm = RSDLLM(**plain, thoughts=own)
    response = llm.complete("q")
    assert response.additional_kwargs["thinking"] == "Mine."
    assert [step.author for step in result_of(response).steps][:2] == ["target", "draft"]
    assert copy.deepcopy(llm).thoughts["target"] is own["target"]
    specs: Any = {"draft": "scripted:draft", "target": "scripted:target", "verifier": "scripted:verifier"}
    data = RSDLLM(**specs, thoughts={"draft": "scripted:target", "policy": "constant:0"}).model_dump(mode="json")
    assert data["thoughts"]["draft"] == "scripted:target"
    assert data["thoughts"]["policy"]["kind"] == "constant"
    for wrong, told in (
        ({"thoughts": {"writer": "scripted:draft"}}, "takes a dictionary of draft, target, verifier and policy"),
        ({"thoughts": {"draft": "nowhere:x"}}, "nowhere"),
        ({"thoughts": own, "decoder": "majority:4"}, "remove thoughts"),
    ):
        with pytest.raises(ValidationError, match=told):
            RSDLLM(**(specs | wrong))
