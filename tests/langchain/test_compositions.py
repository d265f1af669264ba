"""Wrapped LangChain models play a role like the model itself, or are refused with the reason."""

from __future__ import annotations

import asyncio
import pickle
import traceback
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from langchain.agents import create_agent
from langchain.chat_models import init_chat_model
from langchain_core.caches import InMemoryCache
from langchain_core.output_parsers import JsonOutputParser, StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_huggingface import ChatHuggingFace, HuggingFaceEndpoint
from langgraph.graph import START, MessagesState, StateGraph

from rsd_core import ConfigurationError, RewardGuidedDecoder
from rsd_core.testing import ScriptedVerifier
from rsd_integrations.langchain import (
    RSDLLM,
    ChatRSD,
    LangChainDrafter,
    LangChainJudge,
    LangChainTarget,
    RSDRunnable,
    result_of,
)
from tests.langchain.fakes import always, good
from tests.langchain.providers import (
    CHATS,
    KEY,
    LLMS,
    Call,
    Provider,
    Reply,
    chat_anthropic,
    chat_mistral,
    chat_ollama,
    chat_openai,
    openai_llm,
    provider,
)

ADD = {"title": "add", "description": "Adds.", "type": "object", "properties": {"a": {"type": "integer"}}}
FIELD = ConfigurableField(id="which")


def configurable(served: Provider) -> Any:
    return chat_openai(served).configurable_alternatives(FIELD, default_key="openai", claude=chat_anthropic(served))


AROUND: dict[str, Callable[[Provider], Any]] = {
    "bind": lambda served: chat_openai(served).bind(user="u"),
    "with_config": lambda served: chat_openai(served).with_config(tags=["t"]),
    "with_retry": lambda served: chat_openai(served).with_retry(stop_after_attempt=2, wait_exponential_jitter=False),
    "with_fallbacks": lambda served: chat_openai(served).with_fallbacks([chat_anthropic(served)]),
    "all of them": lambda served: (
        chat_openai(served)
        .bind(user="u")
        .with_retry(stop_after_attempt=2, wait_exponential_jitter=False)
        .with_fallbacks([chat_anthropic(served).bind(top_p=0.5)])
        .with_config(tags=["t"])
    ),
    "configurable_fields": lambda served: chat_openai(served).configurable_fields(temperature=ConfigurableField("t")),
    "configurable_alternatives": configurable,
    "init_chat_model(configurable_fields)": lambda served: init_chat_model(
        "gpt-4.1-nano", model_provider="openai", base_url=f"{served.url}/v1", api_key=KEY, configurable_fields="any"
    ),
    "prompt | model": lambda served: (
        ChatPromptTemplate([("system", "Be brief."), MessagesPlaceholder("messages")]) | chat_openai(served)
    ),
}
TEXTS: dict[str, Callable[[Provider], Any]] = {
    "model | parser": lambda served: chat_openai(served) | StrOutputParser(),
    "model | function": lambda served: chat_openai(served) | (lambda message: message.text),
}
REFUSED: dict[str, tuple[Callable[[Provider], Any], str]] = {
    "prompt with variables": (
        lambda served: ChatPromptTemplate.from_template("{q}") | chat_openai(served),
        r"variables \['q'\].*prompt \| ChatRSD",
    ),
    "parser of data": (lambda served: chat_openai(served) | JsonOutputParser(), r"JsonOutputParser.*ChatRSD\(...\) \|"),
    "structured output": (lambda served: chat_openai(served).with_structured_output(ADD), "JsonOutputParser"),
    "graph": (lambda served: create_agent(chat_openai(served), []), "RunnableLambda.*graph.invoke"),
    "several models": (lambda served: cast("Any", chat_openai(served)) | chat_anthropic(served), "several models"),
}


@pytest.fixture
def served() -> Iterator[Provider]:
    with provider() as running:
        running.answers("fine")
        yield running


