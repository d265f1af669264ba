"""Traces and streams of an agent with RSD, and the models and names that it accepts."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelFallbackMiddleware, ModelRetryMiddleware
from langchain.chat_models import init_chat_model
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.tools import tool
from langchain_core.tracers.base import BaseTracer
from langchain_core.tracers.schemas import Run
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

from rsd_core import ConfigurationError
from rsd_integrations.langchain import RSDMiddleware
from tests.langchain.fakes import Inner, always, good
from tests.langchain.providers import CHATS, KEY, Provider, Reply, provider
from tests.langchain.test_agents_tools import once


@pytest.fixture(scope="module")
def served() -> Iterator[Provider]:
    with provider() as running:
        yield running


def question() -> Any:
    return {"messages": [HumanMessage("How is it?")]}


class Tracer(BaseTracer):
    """Keeps the tree of runs, as LangSmith's tracer does."""

    def __init__(self) -> None:
        super().__init__()
        self.roots: list[Run] = []

    def _persist_run(self, run: Run) -> None:
        self.roots.append(run)

    def named(self, name: str, of: Run | None = None) -> list[Run]:
        """Runs of this name under one, or under all."""
        found: list[Run] = []
        for run in self.roots if of is None else of.child_runs:
            found += [run] if run.name == name else []
            found += self.named(name, run)
        return found


def traced(agent: Any, asynchronous: bool = False) -> tuple[Tracer, dict[str, Any]]:
    tracer = Tracer()
    config: Any = {"callbacks": [tracer]}
    state = asyncio.run(agent.ainvoke(question(), config)) if asynchronous else agent.invoke(question(), config)
    return tracer, state


@tool
def look() -> str:
    """Looks."""
    return "rain"


LOOK = AIMessage("", tool_calls=[{"name": "look", "args": {}, "id": "l"}])


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("trace_inner", [False, True])
def test_a_trace_tells_reward_author_policy_and_tool_of_each_call(asynchronous: bool, trace_inner: bool) -> None:
    judge = always("Score: 8", model_name="judge")
    rsd = RSDMiddleware(
        once(LOOK), judge, trace_inner=trace_inner, tool_policies={"look": "binary_step:0.95"}, name="rsd"
    )
    tracer, state = traced(create_agent(once(LOOK), [look], middleware=[rsd]), asynchronous)
    first, second = tracer.named("rsd")
    assert [first.outputs, second.outputs] == state["rsd"]
    told = [(run.outputs or {}) for run in (first, second)]
    assert [(one["author"], one["reward"], one["accepted"], one["policy"], one["tools"]) for one in told] == [
        ("target", 8 / 9, False, ["binary_step:delta=0.95"], ["look"]),
        ("draft", 8 / 9, True, ["binary_step:delta=0.7"], []),
    ]
    tags = [[tag for tag in run.tags or [] if tag.startswith("rsd:")] for run in tracer.named("Inner", first)]
    assert tags == ([["rsd:draft"], ["rsd:judge"], []] if trace_inner else [[]])
    assert all(run.parent_run_id == first.id for run in first.child_runs)
    assert first.parent_run_id is not None
    assert len(tracer.named("Inner")) == (5 if trace_inner else 1)


def test_a_failing_target_ends_its_run_with_its_error() -> None:
    tracer, asked = Tracer(), always(ConnectionError("down"))
    rsd = RSDMiddleware(always("BAD"), good, name="rsd")
    with pytest.raises(ConnectionError):
        create_agent(asked, [], middleware=[rsd]).invoke(question(), {"callbacks": [tracer]})
    (run,) = tracer.named("rsd")
    assert "down" in str(run.error)


STREAMS = ["messages", "v3", "v2 events"]


