"""The embedded models that think, through every LangChain face."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from rsd_core import Result
from rsd_integrations.langchain import RSDLLM, ChatRSD, RSDRunnable, result_of
from rsd_integrations.loaded_models import LoadedModels

MODELS = {"draft": "embedded:thinking-draft", "target": "embedded:thinking-target"}
PENS = "{name} has 20 pens. Then she buys 12 more. How many pens does {name} have now?"
QUESTION = PENS.format(name="Mia")


@pytest.fixture(scope="module")
def chat() -> ChatRSD:
    return ChatRSD(**MODELS, loaded=LoadedModels())


@pytest.fixture(scope="module")
def result(chat: ChatRSD) -> Result:
    return chat.make_decoder().run(QUESTION)


def test_they_think_and_answer(result: Result) -> None:
    assert "20+12" in result.thought
    assert result.answer == "32"
    assert result.raw_text == f"<think>\n{result.thought}\n</think>\n\n{result.text}"


def test_thoughts_are_reasoning_blocks(chat: ChatRSD, result: Result) -> None:
    first, *rest = chat.stream(QUESTION)
    for message in (chat.invoke(QUESTION), sum(rest, first)):
        assert message.content_blocks == [
            {"type": "reasoning", "reasoning": result.thought},
            {"type": "text", "text": result.text},
        ]
        assert message.content == result.text
        assert result_of(message).raw_text == result.raw_text
        details: Any = message.usage_metadata["output_token_details"]
        assert details["reasoning"] == sum(step.size for step in result.steps if step.kind == "thought") > 0
    chain = ChatPromptTemplate.from_template(PENS) | chat | StrOutputParser()
    assert chain.invoke({"name": "Mia"}) == result.text


def test_the_other_faces_give_the_same(chat: ChatRSD, result: Result) -> None:
    llm = RSDLLM(**MODELS, loaded=chat.loaded)
    (generation,) = llm.generate([QUESTION]).generations[0]
    assert (generation.text, (generation.generation_info or {})["reasoning_content"]) == (result.text, result.thought)
    assert "".join(llm.stream(QUESTION)) == result.text
    message = RSDRunnable(**MODELS, loaded=chat.loaded).invoke(QUESTION)
    assert (result_of(message).thought, message.text) == (result.thought, result.text)


def test_a_history_with_its_thoughts_is_read(chat: ChatRSD, result: Result) -> None:
    history: list[Any] = [("user", QUESTION), chat.invoke(QUESTION), ("user", PENS.format(name="Zoe"))]
    message = chat.invoke(history)
    assert message.text
    assert message.additional_kwargs["reasoning_content"]


def test_an_agent_streams_their_thoughts_as_reasoning(chat: ChatRSD, result: Result) -> None:
    agent: Any = create_agent(chat, [])
    question: Any = {"messages": [("user", QUESTION)]}
    parts = [part for part, _ in agent.stream(question, stream_mode="messages")]
    blocks = [block for part in parts for block in part.content_blocks]
    assert "".join(block.get("reasoning", "") for block in blocks) == result.thought
    assert "".join(str(part.text) for part in parts) == result.text
    assert all("think>" not in str(part.content) for part in parts)
    rejected = [step.discarded_draft for step in result.steps if step.discarded_draft]
    assert rejected
    assert not [draft for draft in rejected if draft.strip() in str(parts)]
    (reply,) = [message for message in agent.invoke(question)["messages"] if isinstance(message, AIMessage)]
    assert reply.text == result.text
