"""Structured output and forced calls: in turns as each partner class asks for them, in steps after the reasoning."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langchain_core.utils.function_calling import convert_to_json_schema
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from rsd_core import ConfigurationError, Limits, RunError, Settings
from rsd_core.registry import load
from rsd_integrations.answer_forms import form_of
from rsd_integrations.langchain import RSDLLM, ChatRSD, RSDRunnable, result_of
from tests.langchain.providers import CHATS, Asked, Call, Provider, Reply, provider
from tests.langchain.rule_writers import RuleWriter, SeesMistakes
from tests.llamacpp.gguf_files import smollm2

ANN = {"name": "Ann", "age": 3}


class Person(BaseModel):
    """A person."""

    name: str
    age: int = Field(ge=0, le=150)


class PersonDict(TypedDict):
    """A person."""

    name: str
    age: int


class Node(BaseModel):
    """A node of a tree."""

    name: str = Field(max_length=3)
    children: list["Node"] = Field(max_length=2)


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


def by_what_is_asked(asked: Asked) -> Reply:
    """A call where tools came along, else JSON."""
    tools = asked.body.get("tools") or asked.body.get("toolConfig")
    return Reply(calls=[Call("Person", json.dumps(ANN))], reason="tool_calls") if tools else Reply(json.dumps(ANN))


@pytest.fixture
def served() -> Any:
    with provider() as made:
        made.answers_by(by_what_is_asked)
        yield made


def good(*_: Any) -> float:
    return 0.9


def chat(draft: BaseChatModel, target: BaseChatModel, **options: Any) -> ChatRSD:
    return ChatRSD(draft=draft, target=target, verifier=options.pop("verifier", good), **options)


METHODS: list[dict[str, Any]] = [
    {},
    {"method": "json_schema"},
    {"method": "json_schema", "strict": True},
    {"method": "function_calling"},
    {"method": "json_mode"},
]


@pytest.mark.filterwarnings("ignore")  # of classes that take another method in place of the one named
@pytest.mark.parametrize("options", METHODS, ids=lambda options: "-".join(map(str, options.values())) or "default")
@pytest.mark.parametrize("name", CHATS)
def test_in_turns_a_provider_is_asked_as_its_class_asks_by_itself(
    served: Provider, name: str, options: dict[str, Any]
) -> None:
    make: Callable[..., BaseChatModel] = CHATS[name]
    try:
        right = make(served).with_structured_output(Person, **options).invoke("Who?")
    except (ValueError, TypeError, NotImplementedError) as refused:
        with pytest.raises(type(refused)):
            chat(make(served), make(served)).with_structured_output(Person, **options)
        return
    own = served.sent
    assert right == Person(**ANN)
    for rewards in (good, lambda *_: 0.1):  # by the drafter, and by the target
        model = chat(make(served), make(served), verifier=rewards)
        before = len(served.asked)
        assert model.with_structured_output(Person, **options).invoke("Who?") == right
        assert [asked.body for asked in served.asked[before:]] == [own] * (1 if rewards is good else 2)


def test_in_turns_each_model_is_asked_in_its_own_way(served: Provider) -> None:
    model = chat(CHATS["ChatAnthropic"](served), CHATS["ChatOpenAI"](served), verifier=lambda *_: 0.1)
    both: Any = model.with_structured_output(Person, include_raw=True).invoke("Who?")
    drafted, replaced = served.asked
    assert drafted.body["tool_choice"] == {"type": "tool", "name": "Person", **_extra(drafted)}
    assert replaced.body["response_format"]["json_schema"]["name"] == "Person"
    assert both["parsed"] == Person(**ANN)
    assert both["parsing_error"] is None
    assert result_of(both["raw"]).steps[0].author == "target"


def _extra(asked: Asked) -> dict[str, Any]:
    return {key: value for key, value in asked.body["tool_choice"].items() if key not in ("type", "name")}


def test_in_turns_bindings_retries_and_fallbacks_are_asked_too(served: Provider) -> None:
    served.answers_by(lambda asked: Reply(status=401) if asked.model == "broken" else by_what_is_asked(asked))
    broken = CHATS["ChatOpenAI"](served, model="broken", max_retries=0)
    draft = broken.with_fallbacks([CHATS["ChatOpenAI"](served).bind(temperature=0.3).with_retry()])
    model = ChatRSD(draft=draft, target=CHATS["ChatOpenAI"](served), verifier=good)
    assert model.with_structured_output(Person).invoke("Who?") == Person(**ANN)
    assert {"response_format", "temperature"} <= served.sent.keys()
    assert [asked.body["response_format"]["type"] for asked in served.asked] == ["json_schema"] * 2


def test_in_turns_models_of_the_core_take_the_form_as_a_field(served: Provider) -> None:
    spec = load(f"openai,profile=openai:gpt-4.1@{served.url}/v1")
    model = ChatRSD(draft=spec, target=spec, verifier=good, granularity="turn")
    assert model.with_structured_output(Person).invoke("Who?") == Person(**ANN)
    assert served.sent["response_format"]["json_schema"]["schema"] == convert_to_json_schema(Person)


def steps(**options: Any) -> ChatRSD:
    writers = {"draft": RuleWriter(mistakes=True), "target": RuleWriter(), "verifier": SeesMistakes()}
    return ChatRSD(**{**writers, **options})


@pytest.mark.parametrize("schema", [Person, PersonDict, convert_to_json_schema(Person)])
@pytest.mark.parametrize("method", [None, "json_schema", "function_calling", "json_mode"])
def test_in_steps_the_object_comes_after_the_reasoning(schema: Any, method: Any) -> None:
    wanted = steps().with_structured_output(schema, method=method)
    question = "Tell me of Ann who is 3"
    right = Person(**ANN) if schema is Person else ANN

    async def natively() -> list[Any]:
        return [await wanted.ainvoke(question), *[part async for part in wanted.astream(question)]]

    assert wanted.invoke(question) == right
    assert list(wanted.stream(question)) == [right]
    assert asyncio.run(natively()) == [right, right]
    assert wanted.batch([question] * 3) == [right] * 3
    both: Any = steps().with_structured_output(schema, method=method, include_raw=True).invoke(question)
    raw = both["raw"]
    assert json.loads(raw.content) == ANN
    assert raw.additional_kwargs["reasoning_content"].startswith("They wrote")
    assert [block["type"] for block in raw.content_blocks] == ["reasoning", "text"]
    assert [step.kind for step in result_of(raw).steps] == ["thought", "thought", "answer"]
    assert raw.usage_metadata["output_token_details"]["reasoning"] > 0


def test_a_bad_draft_of_the_json_is_written_by_the_target() -> None:
    question = "Tell me of Ann, who is 3"
    assert len(question) % 3 == 0
    both: Any = steps().with_structured_output(Person, include_raw=True).invoke(question)
    assert [step.author for step in result_of(both["raw"]).steps][-1] == "target"
    assert both["parsed"] == Person(**ANN)


@pytest.mark.parametrize("choice", ["any", "required", True, "add", {"type": "function", "function": {"name": "add"}}])
def test_a_forced_call_in_steps_is_written_by_the_tools_schema(choice: Any) -> None:
    target = RuleWriter()
    model = steps(draft=target, target=target)
    for message in (
        model.bind_tools([add, weather], tool_choice=choice).invoke("please add 2 and 3"),
        _whole(model.bind_tools([add, weather], tool_choice=choice).stream("please add 2 and 3")),
    ):
        ((call,), text) = message.tool_calls, message.text
        assert (call["name"], call["args"], bool(call["id"])) == ("add", {"a": 2, "b": 3}, True)
        assert text == ""
        assert message.response_metadata["finish_reason"] == "tool_calls"
        assert message.additional_kwargs["reasoning_content"]
    assert "add" in target.read[-1].prompt[-1].content
    free = model.bind_tools([add], tool_choice="none").invoke("please add 2 and 3")
    assert not free.tool_calls
    assert "Tool" not in str(target.read[-1].prompt)


def _whole(chunks: Any) -> AIMessage:
    first, *others = chunks
    whole: AIMessage = sum(others, first)
    return whole


def test_a_call_that_is_cut_is_invalid_and_never_run() -> None:
    model = ChatRSD(draft="embedded:draft", target="embedded:target", verifier="embedded:verifier", max_tokens=8)
    message = model.bind_tools([weather], tool_choice="any").invoke("What is the weather in Rome?")
    assert not message.tool_calls
    (invalid,) = message.invalid_tool_calls
    assert '{"nam' in str(invalid["args"])
    assert message.response_metadata["rsd"]["finish_reason"] == "max_tokens"
    with pytest.raises(OutputParserException, match="the answer is not JSON"):
        model.with_structured_output(Person).invoke("Who?")
    both: Any = model.with_structured_output(Person, include_raw=True).invoke("Who?")
    assert both["parsed"] is None
    assert isinstance(both["parsing_error"], OutputParserException)
    with pytest.raises(OutputParserException, match="the answer is not JSON"):
        list(model.with_structured_output(Person).stream("Who?"))


@pytest.mark.parametrize("strategy", [Person, ProviderStrategy(Person), ToolStrategy(Person)])
def test_an_agent_in_steps_uses_tools_and_ends_with_the_object(strategy: Any) -> None:
    agent: Any = create_agent(steps(), [weather], response_format=strategy)
    state = agent.invoke(
        {"messages": [("user", "the weather of Rome for the person Ann who is 3")]}, {"recursion_limit": 9}
    )
    called = [call["name"] for message in state["messages"] for call in getattr(message, "tool_calls", ())]
    assert state["structured_response"] == Person(name="Rome", age=3)
    if not isinstance(strategy, ToolStrategy):
        assert called == ["weather"]
        assert [message.text for message in state["messages"] if message.type == "tool"] == ["sunny in Rome"]
        assert json.loads(state["messages"][-1].text) == {"name": "Rome", "age": 3}


def test_a_chain_asks_a_runnable_the_same() -> None:
    writers = {"draft": RuleWriter(), "target": RuleWriter(), "verifier": SeesMistakes()}
    for kind in (RSDRunnable, RSDLLM):
        assert kind(**writers).with_structured_output(Person).invoke("of Ann who is 3") == Person(**ANN)
        assert (
            kind(**writers, temperature=0.5, stop=["x"]).with_structured_output(PersonDict).invoke("Ann: 3") is not None
        )


def test_real_models_reason_and_write_what_fits() -> None:
    model = ChatRSD(
        draft=f"gguf:{smollm2()}",
        target=f"gguf:{smollm2()}",
        policy="always_draft",
        max_tokens=200,
        settings=Settings(max_step_tokens=16, limits=Limits(max_steps=3)),
    )
    assert (model.profile or {})["structured_output"]
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["n"],
    }
    named = {"title": "count", **schema}
    answer: Any = model.with_structured_output(named, include_raw=True).invoke("How many legs has a cat?")
    jsonschema.validate(answer["parsed"], schema)
    assert answer["raw"].additional_kwargs["reasoning_content"]
    message = model.bind_tools([add], tool_choice="any").invoke("What is 2 and 3?")
    (call,) = message.tool_calls
    jsonschema.validate(call["args"], add.get_input_jsonschema())


SCHEMAS: list[dict[str, Any]] = [
    {"title": "Flags", "type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    {"title": "Word", "$ref": "#/$defs/Word", "$defs": {"Word": {"enum": ["é", None, 1]}}},
    {"title": "Nothing", "type": "null"},
    {"type": "object", "properties": {"unit": {"const": "pens"}}, "required": ["unit"]},
    {"title": "Either", "anyOf": [{"type": "boolean"}, {"enum": ["a"]}]},
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
def test_a_json_schema_of_any_form_holds_as_it_stands(schema: dict[str, Any]) -> None:
    model = ChatRSD(max_tokens=60, temperature=1.0, seed=1).with_structured_output(schema)
    jsonschema.validate(model.invoke("Mia has 45 apples. Then she buys 12 more. How many apples has she?"), schema)


@pytest.mark.parametrize("schema", [{"title": "No", "not": {}}, {"title": "Typo", "type": "objct"}], ids=str)
def test_a_json_schema_that_no_grammar_can_say_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises((ValueError, RunError)):
        ChatRSD(max_tokens=60).with_structured_output(schema).invoke("q")


def test_definitions_of_several_tools_are_distinguished() -> None:
    tree = {"name": "tree", "parameters": Node.model_json_schema()}
    other = {"name": "other", "parameters": Node.model_json_schema() | {"title": "Other"}}
    form = form_of([{"type": "function", "function": function} for function in (tree, other)], "any")
    assert form is not None
    leaf = {"name": "a", "children": []}
    validator = jsonschema.Draft202012Validator(form.schema)
    for name in ("tree", "other"):
        assert validator.is_valid({"name": name, "arguments": {"name": "a", "children": [leaf]}})
    assert not validator.is_valid({"name": "tree", "arguments": {"name": "a", "children": [{}]}})
    assert not validator.is_valid({"name": "none", "arguments": leaf})
    writer = load("embedded:draft").with_fields(
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": form.schema}}}
    )
    assert writer.grammar is not None


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"tool_choice": "ad", "tools": [add]}, "unknown tool 'ad', did you mean 'add'"),
        ({"tool_choice": "any"}, "tool_choice='any' without tools"),
        ({"response_format": {"type": "yaml"}}, "response_format takes"),
        ({"tools": [add], "parallel_tool_calls": False}, "parallel_tool_calls=False cannot be honoured in steps"),
        ({"tools": [add], "tool_choice": 3}, "tool_choice takes auto, none, required, any or a tool"),
        ({"verbosity": "low"}, r"RSD does not accept \['verbosity'\]"),
    ],
)
def test_what_no_answer_can_be_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        steps().invoke("q", **options)


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="needs a schema"):
        steps().with_structured_output()
    wrong: Any = "yaml"
    with pytest.raises(ValueError, match="method='yaml' is not one of"):
        steps().with_structured_output(Person, method=wrong)
    with pytest.raises(ValueError, match=r"accepts \['tools'\] only for LangChain models in turns"):
        steps().with_structured_output(Person, tools=[])
    never = {"title": "x", "type": "object", "properties": {"a": {"not": {}}}}
    with pytest.raises(ConfigurationError, match=r"cannot write JSON by this schema: Unimplemented keys: \[\"not\"\]"):
        ChatRSD().with_structured_output(never).invoke("q")


def test_a_model_of_lists_gives_no_object_and_is_named() -> None:
    model = chat(FakeListChatModel(responses=["x"]), FakeListChatModel(responses=["x"]))
    with pytest.raises(ConfigurationError, match=r"\(FakeListChatModel\) has no structured output"):
        model.with_structured_output(Person)
