"""Budgets of agents by run and thread, with checkpoints, interrupts, retries and branches; and their records."""

from __future__ import annotations

import asyncio
import itertools
import json
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    HumanInTheLoopMiddleware,
    ModelFallbackMiddleware,
    ModelRetryMiddleware,
)
from langchain.agents.structured_output import ToolStrategy
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command
from pydantic import BaseModel

from rsd_core import ConfigurationError, Price
from rsd_core.testing import ScriptedVerifier
from rsd_integrations.langchain import BudgetExceededError, ChatRSD, RSDMiddleware, get_rsd_bill_callback, result_of
from rsd_integrations.langchain.agent_budget import RSDState
from tests.langchain.fakes import Inner, always
from tests.langchain.providers import CHATS, Call, Provider, Reply, provider


def question() -> Any:
    """A new message each time, since LangGraph gives it an id."""
    return {"messages": [HumanMessage("How are the seats?")]}


@pytest.fixture(scope="module")
def served() -> Iterator[Provider]:
    with provider() as running:
        yield running


@tool
def look(row: int = 0) -> str:
    """Looks at a row of seats."""
    return f"row {row} is free"


def looking(times: int, **options: Any) -> Inner:
    """A model that looks at a number of rows, then answers; it reads 10 tokens and writes 1 each time."""

    def answer(said: list[Any], _: Any) -> AIMessage | str:
        since = len(said) - 1 - max(i for i, one in enumerate(said) if isinstance(one, HumanMessage))
        row = since // 2
        if row >= times:
            return "free"
        return AIMessage("", tool_calls=[{"name": "look", "args": {"row": row}, "id": f"r{row}"}])

    return Inner(answer=answer, **options)


def thread(name: str = "1") -> Any:
    return {"configurable": {"thread_id": name}}


def agent_of(rsd: RSDMiddleware, target: Any, *others: Any, **options: Any) -> Any:
    return create_agent(target, [look], middleware=[*others, rsd], checkpointer=InMemorySaver(), **options)


def authors(state: dict[str, Any]) -> list[str]:
    return [record["author"] for record in state["rsd"]]


def test_a_run_ends_at_its_budget_and_the_next_run_has_its_own() -> None:
    rsd = RSDMiddleware(always("BAD"), lambda *_: 0.0, run_budget={"max_target_calls": 2})
    agent = agent_of(rsd, looking(5))
    state = agent.invoke(question(), thread())
    assert authors(state) == ["target", "target", "limit"]
    assert state["rsd"][-1]["limit"] == "max_target_calls=2 of this run is reached: 2 used"
    assert state["messages"][-1].text == "The budget is spent: max_target_calls=2 of this run is reached: 2 used."
    assert authors(agent.invoke(question(), thread()))[3:] == ["target", "target", "limit"]


def test_a_threads_budget_is_kept_across_runs_and_is_its_own() -> None:
    rsd = RSDMiddleware(always("BAD"), lambda *_: 0.0, thread_budget={"max_target_calls": 4})
    agent = agent_of(rsd, looking(2))
    assert authors(agent.invoke(question(), thread())) == ["target"] * 3
    assert authors(agent.invoke(question(), thread()))[3:] == ["target", "limit"]
    assert authors(agent.invoke(question(), thread()))[5:] == ["limit"]
    assert authors(agent.invoke(question(), thread("2"))) == ["target"] * 3


def test_accepted_drafts_go_on_without_the_target() -> None:
    rsd = RSDMiddleware(looking(5), lambda *_: 1.0, run_budget={"max_target_calls": 0})
    assert authors(agent_of(rsd, always("never")).invoke(question(), thread())) == ["draft"] * 6


def test_tokens_and_money_are_those_of_all_models() -> None:
    target = looking(9, model_name="strong")
    judge = always("Score: 0", model_name="judge")
    options: dict[str, Any] = {"prices": {"cheap": (1e6, 0), "strong": Price(0, 1e6), "judge": (0, 0)}}
    spent = RSDMiddleware(always("BAD", model_name="cheap"), judge, run_budget={"max_tokens": 100}, **options)
    state = agent_of(spent, target).invoke(question(), thread())
    assert authors(state) == ["target", "target", "target", "limit"]
    first = state["rsd"][0]
    # each of the three reads 10; the draft writes 1 token, the target 1, the judge 2
    assert first["usage"]["total_tokens"] == 34
    assert first["cost"] == 10 + 1
    assert state["rsd"][-1]["usage"]["total_tokens"] == 0
    costly = RSDMiddleware(always("BAD", model_name="cheap"), judge, run_budget={"max_cost": 20}, **options)
    assert authors(agent_of(costly, target).invoke(question(), thread())) == ["target", "target", "limit"]