async def _streamed(agent: Any, way: str) -> list[str]:
    if way == "messages":
        return [str(part.text) async for part, _ in agent.astream(question(), stream_mode="messages")]
    if way == "v2 events":
        events = [one async for one in agent.astream_events(question(), version="v2")]
        return [str(one["data"]["chunk"].text) for one in events if one["event"] == "on_chat_model_stream"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # LangChain calls it experimental
        run = await agent.astream_events(question(), version="v3")
        return [text async for message in run.messages async for text in message.text]


@pytest.mark.parametrize("way", STREAMS)
@pytest.mark.parametrize("name", ["ChatOpenAI", "ChatAnthropic"])
def test_streams_have_the_chosen_answer_once_and_no_rejected_token(name: str, way: str, served: Provider) -> None:
    served.answers_by(lambda asked: "a BAD one" if asked.model == "cheap" else "a fine one")
    rsd = RSDMiddleware(CHATS[name](served, model="cheap"), good)
    agent = create_agent(CHATS[name](served, model="strong"), [], middleware=[rsd])
    assert "".join(asyncio.run(_streamed(agent, way))) == "a fine one"


@pytest.mark.parametrize("way", ["messages", "v3"])
def test_an_accepted_draft_is_streamed_once(way: str, served: Provider) -> None:
    served.answers("a fine one")
    agent = create_agent(always("no"), [], middleware=[RSDMiddleware(CHATS["ChatOpenAI"](served), good)])
    assert "".join(asyncio.run(_streamed(agent, way))) == "a fine one"


# --- which models, which names ----------------------------------------------------------------------------------------


def test_two_of_them_make_a_cascade() -> None:
    answers = {name: f"{name} BAD" for name in ("nano", "mini", "big")}
    nano, mini, big = (Inner(answer=lambda *_, n=name: answers[n], model_name=name) for name in answers)
    outer, inner = RSDMiddleware(nano, good), RSDMiddleware(mini, good)
    state = create_agent(big, [], middleware=[outer, inner]).invoke(question())
    assert state["messages"][-1].text == "big BAD"
    assert [len(model.asked) for model in (nano, mini, big)] == [1, 1, 1]
    records = {record["middleware"]: record["usage"]["total_tokens"] for record in state["rsd"]}
    assert records == {"RSDMiddleware[nano]": 3 * 12, "RSDMiddleware[mini]": 2 * 12}
    answers["mini"] = "mini is fine"
    state = create_agent(big, [], middleware=[outer, inner]).invoke(question())
    assert state["messages"][-1].text == "mini is fine"
    assert len(big.asked) == 1


def test_names_are_those_of_nodes_and_may_be_given() -> None:
    assert RSDMiddleware(always("x", model_name="us.meta:1|2"), good).name == "RSDMiddleware[us.meta_1_2]"
    both = [RSDMiddleware(always("BAD"), good, name=name) for name in ("first", "second")]
    state = create_agent(always("x"), [], middleware=both).invoke(question())
    assert {record["middleware"] for record in state["rsd"]} == {"first", "second"}


def test_a_name_as_langchain_users_write_it(served: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", f"{served.url}/v1")
    served.answers("fine")
    rsd = RSDMiddleware(drafter="openai:gpt-4.1-nano", verifier=good)
    assert create_agent(always("x"), [], middleware=[rsd]).invoke(question())["messages"][-1].text == "fine"
    assert served.sent["model"] == "gpt-4.1-nano"
    assert KEY not in repr(rsd) + repr(vars(rsd))


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: RSDMiddleware(), "is missing"),
        (lambda: RSDMiddleware(always("x"), good, drafter=always("x")), "are aliases"),
        (lambda: RSDMiddleware(always("x")), "verifier= is missing"),
        (lambda: RSDMiddleware("opnai:gpt-5-nano", good), "opnai:gpt-5-nano"),
        (lambda: RSDMiddleware(always("x").with_retry(), good), "ModelRetryMiddleware"),  # type: ignore[arg-type]
        (lambda: RSDMiddleware(always("x").with_fallbacks([always("y")]), good), "ModelFallback"),  # type: ignore[arg-type]
        (lambda: RSDMiddleware(always("x").bind_tools([look]), good), "bind its tools"),
        (lambda: RSDMiddleware(init_chat_model(configurable_fields="any"), good), "bind its tools"),  # type: ignore[arg-type]
    ],
)
def test_an_invalid_draft_is_refused_with_the_reason(make: Any, what: str) -> None:
    with pytest.raises(ConfigurationError, match=what):
        make()


def test_bound_options_go_along(served: Provider) -> None:
    served.answers("fine")
    draft: Any = CHATS["ChatOpenAI"](served).bind(temperature=0.25)
    rsd = RSDMiddleware(draft, good)
    create_agent(CHATS["ChatOpenAI"](served), [look], middleware=[rsd]).invoke(question())
    assert (served.sent["temperature"], len(served.sent["tools"])) == (0.25, 1)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("coroutine", [False, True])
