"""The embedded models that think, through every LangChain face."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import SecretStr

from rsd_core import ConfigurationError, Prompt, Result, TargetOnly
from rsd_integrations.langchain import RSDLLM, ChatRSD, LangChainDrafter, LangChainTarget, RSDRunnable, result_of
from rsd_integrations.loaded_models import LoadedModels
from tests.langchain.server import Server, serving

MODELS = {"draft": "embedded:thinking-draft", "target": "embedded:thinking-target"}
PENS = "{name} has 20 pens. Then she buys 12 more. How many pens does {name} have now?"
QUESTION = PENS.format(name="Mia")
HARD = (
    "Max has 35 kites. Next he finds 57. After that he loses 9. Later he gets 42 as a gift. Then he loses 31. After "
    "that he gets 52 as a gift. Then he loses 22. How many kites does Max have now?"
)
"""The drafter slips in its thought."""


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
        usage: Any = message.usage_metadata
        assert (
            usage["output_token_details"]["reasoning"]
            == sum(step.size for step in result.steps if step.kind == "thought")
            > 0
        )
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


def test_an_agent_streams_their_thoughts_as_reasoning(chat: ChatRSD) -> None:
    agent: Any = create_agent(chat, [])
    question: Any = {"messages": [("user", HARD)]}
    result = chat.make_decoder().run(HARD)
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


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Server, Server]]:
    with serving("thinking-draft") as cheap, serving("thinking-target") as strong:
        yield cheap, strong


def completing(kind: type[Any], server: Server) -> Any:
    def render(prompt: Prompt) -> str:
        messages = [{"role": message.role, "content": message.content} for message in prompt]
        return str(server.words.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    llm = OpenAI(model="m", base_url=server.url, api_key=SecretStr("none"), temperature=0)
    return kind(llm, prefix="completion", render=render, sends=["max_tokens"])


def test_completions_behind_a_server_give_what_they_give_in_process(
    chat: ChatRSD, result: Result, servers: tuple[Server, Server]
) -> None:
    draft, target = completing(LangChainDrafter, servers[0]), completing(LangChainTarget, servers[1])
    served = result_of(
        ChatRSD(draft=draft, target=target, verifier="embedded:verifier", loaded=chat.loaded).invoke(QUESTION)
    )
    assert (served.raw_text, served.thought, served.text) == (result.raw_text, result.thought, result.text)
    assert [(step.kind, step.author) for step in served.steps] == [(step.kind, step.author) for step in result.steps]


def test_a_chat_in_steps_says_that_it_cannot_go_on_from_a_thought(servers: tuple[Server, Server]) -> None:
    model = ChatOpenAI(model="m", base_url=servers[1].url, api_key=SecretStr("none"), use_responses_api=False)
    target = LangChainTarget(model, prefix="continue_final_message")
    with pytest.raises(ConfigurationError, match="enable_thinking"):
        TargetOnly(target=target).run(QUESTION)
