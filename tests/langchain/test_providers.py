"""The provider of the tests answers LangChain's real classes as their own providers do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.langchain.providers import CHATS, KEY, LLMS, Call, Provider, Reply, echoes, goes_on, provider

ADD = {
    "title": "add",
    "description": "Adds.",
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
}
WITHOUT_STREAMS = {"ChatBedrockConverse"}


@pytest.fixture(scope="module")
def served() -> Iterator[Provider]:
    with provider() as running:
        yield running


@pytest.mark.parametrize("name", CHATS)
def test_chat_models_are_answered(name: str, served: Provider) -> None:
    model = CHATS[name](served)
    served.answers(Reply("Paris, I say.", read=7, wrote=4))
    for message in (model.invoke("The capital?"), asyncio.run(model.ainvoke("The capital?"))):
        assert message.text == "Paris, I say."
        assert message.usage_metadata is not None
        assert (message.usage_metadata["input_tokens"], message.usage_metadata["output_tokens"]) == (7, 4)
    assert served.asked[-1].messages[-1] == ("user", "The capital?")
    assert KEY not in repr(served.asked[-1].body)
    if name not in WITHOUT_STREAMS:
        assert "".join(str(chunk.text) for chunk in model.stream("The capital?")) == "Paris, I say."


@pytest.mark.parametrize("name", CHATS)
def test_chat_models_call_tools(name: str, served: Provider) -> None:
    served.answers(Reply(reason="tool_calls", calls=[Call("add", '{"a": 1, "b": 2}')]))
    message = CHATS[name](served).bind_tools([ADD]).invoke("1 + 2?")
    assert [(call["name"], call["args"]) for call in message.tool_calls] == [("add", {"a": 1, "b": 2})]
    assert "add" in repr(served.sent)


@pytest.mark.parametrize("name", LLMS)
def test_llms_are_answered(name: str, served: Provider) -> None:
    model = LLMS[name](served)
    served.answers("three\n\nfour")
    assert model.invoke("one two") == "three\n\nfour"
    assert "".join(model.stream("one two")) == "three\n\nfour"
    assert served.asked[-1].messages == [("user", "one two")]


@pytest.mark.parametrize("name", [*CHATS, *LLMS])
def test_errors_are_errors_of_the_class(name: str, served: Provider) -> None:
    model: Any = (CHATS | LLMS)[name](served)
    served.answers(Reply("a wrong key", status=401))
    with pytest.raises(Exception, match=r"401|wrong key"):
        model.invoke("x")
    assert len(served.asked) >= 1


@pytest.mark.parametrize("name", CHATS)
def test_a_cut_answer_says_so(name: str, served: Provider) -> None:
    served.answers(Reply("Par", reason="length"))
    told = repr(CHATS[name](served).invoke("x").response_metadata)
    assert any(word in told for word in ("length", "max_tokens", "MAX_TOKENS", "max_output_tokens"))


def test_answers_depend_on_the_beginning(served: Provider) -> None:
    begun = [("user", "Count."), ("assistant", "one two ")]
    served.answers_by(goes_on("one two three"))
    assert CHATS["ChatMistralAI"](served).invoke(begun).text == "three"
    served.answers_by(echoes(goes_on("one two three")))
    assert CHATS["ChatMistralAI"](served).invoke(begun).text == "one two three"