def test_an_interrupt_of_a_verifier_asks_the_user(asynchronous: bool, coroutine: bool) -> None:
    def ask(_: list[BaseMessage], reply: AIMessage) -> float:
        return float(interrupt(f"how good is {reply.text!r}?"))

    async def ask_later(messages: list[BaseMessage], reply: AIMessage) -> float:
        return ask(messages, reply)

    rsd = RSDMiddleware(always("the draft"), ask_later if coroutine else ask)
    agent: Any = create_agent(always("no"), [], middleware=[rsd], checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}

    def go(value: Any) -> Any:
        return asyncio.run(agent.ainvoke(value, config)) if asynchronous else agent.invoke(value, config)

    assert go(question())["__interrupt__"][0].value == "how good is 'the draft'?"
    state = go(Command(resume=0.9))
    assert (state["messages"][-1].text, state["rsd"][-1]["reward"]) == ("the draft", 0.9)
    assert state["rsd"][-1]["usage"]["total_tokens"] == 2 * 12  # LangGraph runs the node again: it was drafted twice


@pytest.mark.parametrize("name", ["ChatOpenAI", "ChatAnthropic"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_providers_errors_keep_their_type(name: str, asynchronous: bool, served: Provider) -> None:
    import anthropic
    import openai

    limited = {"ChatOpenAI": openai.RateLimitError, "ChatAnthropic": anthropic.RateLimitError}[name]
    wrong_key = {"ChatOpenAI": openai.AuthenticationError, "ChatAnthropic": anthropic.AuthenticationError}[name]
    replies = iter([Reply("slow", status=429), Reply("slow", status=429), Reply("fine")])
    served.answers_by(lambda asked: "BAD" if asked.model == "cheap" else next(replies))
    retry = ModelRetryMiddleware(max_retries=3, retry_on=(limited,), initial_delay=0.0, jitter=False)
    rsd: Any = RSDMiddleware(CHATS[name](served, model="cheap"), good)

    def go(*middleware: Any) -> str:
        agent: Any = create_agent(CHATS[name](served, model="strong"), [], middleware=middleware)
        state = asyncio.run(agent.ainvoke(question())) if asynchronous else agent.invoke(question())
        return str(state["messages"][-1].text)

    assert go(retry, rsd) == "fine"
    served.answers_by(lambda asked: "BAD" if asked.model == "cheap" else Reply("wrong key", status=401))
    with pytest.raises(wrong_key):
        go(rsd)
    assert go(ModelFallbackMiddleware(always("spare")), rsd) == "spare"


def test_what_is_for_one_provider_goes_behind(served: Provider) -> None:
    from langchain_anthropic.middleware import AnthropicPromptCachingMiddleware

    served.answers_by(lambda asked: "a BAD one" if asked.api == "chat" else "fine")
    rsd: Any = RSDMiddleware(CHATS["ChatOpenAI"](served), good)
    caching: Any = AnthropicPromptCachingMiddleware(unsupported_model_behavior="ignore")
    agent: Any = create_agent(CHATS["ChatAnthropic"](served), [], middleware=[rsd, caching])
    record = agent.invoke(question())["rsd"][0]
    assert (record["author"], record["reward"], record["degradations"]) == ("target", 0.1, [])
    assert "cache_control" in str(served.sent)
    assert "cache_control" not in str(served.asked[-2].body)


def test_a_draft_with_a_wrong_key_is_reported(served: Provider) -> None:
    served.answers_by(lambda asked: Reply("a wrong key", status=401) if asked.model == "cheap" else "fine")
    rsd = RSDMiddleware(CHATS["ChatOpenAI"](served, model="cheap"), good)
    agent = create_agent(CHATS["ChatOpenAI"](served, model="strong"), [], middleware=[rsd])
    with pytest.warns(UserWarning, match=r"the drafter has failed.*wrong key"):
        state = agent.invoke(question())
    agent.invoke(question())  # told once: a second warning would be an error
    assert "wrong key" in state["rsd"][0]["degradations"][0]
    assert KEY not in str(state)
