"""What is asked of LangChain's partner classes: the table of their fields held to the requests that they send."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from pydantic import BaseModel, Field

from rsd_core import ConfigurationError, Path, Sampling, StepRequest, as_prompt
from rsd_core.blocking import wait_for
from rsd_integrations.langchain import RSDLLM, ChatRSD, LangChainDrafter, LangChainJudge, LangChainTarget, RSDRunnable
from rsd_integrations.langchain.partner_classes import PARTNERS, SENDS, lacking
from tests.langchain.fakes import always, good
from tests.langchain.providers import CHATS, LLMS, Provider, Reply, provider

CLASSES: dict[str, Any] = {**CHATS, **LLMS}
ARRIVES: dict[str, Mapping[str, str]] = {
    "ChatOpenAI": {"max_tokens": "max_completion_tokens"},
    "ChatOpenAI, Responses": {"max_tokens": "max_output_tokens", "seed": ""},
    "ChatAnthropic": {"seed": "", "stop": "stop_sequences"},
    "ChatGoogleGenerativeAI": {
        "temperature": "generationConfig.temperature",
        "top_p": "generationConfig.topP",
        "top_k": "generationConfig.topK",
        "max_tokens": "generationConfig.maxOutputTokens",
        "seed": "generationConfig.seed",
        "stop": "generationConfig.stopSequences",
    },
    "ChatBedrockConverse": {
        "temperature": "inferenceConfig.temperature",
        "top_p": "inferenceConfig.topP",
        "top_k": "",
        "max_tokens": "inferenceConfig.maxTokens",
        "seed": "",
        "stop": "inferenceConfig.stopSequences",
    },
    "ChatMistralAI": {"seed": "random_seed"},
    "ChatDeepSeek": {"seed": ""},
}
OLLAMA = {name: f"options.{name}" for name in ("temperature", "top_p", "top_k", "seed", "stop")}
for _name in CLASSES.keys() - {"ChatAnthropic", "ChatGoogleGenerativeAI"}:
    ARRIVES[_name] = {"top_k": "", **ARRIVES.get(_name, {})}  # OpenAI's API, and those like it
ARRIVES |= dict.fromkeys(("ChatOllama", "OllamaLLM"), OLLAMA | {"max_tokens": "options.num_predict"})
"""Where each field has to be in the request's body by the provider's API reference, where it is not at its own name;
"" where the API has no such field."""
VALUES: dict[str, Any] = {"temperature": 0.25, "top_p": 0.75, "top_k": 9, "max_tokens": 77, "seed": 5}
TURN = StepRequest((5,), max_tokens=77, delimiter=None, sampling=Sampling(0.25, 0.75, 9))
ASKED = Path(as_prompt("1 + 2?"))


@pytest.fixture
def served() -> Iterator[Provider]:
    with provider() as running:
        running.answers("fine")
        yield running


def at(body: Any, place: str) -> Any:
    """A field of a body by its dotted name."""
    for name in place.split("."):
        body = (body or {}).get(name)
    return body


@pytest.mark.parametrize("name", CLASSES)
def test_fields_arrive_or_are_refused_when_a_role_is_made(name: str, served: Provider) -> None:
    for field, value in VALUES.items():
        place = ARRIVES.get(name, {}).get(field, field)
        if not place:
            with pytest.raises(ConfigurationError, match=f"does not accept {field} with a call: .*Remove {field} for"):
                LangChainDrafter(CLASSES[name](served), sends=[field])
            continue
        role = LangChainDrafter(CLASSES[name](served), sends=[field])
        wait_for(role.generate(ASKED, TURN))
        assert at(served.sent, place) == value, field
        asyncio.run(role.generate(ASKED, TURN))
        assert at(served.sent, place) == value, field
        assert len(served.asked) == 2
        served.asked.clear()


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("kind", [ChatRSD, RSDRunnable, RSDLLM])
def test_fields_of_the_adapters_reach_every_class_together(kind: Any, name: str, served: Provider) -> None:
    given = {field: value for field, value in VALUES.items() if ARRIVES.get(name, {}).get(field, field)}
    model = kind(
        draft=CLASSES[name](served), target=always("no"), verifier=good, granularity="turn", stop=["END"], **given
    )
    made = model.invoke("1 + 2?")
    assert (made if isinstance(made, str) else made.text) == "fine"
    for field in given.keys() - {"seed"}:
        assert at(served.sent, ARRIVES.get(name, {}).get(field, field)) == given[field], field
    if "seed" in given:  # of the request, which the seed makes
        assert isinstance(at(served.sent, ARRIVES.get(name, {}).get("seed", "seed")), int)


@pytest.mark.parametrize("name", CLASSES)
def test_models_are_asked_as_they_are_where_nothing_is_set(name: str, served: Provider) -> None:
    own = CLASSES[name](served)
    own.invoke("1 + 2?")
    role = LangChainDrafter(CLASSES[name](served))
    wait_for(role.generate(ASKED, TURN))
    alone, as_role = served.asked
    if not isinstance(at(alone.body, "prompt"), str | list):
        assert alone.body == as_role.body
    else:
        assert {**alone.body, "prompt": ""} == {**as_role.body, "prompt": ""}


def test_ollamas_own_options_stay(served: Provider) -> None:
    own = CHATS["ChatOllama"](served, num_ctx=2048, top_k=7, stop=["own"])
    ChatRSD(draft=own, target=always("no"), verifier=good, temperature=0, stop=["END"]).invoke("q")
    assert served.sent["options"] == {"num_ctx": 2048, "top_k": 7, "temperature": 0, "stop": ["own", "END"]}
    assert own.temperature is None  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["ChatAnthropic", "ChatBedrockConverse"])
def test_stop_strings_of_white_space_are_cut_here(name: str, served: Provider) -> None:
    """Anthropic answers them with a 400: each stop sequence must contain non-whitespace."""
    served.answers("one\n\ntwo END three")
    model = ChatRSD(draft=CHATS[name](served), target=always("no"), verifier=good)
    assert model.invoke("q", stop=["\n\n", "END"]).text == "one"
    place = ARRIVES[name]["stop"]
    assert at(served.sent, place) == ["END"]
    assert model.invoke("q", stop=["\n\n"]).text == "one"
    assert not at(served.sent, place)


@pytest.mark.parametrize("name", CLASSES)
def test_a_judges_cap_arrives(name: str, served: Provider) -> None:
    served.answers("Score: 9")
    model = ChatRSD(
        draft=always("fine"), target=always("no"), verifier=LangChainJudge(CLASSES[name](served), max_tokens=77)
    )
    assert model.invoke("q").text == "fine"
    assert at(served.sent, ARRIVES.get(name, {}).get("max_tokens", "max_tokens")) == 77


@pytest.mark.parametrize(
    ("name", "model", "fields"),
    [
        ("ChatOpenAI", "gpt-5-nano", {"temperature", "top_p", "top_k", "seed"}),
        ("ChatOpenAI", "o3-mini", {"temperature", "top_p", "top_k", "seed"}),
        ("ChatOpenAI", "gpt-5-chat-latest", {"top_k"}),
        ("ChatOpenAI", "gpt-oss-20b", {"top_k"}),
        ("ChatAnthropic", "claude-opus-4-7", {"temperature", "top_p", "top_k", "seed"}),
        ("ChatAnthropic", "claude-sonnet-4-5-20250929", {"seed"}),
        ("ChatAnthropic", "claude-opus-4-20250514", {"seed"}),
        ("ChatBedrockConverse", "us.anthropic.claude-opus-4-7-v1:0", {"temperature", "top_p", "top_k", "seed"}),
        ("ChatGoogleGenerativeAI", "gemini-3.6-flash", {"temperature", "top_p", "top_k"}),
        ("ChatGoogleGenerativeAI", "gemini-3.5-flash", set()),
    ],
)
def test_models_that_take_less_than_their_class(name: str, model: str, fields: set[str], served: Provider) -> None:
    inner = CHATS[name](served, model=model)
    assert {field for field in SENDS if lacking(inner, field)} == fields
    for field in fields - {"seed"}:
        with pytest.raises(ValueError, match=f"{name} '{model}' does not accept {field} with a call"):
            ChatRSD(draft=inner, target=always("x"), verifier=good, **{field: 1})
        with pytest.raises(ValueError, match=f"does not accept {field}"):
            ChatRSD(draft=always("x"), target=inner, verifier=good).bind(**{field: 1}).invoke("q")
    assert served.asked == []


def test_a_reasoning_model_that_does_not_think_is_like_others(served: Provider) -> None:
    inner = CHATS["ChatOpenAI"](served, model="gpt-5.2", reasoning_effort="none")
    ChatRSD(draft=inner, target=always("no"), verifier=good, temperature=0.5).invoke("q")
    assert (served.sent["temperature"], served.sent["reasoning_effort"]) == (0.5, "none")


def test_who_has_no_seed_is_told_once(served: Provider) -> None:
    inner = CHATS["ChatAnthropic"](served)
    with pytest.warns(UserWarning, match="the seed is not sent to ChatAnthropic 'claude-3-5-haiku-latest'") as told:
        model = ChatRSD(draft=inner, target=CHATS["ChatOpenAI"](served), verifier=good, seed=5)
    model.invoke("q")
    model.invoke("q", temperature=0.5)  # another warning would be an error here
    assert len(told) == 1
    assert "seed" not in served.sent
    with pytest.raises(ConfigurationError, match="does not accept seed"):
        LangChainTarget(inner, sends=["seed"])


def test_steps_are_capped_where_the_class_is_known_to_take_a_cap(served: Provider) -> None:
    served.answers("three\n\nfour")
    step = StepRequest((5,), max_tokens=77)
    for name, prefix in (
        ("ChatMistralAI", "prefix_flag"),
        ("ChatOllama", "trailing_assistant"),
        ("OpenAI", "completion"),
    ):
        wait_for(LangChainDrafter(CLASSES[name](served), prefix=prefix).generate(ASKED, step))
        assert at(served.sent, ARRIVES.get(name, {}).get("max_tokens", "max_tokens")) == 77
    inner = always("three\n\nfour")
    wait_for(LangChainDrafter(inner, prefix="trailing_assistant").generate(ASKED, step))
    assert inner.asked[-1][1] == {}
    wait_for(LangChainDrafter(CLASSES["OpenAI"](served), prefix="completion", sends=[]).generate(ASKED, step))
    assert served.sent["max_tokens"] == 256  # the class's own


def test_the_table_names_classes_that_there_are() -> None:
    import langchain_anthropic
    import langchain_aws
    import langchain_deepseek
    import langchain_google_genai
    import langchain_huggingface
    import langchain_mistralai
    import langchain_ollama
    import langchain_openai.chat_models.base
    import langchain_openai.llms.base

    packages = [
        langchain_anthropic,
        langchain_aws,
        langchain_deepseek,
        langchain_google_genai,
        langchain_huggingface,
        langchain_mistralai,
        langchain_ollama,
        langchain_openai.chat_models.base,
        langchain_openai.llms.base,
    ]
    for partner in PARTNERS:
        assert any(hasattr(package, partner.name) for package in packages), partner.name


def test_unknown_classes_get_langchains_names() -> None:
    inner = always("fine")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ChatRSD(draft=inner, target=always("no"), verifier=good, temperature=0.5, max_tokens=9).invoke("q")
    assert inner.asked[-1][1] == {"temperature": 0.5, "max_tokens": 9}


def test_fields_reach_each_of_several_models_by_its_own_names(served: Provider) -> None:
    first = CHATS["ChatOllama"](served)
    both = first.with_fallbacks([CHATS["ChatGoogleGenerativeAI"](served)])
    served.answers(Reply("busy", status=503), "fine")
    model = ChatRSD(draft=both, target=always("no"), verifier=good, max_tokens=77)
    assert model.invoke("q").text == "fine"
    assert [at(served.asked[0].body, "options.num_predict")] == [77]
    assert at(served.sent, "generationConfig.maxOutputTokens") == 77


# Tools and the form of an answer, as each class sends them by itself


class Deal(BaseModel):
    """What is bought."""

    amount: int = Field(3, ge=0)
    unit: str | None = None


@tool
def pay(deal: Deal, accounts: list[str], memo: str = "") -> str:
    """Pay."""
    return "paid"


@pytest.mark.parametrize(
    "options", [{}, {"strict": True}, {"strict": False}, {"tool_choice": "any"}, {"tool_choice": "pay"}], ids=str
)
@pytest.mark.parametrize("name", CHATS)
def test_bound_tools_are_sent_as_by_the_class_itself(name: str, options: dict[str, Any]) -> None:
    with provider() as served:
        model = CHATS[name](served)
        model.bind_tools([pay], **options).invoke("q")
        rsd = ChatRSD(draft=model, target=model, verifier=lambda *_: 1.0)
        rsd.bind_tools([pay], **options).invoke("q")
        assert served.asked[1].body == served.asked[0].body


@pytest.mark.parametrize("name", ["ChatOpenAI", "ChatOpenAI, Responses", "ChatAnthropic", "ChatGoogleGenerativeAI"])
def test_an_agents_answer_by_a_schema_goes_along_with_tools(name: str) -> None:
    with provider() as served:
        served.answers('{"amount": 2, "unit": null}')
        model = CHATS[name](served)
        rsd = ChatRSD(draft=model, target=model, verifier=lambda *_: 1.0)
        for one in (model, rsd):
            agent: Any = create_agent(one, [pay], response_format=ProviderStrategy(Deal))
            assert agent.invoke({"messages": [HumanMessage("q")]})["structured_response"] == Deal(amount=2)
        first, second = (asked.body for asked in served.asked)
        assert second["tools"] == first["tools"]
