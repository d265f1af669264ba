"""A drafter or a judge that cannot work is reported at its first call, once, with its class and the error."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rsd_core import RoleWarning
from rsd_integrations.langchain import RSDLLM, ChatRSD, LangChainDrafter, LangChainTarget, RSDRunnable
from tests.langchain.fakes import always, good
from tests.langchain.providers import CHATS, KEY, LLMS, Provider, Reply, chat_mistral, chat_openai, provider

CLASSES: dict[str, Any] = {**CHATS, **LLMS}
FACES: dict[str, Callable[[Any], Any]] = {
    "invoke": lambda model: model.invoke("q"),
    "ainvoke": lambda model: asyncio.run(model.ainvoke("q")),
    "stream": lambda model: list(model.stream("q")),
    "batch": lambda model: model.batch(["q"]),
}


@pytest.fixture
def served() -> Iterator[Provider]:
    with provider() as running:
        yield running


def kind_of(name: str) -> str:
    return name.partition(",")[0]


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("kind", [ChatRSD, RSDRunnable, RSDLLM])
def test_a_wrong_key_is_reported_at_the_first_call(kind: Any, face: str, served: Provider) -> None:
    served.answers(Reply("Incorrect API key provided", status=401))
    model = kind(draft=chat_openai(served), target=always("fine"), verifier=good, granularity="turn")
    with pytest.warns(RoleWarning) as told:
        FACES[face](model)
    (warning,) = told
    text = str(warning.message)
    assert "the drafter has failed at its first call" in text
    assert "401" in text
    assert "ChatOpenAI 'gpt-4.1-nano' was asked; the target writes every step" in text
    assert KEY not in text
    for _ in range(9):
        FACES[face](model)  # another warning would be an error here


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("role", ["draft", "verifier"])
def test_every_class_says_what_it_is(role: str, name: str, served: Provider) -> None:
    served.answers(Reply("wrong key", status=401))
    model = ChatRSD(**{"draft": always("x"), "target": always("fine"), "verifier": good, role: CLASSES[name](served)})
    asked = {"draft": "drafter", "verifier": "verifier"}[role]
    with pytest.warns(RoleWarning, match=rf"(?s)the {asked} has failed at its first call: .*401.*{kind_of(name)} '"):
        message = model.invoke("q")
    assert message.text == "fine"
    assert KEY not in str(message.response_metadata)


def test_a_field_that_a_class_refuses_is_reported_by_name(served: Provider) -> None:
    role = LangChainDrafter(CHATS["ChatOllama"](served), options={"top_logits": 3})
    with pytest.warns(RoleWarning, match=r"unexpected keyword argument 'top_logits'.*; ChatOllama 'qwen3:0.6b' was"):
        ChatRSD(draft=role, target=always("fine"), verifier=good).invoke("q")
    assert served.asked == []


def test_options_and_tools_of_a_role_stay_in_an_adapter() -> None:
    inner = always("fine")
    tools: Any = [{"title": "add", "description": "Adds.", "type": "object", "properties": {}}]
    role = LangChainDrafter(inner, options={"top_k": 3, "user": "role"}, tools=tools)
    ChatRSD(draft=role, target=always("no"), verifier=good).invoke("q", user="call")
    (_, options), *_ = inner.asked
    assert (options.pop("tools")[0]["function"]["name"], options) == ("add", {"top_k": 3, "user": "call"})


def test_a_drafter_is_reported_in_steps_too(served: Provider) -> None:
    served.answers_by(
        lambda asked: (
            Reply("wrong key", status=401) if asked.model == "broken" else "One.\n\nTwo."[len(asked.beginning) :]
        )
    )
    model = ChatRSD(
        draft=LangChainDrafter(chat_mistral(served, model="broken"), prefix="prefix_flag"),
        target=LangChainTarget(chat_mistral(served), prefix="prefix_flag"),
        verifier=good,
    )
    with pytest.warns(RoleWarning, match="ChatMistralAI 'broken' was asked") as told:
        assert model.invoke("q").text == "One.\n\nTwo."
    assert len(told) == 1
    assert sum(asked.model == "broken" for asked in served.asked) == 1  # a wrong key is wrong for every step


def test_temporary_errors_are_reported_if_they_continue(served: Provider) -> None:
    served.answers(Reply("busy", status=429))
    model = ChatRSD(draft=chat_openai(served), target=always("fine"), verifier=good)
    for _ in range(7):
        model.invoke("q")
    with pytest.warns(RoleWarning, match="(?s)the drafter has failed at its first 8 calls: .*429.*ChatOpenAI"):
        model.invoke("q")