def test_money_needs_prices_before_anything_is_called() -> None:
    options: dict[str, Any] = {"thread_budget": {"max_cost": 1.0}}
    with pytest.raises(ConfigurationError, match=r"needs the price of 'cheap'; give prices={'cheap'"):
        RSDMiddleware(always("x", model_name="cheap"), lambda *_: 1.0, **options)
    with pytest.raises(ConfigurationError, match="needs the price of 'judge'"):
        RSDMiddleware(always("x"), always("Score: 9", model_name="judge"), prices={"inner": (1, 1)}, **options)
    draft = always("x")
    agent = agent_of(
        RSDMiddleware(draft, lambda *_: 1.0, prices={"inner": (1, 1)}, **options), always("x", model_name="strong")
    )
    with pytest.raises(ConfigurationError, match="needs the price of 'strong'"):
        agent.invoke(question(), thread())
    assert draft.asked == []


@pytest.mark.parametrize("verifier", ["scripted:verifier", ScriptedVerifier([1.0] * 9)])
def test_money_needs_the_price_of_every_verifier(verifier: Any) -> None:
    # Without it, the cost of each call would be unknown, and no amount would ever be reached.
    target, own = always("x", model_name="strong"), {"inner": (1e6, 1e6), "strong": (1e6, 1e6)}

    def run(prices: dict[str, Any]) -> list[str]:
        rsd = RSDMiddleware(always("x"), verifier, thread_budget={"max_cost": 1.0}, prices=prices)
        agent = agent_of(rsd, target)
        agent.invoke(question(), thread())
        return authors(agent.invoke(question(), thread()))

    with pytest.raises(ConfigurationError, match="needs the price of 'scripted verifier'"):
        run(own)
    assert run(own | {"scripted verifier": (0, 0)})[-1] == "limit"


def test_a_verifier_that_is_a_function_costs_nothing() -> None:
    rsd = RSDMiddleware(always("x"), lambda *_: 1.0, prices={"inner": (1e6, 1e6)})
    assert agent_of(rsd, always("x")).invoke(question(), thread())["rsd"][0]["cost"] == 11


def test_what_has_no_price_has_no_cost() -> None:
    assert (
        agent_of(RSDMiddleware(always("x"), lambda *_: 1.0), always("x")).invoke(question(), thread())["rsd"][0]["cost"]
        is None
    )


def test_an_error_where_it_is_asked_for_carries_the_record() -> None:
    rsd = RSDMiddleware(always("BAD"), lambda *_: 0.0, run_budget={"max_target_calls": 1}, exit_behavior="error")
    with pytest.raises(BudgetExceededError, match="max_target_calls=1") as raised:
        agent_of(rsd, looking(3)).invoke(question(), thread())
    assert raised.value.record["usage"]["total_tokens"] == 11  # the draft that was rejected
    retry: Any = ModelRetryMiddleware(max_retries=3, initial_delay=0.0, jitter=False)
    draft = Inner(answer=lambda *_: "BAD")
    rsd = RSDMiddleware(draft, lambda *_: 0.0, run_budget={"max_target_calls": 0}, exit_behavior="error")
    with pytest.raises(BudgetExceededError):
        agent_of(rsd, always("x"), retry, ModelFallbackMiddleware(always("spare"))).invoke(question(), thread())
    assert len(draft.asked) == 2  # one try, and one of the fallback, which has the same budget
    again = pickle.loads(pickle.dumps(raised.value))
    assert (str(again), again.record) == (str(raised.value), raised.value.record)


@pytest.mark.parametrize("calls", [False, True])
def test_a_draft_stands_in_for_the_target_where_it_calls_nothing(calls: bool) -> None:
    draft = looking(1) if calls else always("a BAD answer")
    rsd = RSDMiddleware(draft, lambda *_: 0.0, run_budget={"max_target_calls": 0}, exit_behavior="draft")
    state = agent_of(rsd, always("never")).invoke(question(), thread())
    assert authors(state) == ["limit"]
    assert state["messages"][-1].text.startswith("The budget is spent" if calls else "a BAD answer")
    assert not any(isinstance(message, ToolMessage) for message in state["messages"])