@pytest.mark.parametrize("around", AROUND | TEXTS)
@pytest.mark.parametrize("role", ["draft", "target", "verifier"])
def test_it_plays_every_role_in_turns(role: str, around: str, served: Provider) -> None:
    model = (AROUND | TEXTS)[around](served)
    served.answers("Score: 9" if role == "verifier" else "fine")
    others: dict[str, Any] = {"draft": always("BAD" if role == "target" else "other"), "target": always("other")}
    roles = others | {"verifier": good, role: model}
    rsd = ChatRSD(**roles)
    for message in (rsd.invoke("q"), asyncio.run(rsd.ainvoke("q")), rsd.batch(["q"])[0]):
        assert message.text == ("other" if role == "verifier" else "fine")
        assert result_of(message).degradations == ()
    assert len(served.asked) == 3
    assert RSDLLM(**roles, granularity="turn").invoke("q") == message.text


@pytest.mark.parametrize("around", AROUND)
def test_tools_and_fields_reach_the_model_inside(around: str, served: Provider) -> None:
    served.answers(Reply(reason="tool_calls", calls=[Call("add", '{"a": 1}')]))
    model = ChatRSD(draft=AROUND[around](served), target=always("no"), verifier=good, max_tokens=77, temperature=0.25)
    message = model.bind_tools([ADD]).invoke("1 + 2?", stop=["END"])
    assert [call["args"] for call in message.tool_calls] == [{"a": 1}]
    sent = served.sent
    assert (sent["max_completion_tokens"], sent["temperature"], sent["stop"]) == (77, 0.25, ["END"])
    assert sent["tools"][0]["function"]["name"] == "add"
    if around in ("bind", "all of them"):
        assert sent["user"] == "u"


@pytest.mark.parametrize("around", TEXTS)
def test_a_chain_that_makes_text_calls_no_tools(around: str, served: Provider) -> None:
    model = ChatRSD(draft=TEXTS[around](served), target=always("no"), verifier=good, max_tokens=77)
    with pytest.raises(ValueError, match="cannot call tools"):
        model.bind_tools([ADD])
    assert model.invoke("q").text == "fine"
    assert served.sent["max_completion_tokens"] == 77


@pytest.mark.parametrize("around", REFUSED)
@pytest.mark.parametrize("role", ["draft", "target", "verifier"])
def test_what_cannot_play_a_role_is_refused(role: str, around: str, served: Provider) -> None:
    make, why = REFUSED[around]
    with pytest.raises(ValueError, match=why):
        ChatRSD(**{role: make(served)})
    assert served.asked == []


def test_retries_and_fallbacks_do_what_they_are_for(served: Provider) -> None:
    model = AROUND["all of them"](served)
    busy = Reply("busy", status=503)
    served.answers(busy, "fine")
    assert ChatRSD(draft=model, target=always("no"), verifier=good).invoke("q").text == "fine"
    assert [asked.api for asked in served.asked] == ["chat", "chat"]
    served.asked.clear()
    served.answers(busy, busy, "fine")
    message = ChatRSD(draft=model, target=always("no"), verifier=good, seed=None, top_p=0.75).invoke("q")
    assert message.text == "fine"
    assert [asked.api for asked in served.asked] == ["chat", "chat", "anthropic"]


def test_fields_of_a_call_take_precedence_over_what_is_bound(served: Provider) -> None:
    model = chat_openai(served).bind(temperature=1, top_p=0.5)
    ChatRSD(draft=model, target=always("no"), verifier=good, temperature=0.25).invoke("q")
    assert (served.sent["temperature"], served.sent["top_p"]) == (0.25, 0.5)


FACES: dict[str, Callable[[Any, Any], str]] = {
    "invoke": lambda model, config: text(model.invoke("q", config)),
    "ainvoke": lambda model, config: text(asyncio.run(model.ainvoke("q", config))),
    "stream": lambda model, config: "".join(map(text, model.stream("q", config))),
    "astream": lambda model, config: asyncio.run(streamed(model, config)),
    "batch": lambda model, config: text(model.batch(["q", "q"], config)[1]),
    "abatch": lambda model, config: text(asyncio.run(model.abatch(["q", "q"], config))[1]),
    "chain": lambda model, config: text((RunnableLambda(lambda question: question) | model).invoke("q", config)),
    "with_config": lambda model, config: text(model.with_config(config).invoke("q")),
}


