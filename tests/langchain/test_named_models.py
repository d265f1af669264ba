"""Models by name, and the names of fields: as LangChain's users write them."""

from __future__ import annotations

import inspect
import pickle
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_ollama import ChatOllama
from langchain_openai import ChatOpenAI

from rsd_core import SpecError, load
from rsd_integrations.langchain import RSDLLM, ChatRSD, LangChainDrafter, LangChainJudge, LangChainTarget, RSDRunnable
from rsd_integrations.langchain.named_models import chat_model, is_chat_models_name
from tests.langchain.fakes import always, good
from tests.langchain.providers import KEY, Provider, Reply, provider

FACES: list[Any] = [ChatRSD, RSDLLM, RSDRunnable]


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GOOGLE_API_KEY", "MISTRAL_API_KEY", "DEEPSEEK_API_KEY"):
        monkeypatch.setenv(name, KEY)


@pytest.fixture
def served() -> Iterator[Provider]:
    with provider() as running:
        yield running


@pytest.mark.parametrize("kind", FACES)
def test_names_are_those_of_init_chat_model(kind: Any) -> None:
    model = kind(draft="openai:gpt-5-nano", target="anthropic:claude-sonnet-4-5", verifier="ollama:qwen3:0.6b")
    assert isinstance(model.draft, LangChainDrafter)
    assert isinstance(model.target, LangChainTarget)
    assert isinstance(model.verifier, LangChainJudge)
    assert [type(role.model) for role in (model.draft, model.target, model.verifier)] == [
        ChatOpenAI,
        ChatAnthropic,
        ChatOllama,
    ]
    assert model.verifier.name == "qwen3:0.6b"
    assert model.resolved().granularity == "turn"
    assert KEY not in f"{model!r} {model.identity()}"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("gpt-5-nano", "ChatOpenAI"),
        ("claude-sonnet-4-5", "ChatAnthropic"),
        ("google_genai:gemini-2.5-flash", "ChatGoogleGenerativeAI"),
        ("mistralai:ministral-3b-latest", "ChatMistralAI"),
        ("deepseek:deepseek-chat", "ChatDeepSeek"),
        ("langchain:openai:gpt-5-nano", "ChatOpenAI"),
    ],
)
def test_every_provider_of_langchain_is_known(name: str, kind: str) -> None:
    model = chat_model(name)
    assert isinstance(model, BaseChatModel)
    assert type(model).__name__ == kind


def test_a_name_is_asked_where_its_provider_is(served: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", f"{served.url}/v1")
    served.answers(Reply("Paris."))
    model = ChatRSD(drafter="openai:gpt-4.1-nano", target=always("no"), verifier=good)
    assert model.invoke("The capital?").text == "Paris."
    assert served.sent["model"] == "gpt-4.1-nano"
    again = pickle.dumps(model.draft)
    assert KEY.encode() not in again
    assert pickle.loads(again).model.model_name == "gpt-4.1-nano"


@pytest.mark.parametrize("spec", ["openai:m@http://127.0.0.1:8000/v1", "openai,profile=vllm:m", "embedded:draft"])
def test_specs_stay_specs(spec: str) -> None:
    assert not is_chat_models_name(spec)
    assert ChatRSD(draft=spec, decoder="draft").draft == spec
    with pytest.raises(SpecError, match="a LangChain chat model is needed"):
        chat_model(spec)


def test_outside_of_langchain_the_name_is_our_own_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert type(load("openai:gpt-5-nano")).__name__ == "OpenAIGenerator"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("openia:gpt-5-nano", "Did you mean 'openai:gpt-5-nano'?"),
        ("embeded:draft", "Did you mean 'embedded:draft'?"),
        ("antropic:claude", "Did you mean 'anthropic:claude'?"),
        ("nonsense", "neither a provider of LangChain's init_chat_model, as in 'openai:gpt-5-nano', nor a kind"),
        ("openai/gpt-5-nano", "Did you mean 'openai:gpt-5-nano'?"),
        ("vllm:org/m@http://localhost:8000/v1", "Did you mean 'openai:org/m@http://localhost:8000/v1'?"),
        ("http://localhost:8000/v1", "Did you mean 'openai:MODEL@http://localhost:8000/v1'?"),
        ("", "write PROVIDER:MODEL without spaces"),
        ("openai:", "write PROVIDER:MODEL without spaces"),
        ("openai: gpt-5-nano", "write PROVIDER:MODEL without spaces"),
        ("gpt-5-nano ", "write PROVIDER:MODEL without spaces"),
        ("./model.gguf", "a GGUF file is written gguf:./model.gguf"),
    ],
)
def test_errors_suggest_the_nearest_form(name: str, told: str) -> None:
    for field in ("draft", "target", "verifier"):
        with pytest.raises(ValueError, match=re.escape(told)):
            ChatRSD(**{field: name})
        with pytest.raises(ValueError, match=re.escape(told)):
            ChatRSD(thoughts={field: name})


def test_missing_packages_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ValueError, match="OPENAI_API_KEY"):
        ChatRSD(draft="openai:gpt-5-nano")
    with pytest.raises(ValueError, match="pip install langchain-cohere"):
        ChatRSD(draft="cohere:command-r")
    monkeypatch.setitem(sys.modules, "langchain.chat_models", None)
    with pytest.raises(ValueError, match=r"pip install .*\[agents\]"):
        ChatRSD(draft="openai:gpt-5-nano")


@pytest.mark.parametrize("kind", FACES)
def test_drafter_and_draft_are_one(kind: Any) -> None:
    model = kind(drafter="embedded:draft", target="embedded:target", thoughts={"drafter": "embedded:thinking-draft"})
    assert (model.draft, model.thoughts) == ("embedded:draft", {"draft": "embedded:thinking-draft"})
    for options in (
        {"draft": "embedded:draft"},
        {"thoughts": {"draft": "embedded:draft", "drafter": "embedded:draft"}},
    ):
        with pytest.raises(ValueError, match="draft and drafter are two names for one model"):
            kind(**{"drafter": "embedded:draft"} | options)
    assert kind(drafter="embedded:draft").identity() == kind(draft="embedded:draft").identity()


def test_names_stand_in_thoughts_too() -> None:
    thoughts = ChatRSD(thoughts={"verifier": "ollama:qwen3:0.6b", "policy": "constant:0"}).thoughts
    assert isinstance(thoughts["verifier"], LangChainJudge)
    assert isinstance(thoughts["verifier"].model, ChatOllama)


@pytest.mark.parametrize("kind", FACES)
def test_the_signature_shows_the_fields(kind: Any) -> None:
    parameters = inspect.signature(kind).parameters
    assert next(iter(parameters)) == "model"
    assert {"draft", "target", "verifier", "policy", "temperature", "max_tokens", "stop_sequences"} <= set(parameters)
    assert not {"args", "kwargs"} & set(parameters)
    assert parameters["draft"].default == "embedded:draft"
    known = {field.alias or name for name, field in kind.model_fields.items()} - {"loaded"}
    assert set(parameters) == known