class Seats(BaseModel):
    """Free seats."""

    free: int


class After(AgentMiddleware[Any, Any]):
    """A node after the model, which a jump to the end does not outlive."""

    def after_model(self, state: Any, runtime: Any) -> None: ...


@pytest.mark.parametrize("tools", [[], [look]])
@pytest.mark.parametrize("other", [None, After(), HumanInTheLoopMiddleware(interrupt_on={"look": True})])
def test_an_agent_with_a_structured_answer_ends_at_its_budget(tools: list[Any], other: Any) -> None:
    rsd = RSDMiddleware(always("BAD"), lambda *_: 0.0, run_budget={"max_target_calls": 0})
    middleware = [rsd] if other is None else [other, rsd]
    agent: Any = create_agent(
        always("no"), tools, middleware=middleware, response_format=ToolStrategy(Seats), checkpointer=InMemorySaver()
    )
    if isinstance(other, After) and not tools:
        with pytest.raises(BudgetExceededError, match="max_target_calls=0"):
            agent.invoke(question(), thread())
        return
    state = agent.invoke(question(), thread())
    assert authors(state) == ["limit"]
    assert state.get("structured_response") is None


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_interrupted_run_goes_on_with_its_budget(asynchronous: bool) -> None:
    rsd = RSDMiddleware(always("BAD"), lambda *_: 0.0, run_budget={"max_target_calls": 2})
    agent = agent_of(rsd, looking(5), HumanInTheLoopMiddleware(interrupt_on={"look": True}))

    def go(value: Any) -> dict[str, Any]:
        made: dict[str, Any] = (
            asyncio.run(agent.ainvoke(value, thread())) if asynchronous else agent.invoke(value, thread())
        )
        return made

    state = go(question())
    for used in (1, 2):
        assert authors(state) == ["target"] * used
        assert "__interrupt__" in state
        state = go(Command(resume={"decisions": [{"type": "approve"}]}))
    assert authors(state) == ["target", "target", "limit"]
    assert len({record["id"] for record in state["rsd"]}) == 3


def test_branches_add_up_and_subgraphs_do_not_count_twice() -> None:
    rsd = RSDMiddleware(always("BAD"), lambda *_: 0.0, thread_budget={"max_target_calls": 5})
    inner: Any = create_agent(looking(0), [look], middleware=[rsd])
    graph = StateGraph(RSDState)
    for name in ("left", "right"):
        graph.add_node(name, inner)
        graph.add_edge(START, name)
        graph.add_edge(name, END)
    both: Any = graph.compile(checkpointer=InMemorySaver())
    assert authors(both.invoke(question(), thread())) == ["target"] * 2
    assert authors(both.invoke(question(), thread())) == ["target"] * 4
    assert authors(both.invoke(question(), thread())) == ["target"] * 6  # both began with one call left
    assert authors(both.invoke(question(), thread()))[6:] == ["limit"] * 2


class Failing:
    """Fails a number of times."""

    def __init__(self, times: int) -> None:
        self.times = itertools.count(-times)

    def __call__(self, *_: Any) -> str | Exception:
        return ConnectionError("down") if next(self.times) < 0 else "fine"


def test_what_failed_and_was_retried_is_on_the_bill() -> None:
    rsd = RSDMiddleware(always("BAD"), lambda *_: 0.0)
    retry = ModelRetryMiddleware(max_retries=3, initial_delay=0.0, jitter=False)
    agent = agent_of(rsd, Inner(answer=Failing(2)), retry)
    state = agent.invoke(question(), thread())
    assert authors(state) == ["target"]
    assert state["rsd"][0]["usage"]["total_tokens"] == 3 * 11 + 11  # three drafts and the answer
    assert state["rsd"][0]["target_calls"] == 3
    assert agent.invoke(question(), thread())["rsd"][1]["target_calls"] == 1


