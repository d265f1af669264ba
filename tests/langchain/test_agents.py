"""Agents: the middleware, and ChatRSD as an agent's model; no rejected draft reaches the user's stream."""

import asyncio
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelFallbackMiddleware, ModelRetryMiddleware
from langchain.agents.structured_output import ToolStrategy
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Command, interrupt
from pydantic import BaseModel

from rsd_core import ConfigurationError
from rsd_integrations.langchain import ChatRSD, RSDMiddleware, result_of
from tests.langchain.fakes import Inner, always, good


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"It rains in {city}."


@tool
def clock(city: str) -> str:
    """The time in a city."""
    return f"It is noon in {city}."


def call(name: str, city: str = "Rome") -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": {"city": city}, "id": f"call_{name}_{city}"}])


def strong(messages: list[BaseMessage], _: Any) -> AIMessage | str:
    """Asks for the weather, then for the time, then answers."""
    results = [message for message in messages if isinstance(message, ToolMessage)]
    answers: list[AIMessage | str] = [call("weather"), call("clock"), "It rains at noon."]
    return answers[len(results)]


def weak(messages: list[BaseMessage], options: Any) -> AIMessage | str:
    """The same with two mistakes: it asks for the weather of a wrong city, and answers wrongly."""
    results = [message for message in messages if isinstance(message, ToolMessage)]
    answers: list[AIMessage | str] = [call("weather", "BAD"), call("clock"), "A BAD answer."]
    return answers[len(results)]


def models() -> tuple[Inner, Inner]:
    return Inner(answer=weak, model_name="weak"), Inner(answer=strong, model_name="strong")


def agents() -> dict[str, Any]:
    """The same agent with RSD as its model, as its middleware, and in a graph of one's own."""
    draft, target = models()
    model = ChatRSD(draft=draft, target=target, verifier=good)
    graph = StateGraph(MessagesState)
    bound = model.bind_tools([weather, clock])
    graph.add_node("model", lambda state: {"messages": [bound.invoke(state["messages"])]})
    graph.add_node("tools", ToolNode([weather, clock]))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition, {"tools": "tools", END: END})
    graph.add_edge("tools", "model")
    rsd = RSDMiddleware(draft=draft, verifier=good)
    return {
        "model": create_agent(model, [weather, clock]),
        "middleware": create_agent(target, [weather, clock], middleware=[rsd]),
        "graph": graph.compile(),
    }


QUESTION: Any = {"messages": [HumanMessage("How is it in Rome?")]}