def text(answer: Any) -> str:
    return str(getattr(answer, "text", answer))


async def streamed(model: Any, config: Any) -> str:
    return "".join([text(chunk) async for chunk in model.astream("q", config)])


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("kind", [ChatRSD, RSDRunnable, RSDLLM])
def test_what_a_call_configures_reaches_the_models_inside(kind: Any, face: str, served: Provider) -> None:
    served.answers_by(lambda asked: asked.api)
    model = kind(draft=configurable(served), target=always("no"), verifier=good, granularity="turn")
    for which, api in (("claude", "anthropic"), ("openai", "chat"), ("claude", "anthropic")):
        assert FACES[face](model, {"configurable": {"which": which}}) == api
        assert FACES[face](model, {}) == "chat"  # a call's configuration does not affect others


def test_a_judge_and_a_target_are_configured_too(served: Provider) -> None:
    served.answers_by(lambda asked: "Score: 0" if "rate" in str(asked.messages).lower() else asked.api)
    model = ChatRSD(draft=always("x"), target=configurable(served), verifier=LangChainJudge(configurable(served)))
    assert model.invoke("q", {"configurable": {"which": "claude"}}).text == "anthropic"
    assert [asked.api for asked in served.asked] == ["anthropic", "anthropic"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_graphs_configure_the_models_inside(asynchronous: bool, served: Provider) -> None:
    served.answers_by(lambda asked: asked.api)
    model = ChatRSD(draft=configurable(served), target=always("no"), verifier=good)

    def node(state: MessagesState) -> Any:
        return {"messages": [model.invoke(state["messages"])]}

    async def anode(state: MessagesState) -> Any:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("model", anode if asynchronous else node)
    graph.add_edge(START, "model")
    compiled: Any = graph.compile()
    for which, api in (("claude", "anthropic"), ("openai", "chat")):
        config, question = {"configurable": {"which": which}}, {"messages": [("user", "q")]}
        state = asyncio.run(compiled.ainvoke(question, config)) if asynchronous else compiled.invoke(question, config)
        assert state["messages"][-1].text == api


def test_a_cache_tells_configurations_apart(served: Provider) -> None:
    served.answers_by(lambda asked: asked.api)
    model = ChatRSD(draft=configurable(served), target=always("no"), verifier=good, cache=InMemoryCache())
    for _ in range(2):
        for which, api in (("claude", "anthropic"), ("openai", "chat")):
            assert model.invoke("q", {"configurable": {"which": which}}).text == api
    assert len(served.asked) == 2


def test_a_configured_class_that_refuses_a_field_is_reported(served: Provider) -> None:
    role = LangChainDrafter(configurable(served), sends=["seed"])
    model = ChatRSD(draft=role, target=always("no"), verifier=good)
    assert model.invoke("q").text == "fine"
    with pytest.raises(ConfigurationError, match=r"ChatAnthropic .* does not accept seed"):
        model.invoke("q", {"configurable": {"which": "claude"}})


STEPS = {
    "with_retry": lambda model: model.with_retry(stop_after_attempt=2, wait_exponential_jitter=False),
    "with_fallbacks": lambda model: model.with_fallbacks([model]),
    "bind": lambda model: model.bind(top_p=0.5),
}


@pytest.mark.parametrize("around", STEPS)
@pytest.mark.parametrize(("make", "prefix"), [(chat_mistral, "prefix_flag"), (openai_llm, "completion")])
def test_it_writes_steps(make: Any, prefix: str, around: str, served: Provider) -> None:
    whole = "One step.\n\nTwo steps.\n\nThe end."

    def answer(asked: Any) -> Reply | str:
        shown = asked.messages[-1][1]
        begun = max((whole[:i] for i in range(len(whole) + 1) if shown.endswith(whole[:i])), key=len)
        return Reply("busy", status=503) if len(served.asked) == 1 and around != "bind" else whole[len(begun) :]

    served.answers_by(answer)
    decoder = RewardGuidedDecoder(
        drafter=LangChainDrafter(STEPS[around](make(served)), prefix=prefix, stop="cut"),
        verifier=ScriptedVerifier([0.9]),
        target=LangChainTarget(make(served), prefix=prefix, stop="cut"),
    )
    result = decoder.run("Count.")
    assert (result.text, result.degradations) == (whole, ())
    assert asyncio.run(decoder.arun("Count.")).text == whole


def test_chains_write_no_steps(served: Provider) -> None:
    with pytest.raises(ConfigurationError, match="the chain changes it"):
        LangChainDrafter(chat_ollama(served) | StrOutputParser(), prefix="trailing_assistant")


# Pickles


@pytest.mark.parametrize("name", [*CHATS, *LLMS])
def test_adapters_over_partner_classes_pickle(name: str, served: Provider) -> None:
    """As the docs say: their clients do not, so they are made again of their fields."""
    inner = (CHATS | LLMS)[name](served, tags=["kept"])
    model = ChatRSD(draft=inner, target=always_fine(served), verifier=LangChainJudge(inner, rubric="Score: N."))
    served.answers("fine", "Score: 9")
    again = pickle.loads(pickle.dumps(model))
    assert again.invoke("q").text == "fine"
    assert type(again.draft.model) is type(inner)
    assert again.draft.model.tags == ["kept"]
    assert again.identity()["draft"] == model.identity()["draft"]
    assert KEY not in repr(again)


def always_fine(served: Provider) -> Any:
    return (
        chat_openai(served)
        .with_retry(wait_exponential_jitter=False)
        .with_fallbacks([chat_anthropic(served).bind(top_p=0.5)])
    )


def test_a_class_that_cannot_be_made_again_says_so_when_it_is_pickled() -> None:
    """HuggingFaceEndpoint's validators set what they refuse to be given (langchain-huggingface 1.2.3)."""
    options: Any = {"endpoint_url": "http://127.0.0.1:9", "huggingfacehub_api_token": KEY, "task": "text-generation"}
    llm = HuggingFaceEndpoint(**options)
    role = LangChainDrafter(ChatHuggingFace(llm=llm, model_id="small", tokenizer=False))
    with pytest.raises(pickle.PicklingError, match="HuggingFaceEndpoint cannot be recreated from its fields") as caught:
        pickle.dumps(role)
    assert KEY not in "".join(traceback.format_exception(caught.value))


def test_what_is_around_a_model_pickles_along(served: Provider) -> None:
    role = LangChainTarget(always_fine(served), sends=["max_tokens"], name="both")
    again = pickle.loads(pickle.dumps(role))
    assert (again.name, again.sends, again.role) == ("both", ("max_tokens",), "target")
    assert again.fingerprint == role.fingerprint
    again.with_fields({"reasoning_effort": "low"})  # cached copies are not part of a pickle
    assert pickle.loads(pickle.dumps(again)).fingerprint == role.fingerprint
    served.answers(Reply("busy", status=500), Reply("busy", status=500), Reply("busy", status=500), "fine")
    assert ChatRSD(draft=always("BAD"), target=again, verifier=good).invoke("q").text == "fine"


def test_keys_of_the_environment_stay_there(served: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    from langchain_openai import ChatOpenAI

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    data = pickle.dumps(LangChainDrafter(ChatOpenAI(model="gpt-4.1-nano", base_url=f"{served.url}/v1")))
    assert KEY.encode() not in data
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    again = pickle.loads(data)
    ChatRSD(draft=again, target=always("no"), verifier=good).invoke("q")
    assert "Bearer another" in served.asked[-1].headers.values()