def test_a_fallbacks_bill_has_the_call_that_failed() -> None:
    rsd = RSDMiddleware(always("BAD"), lambda *_: 0.0, run_budget={"max_target_calls": 2})
    agent = agent_of(rsd, always(ConnectionError("down")), ModelFallbackMiddleware(looking(5)))
    state = agent.invoke(question(), thread())
    assert authors(state) == ["target", "limit"]
    assert state["rsd"][0]["target_calls"] == 2


def test_records_are_plain_data_and_the_message_holds_the_result(served: Provider) -> None:
    served.answers(Reply(calls=[Call("look", '{"row": 1}')], reason="tool_calls", read=7, wrote=3), "hm", "free")
    rsd = RSDMiddleware(CHATS["ChatAnthropic"](served), lambda _, reply: float(bool(reply.tool_calls)))
    counted = UsageMetadataCallbackHandler()
    state = agent_of(rsd, CHATS["ChatOpenAI"](served)).invoke(question(), thread() | {"callbacks": [counted]})
    assert json.loads(json.dumps(state["rsd"])) == state["rsd"]
    drafted, answered = [message for message in state["messages"] if isinstance(message, AIMessage)]
    assert drafted.usage_metadata is not None
    assert answered.usage_metadata is not None
    assert (drafted.usage_metadata["input_tokens"], drafted.usage_metadata["output_tokens"]) == (7, 3)
    assert answered.usage_metadata["total_tokens"] == 15  # its own call, not the rejected draft's
    assert [record["usage"]["total_tokens"] for record in state["rsd"]] == [10, 30]
    assert result_of(answered).ledger.drafter.generated == 5
    assert result_of(answered).steps[0].discarded_draft == ""  # rejected texts stay out of the state
    seen = sum(one["total_tokens"] for one in counted.usage_metadata.values())
    assert seen == sum(record["usage"]["total_tokens"] for record in state["rsd"])


def billed(agent: Any, asynchronous: bool = False) -> tuple[int, dict[str, Any]]:
    """Tokens that a handler of bills hears of, and the state."""
    with get_rsd_bill_callback() as bill:
        state = asyncio.run(agent.ainvoke(question(), thread())) if asynchronous else agent.invoke(question(), thread())
    return sum(item["usage"]["total_tokens"] for item in bill.items), state


def recorded(state: dict[str, Any]) -> int:
    return sum(record["usage"]["total_tokens"] for record in state["rsd"])


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_handler_of_bills_hears_of_agents(asynchronous: bool) -> None:
    judge = always("Score: 0", model_name="judge")
    rsd = RSDMiddleware(always("BAD"), judge, run_budget={"max_target_calls": 3})
    retry = ModelRetryMiddleware(max_retries=3, initial_delay=0.0, jitter=False)
    heard, state = billed(agent_of(rsd, Inner(answer=Failing(2)), retry), asynchronous)
    assert heard == recorded(state) == 3 * (11 + 12) + 11
    heard, state = billed(agent_of(rsd, looking(5)), asynchronous)
    assert authors(state) == ["target"] * 3 + ["limit"]
    assert heard == recorded(state)


def test_rsd_within_rsd_is_paid_for_as_a_whole_and_once() -> None:
    target = ChatRSD(draft=always("BAD"), target=always("fine"), verifier=lambda *_: 0.0)
    heard, state = billed(agent_of(RSDMiddleware(always("BAD"), lambda *_: 0.0), target))
    assert heard == recorded(state) == 3 * 11
    both = [RSDMiddleware(always("BAD"), lambda *_: 0.0, name=name) for name in ("outer", "inner")]
    heard, state = billed(agent_of(both[1], always("fine"), both[0]))
    assert [record["usage"]["total_tokens"] for record in state["rsd"]] == [22, 33]
    assert heard == 33


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"run_budget": {"max_target_call": 1}}, "max_target_calls"),
        ({"thread_budget": {"max_tokens": 0}}, "max_tokens"),
        ({"run_budget": {"max_cost": -1}}, "max_cost"),
        ({"run_budget": 3}, "run_budget"),
        ({"exit_behavior": "stop"}, "one of end, error, draft"),
        ({"prices": {"m": 3}}, "million tokens"),
        ({"prices": {"m": (1, -1)}}, "at least 0"),
        ({"prices": {"m": (1,)}}, "million tokens"),
    ],
)
def test_mistakes_are_refused_when_the_middleware_is_made(options: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigurationError, match=what):
        RSDMiddleware(always("x"), lambda *_: 1.0, **options)