@pytest.mark.parametrize("name", ["model", "middleware", "graph"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_agent_with_two_tools_streams_no_rejected_token(name: str, asynchronous: bool) -> None:
    agent = agents()[name]

    async def streamed() -> list[Any]:
        return [part async for part in agent.astream(QUESTION, stream_mode="messages")]

    if asynchronous and name != "graph":  # its node is a blocking function
        parts = asyncio.run(streamed())
        state = asyncio.run(agent.ainvoke(QUESTION))
    else:
        parts = list(agent.stream(QUESTION, stream_mode="messages"))
        state = agent.invoke(QUESTION)
    assert [message.text for message in state["messages"] if isinstance(message, ToolMessage)] == [
        "It rains in Rome.",
        "It is noon in Rome.",
    ]
    assert state["messages"][-1].text == "It rains at noon."
    assert "BAD" not in str(parts)
    assert "BAD" not in str(state)
    said = "".join(str(message.text) for message, _ in parts if not isinstance(message, ToolMessage))
    assert said.replace("It rains at noon.", "", 1) == ""  # once, and nothing else


def test_drafts_were_rejected_and_replaced_and_the_state_tells() -> None:
    built = agents()
    wanted = [("target", 0.1), ("draft", 0.9), ("target", 0.1)]
    state = built["middleware"].invoke(QUESTION)
    assert [(one["author"], one["reward"]) for one in state["rsd"]] == wanted
    assert [one["usage"]["input_tokens"] for one in state["rsd"]] == [
        20,
        10,
        20,
    ]  # a draft, and where rejected a target
    state = built["model"].invoke(QUESTION)
    steps = [result_of(message).steps[0] for message in state["messages"] if isinstance(message, AIMessage)]
    assert [(step.author, step.reward) for step in steps] == wanted


class Weather(BaseModel):
    """The weather."""

    rain: bool


def test_structured_output_of_an_agent_is_drafted_too() -> None:
    def answer(rain: str) -> AIMessage:
        return AIMessage("", tool_calls=[{"name": "Weather", "args": {"rain": rain}, "id": "c"}])

    rsd = RSDMiddleware(draft=always(answer("true")), verifier=good)
    agent: Any = create_agent(always(answer("BAD")), [], middleware=[rsd], response_format=ToolStrategy(Weather))
    state = agent.invoke(QUESTION)
    assert state["structured_response"] == Weather(rain=True)
    assert state["rsd"][0]["author"] == "draft"


class Flaky:
    """Fails a number of times, then answers."""

    def __init__(self, failures: int, answer: str = "fine") -> None:
        self.failures, self.answer, self.asked = failures, answer, 0

    def __call__(self, *_: Any) -> str | Exception:
        self.asked += 1
        return ConnectionError("flaky") if self.asked <= self.failures else self.answer


def agent_of(target: Inner, *middleware: Any) -> Any:
    return create_agent(target, [], middleware=list(middleware))


def test_a_failing_draft_is_the_targets_to_answer() -> None:
    state = agent_of(always("fine"), RSDMiddleware(always(ConnectionError("x")), good)).invoke(QUESTION)
    assert state["messages"][-1].text == "fine"
    assert "ConnectionError" in state["rsd"][0]["degradations"][0]


def test_a_failing_target_raises_its_own_error() -> None:
    agent = agent_of(always(ConnectionError("down")), RSDMiddleware(always("BAD"), good))
    with pytest.raises(ConnectionError, match="down"):
        agent.invoke(QUESTION)
    with pytest.raises(ConnectionError, match="down"):
        asyncio.run(agent.ainvoke(QUESTION))


def retry() -> Any:
    return ModelRetryMiddleware(max_retries=3, retry_on=(ConnectionError,), initial_delay=0.0, jitter=False)


def test_retry_before_rsd_tries_the_whole_turn_again() -> None:
    draft, target = Flaky(0, "BAD"), Flaky(2)
    state = agent_of(Inner(answer=target), retry(), RSDMiddleware(Inner(answer=draft), good)).invoke(QUESTION)
    assert state["messages"][-1].text == "fine"
    assert (draft.asked, target.asked) == (3, 3)
    assert len(state["rsd"]) == 1


def test_retry_after_rsd_tries_each_model_again() -> None:
    draft, target = Flaky(1, "BAD"), Flaky(2)
    state = agent_of(Inner(answer=target), RSDMiddleware(Inner(answer=draft), good), retry()).invoke(QUESTION)
    assert state["messages"][-1].text == "fine"
    assert (draft.asked, target.asked) == (2, 3)


def test_a_fallback_before_rsd_takes_the_targets_place() -> None:
    spare = Inner(answer=lambda *_: "spare")
    draft = Flaky(0, "BAD")
    rsd = RSDMiddleware(Inner(answer=draft), good)
    state = agent_of(always(ConnectionError("down")), ModelFallbackMiddleware(spare), rsd).invoke(QUESTION)
    assert state["messages"][-1].text == "spare"
    assert draft.asked == 2


def test_a_fallback_after_rsd_takes_the_drafts_place_too() -> None:
    spare = Inner(answer=lambda *_: "spare")
    rsd = RSDMiddleware(always(ConnectionError("down")), good)
    state = agent_of(always("target"), rsd, ModelFallbackMiddleware(spare)).invoke(QUESTION)
    assert state["messages"][-1].text == "spare"


def test_an_interrupt_is_not_a_fault_of_a_model() -> None:
    def asks(messages: list[BaseMessage], _: Any) -> str:
        return f"the user said {interrupt('really?')}"

    agent: Any = create_agent(
        always("target"), [], middleware=[RSDMiddleware(Inner(answer=asks), good)], checkpointer=InMemorySaver()
    )
    config: Any = {"configurable": {"thread_id": "1"}}
    assert agent.invoke(QUESTION, config)["__interrupt__"][0].value == "really?"
    state = agent.invoke(Command(resume="yes"), config)
    assert state["messages"][-1].text == "the user said yes"
    assert state["rsd"][-1]["author"] == "draft"


def test_records_grow_over_the_turns_of_a_thread() -> None:
    draft, target = models()
    agent: Any = create_agent(
        target, [weather, clock], middleware=[RSDMiddleware(draft, good)], checkpointer=InMemorySaver()
    )
    config: Any = {"configurable": {"thread_id": "1"}}
    agent.invoke(QUESTION, config)
    assert len(agent.get_state(config).values["rsd"]) == 3


def test_mistakes_are_refused_when_the_middleware_is_made() -> None:
    with pytest.raises(ConfigurationError, match="names no model"):
        RSDMiddleware("gpt", good)
    with pytest.raises(ConfigurationError, match="binary_stp"):
        RSDMiddleware(always("x"), good, "binary_stp:1")
    with pytest.raises(ConfigurationError, match="names no model"):
        RSDMiddleware(always("x"), "nowhere:x")
    with pytest.raises(ValueError, match="on_verifier_error"):
        RSDMiddleware(always("x"), good, on_verifier_error="ignore")
