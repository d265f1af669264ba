"""Errors, timeouts and signals leave RSD as callers expect them, with fallbacks, retries and graphs around it."""

import asyncio
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelRetryMiddleware
from langchain_core.exceptions import ContextOverflowError, ModelTimeoutError
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, interrupt
from pydantic import BaseModel, ValidationError

from rsd_core import BatchError, Path, RoleWarning, RunError, StepRequest, TargetError
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_integrations.langchain import RSDLLM, ChatRSD, LangChainDrafter, LangChainTarget, RSDRunnable, result_of
from rsd_integrations.provider_errors import AnswerTimeoutError, mark_permanent, with_providers_type
from tests.langchain.fakes import Inner, always, good
from tests.langchain.providers import CHATS, Provider, Reply, chat_openai, provider

KINDS = [ChatRSD, RSDRunnable, RSDLLM]


@pytest.fixture
def served() -> Iterator[Provider]:
    with provider() as running:
        yield running


def rsd(target: Any, kind: Any = ChatRSD, **options: Any) -> Any:
    """RSD by turns, whose draft is rejected."""
    given: dict[str, Any] = {"draft": always("BAD"), "target": target, "verifier": good, "max_retries": 0}
    return kind(**{**given, "granularity": "turn", **options})


def text(answer: Any) -> str:
    return answer if isinstance(answer, str) else str(answer.text)


async def _astreamed(model: Any) -> str:
    return "".join([text(chunk) async for chunk in model.astream("q")])


WAYS: dict[str, Callable[[Any], str]] = {
    "invoke": lambda model: text(model.invoke("q")),
    "ainvoke": lambda model: text(asyncio.run(model.ainvoke("q"))),
    "stream": lambda model: "".join(map(text, model.stream("q"))),
    "astream": lambda model: asyncio.run(_astreamed(model)),
    "batch": lambda model: text(model.batch(["q"])[0]),
    "abatch": lambda model: text(asyncio.run(model.abatch(["q"]))[0]),
}


def error_of(model: Any) -> Any:
    try:
        model.invoke("q")
    except Exception as error:
        return error
    raise AssertionError("it answered")


SPARE: Any = RunnableLambda(lambda _: "spare")


@pytest.mark.parametrize("name", CHATS)
def test_the_error_of_each_partner_class_matches_as_it_does_around_the_class(served: Provider, name: str) -> None:
    inner = CHATS[name](served)
    for status in (400, 401, 404, 500) if name == "ChatOpenAI" else (400, 401, 429):
        served.answers(Reply("no", status=status))
        kind = type(error_of(inner))
        asked_alone = len(served.asked)  # some classes try again themselves
        error = error_of(rsd(inner))
        assert isinstance(error, kind)
        assert TargetError in type(error).__mro__
        assert error.partial.ledger.drafter.calls == 1
        served.asked.clear()
        model = rsd(inner, max_retries=2)
        assert model.with_fallbacks([SPARE], exceptions_to_handle=(kind,)).invoke("q") == "spare"
        assert len(served.asked) == (3 if status in (429, 500) else 1) * asked_alone
        served.asked.clear()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_fallbacks_and_retries_match_every_way(served: Provider, kind: Any, way: str) -> None:
    ask = WAYS[way]
    served.answers(Reply("slow down", status=429))
    model = rsd(chat_openai(served), kind)
    with pytest.raises(openai.RateLimitError) as caught:
        ask(model)
    assert isinstance(caught.value, RunError)
    assert ask(model.with_fallbacks([SPARE], exceptions_to_handle=(openai.RateLimitError,))) == "spare"
    with pytest.raises(RunError):
        ask(model.with_fallbacks([SPARE], exceptions_to_handle=(ZeroDivisionError,)))
    if "stream" in way:  # RunnableRetry does not try streams again
        return
    served.answers(Reply("slow down", status=429), Reply("slow down", status=429), "fine")
    patient = model.with_retry(
        retry_if_exception_type=(openai.RateLimitError,), wait_exponential_jitter=False, stop_after_attempt=3
    )
    assert ask(patient) == "fine"


def test_a_batch_that_fails_raises_an_error_of_the_providers_type_with_all_results(served: Provider) -> None:
    served.answers(Reply("slow down", status=429))
    llm = rsd(chat_openai(served), RSDLLM)
    with pytest.raises(openai.RateLimitError) as caught:
        llm.batch(["a", "b"])
    error: Any = caught.value
    assert isinstance(error, BatchError)
    assert len(error.results) == 2
    assert all(isinstance(one, openai.RateLimitError) for one in error.errors.values())
    again = pickle.loads(pickle.dumps(error))
    assert [type(again), len(again.results)] == [BatchError, 2]


def test_an_agents_retries_and_recoveries_match(served: Provider) -> None:
    served.answers(Reply("slow down", status=429), "fine")
    retry = ModelRetryMiddleware(retry_on=(openai.RateLimitError,), initial_delay=0.0, jitter=False)
    agent: Any = create_agent(rsd(chat_openai(served)), [], middleware=[retry])
    assert agent.invoke({"messages": [HumanMessage("q")]})["messages"][-1].text == "fine"
    served.answers(Reply("This model's maximum context length is 10 tokens: context_length_exceeded", status=400))
    with pytest.raises(ContextOverflowError):
        chat_openai(served).invoke("q")
    with pytest.raises(ContextOverflowError):
        rsd(chat_openai(served)).invoke("q")


class Point(BaseModel):
    x: int


def test_an_error_whose_type_has_no_subclasses_is_raised_itself_with_the_partial_result() -> None:
    def breaks(_: Any) -> Any:
        return Point(x="no")

    for kind in KINDS:
        with pytest.raises(ValidationError) as caught:
            rsd(RunnableLambda(breaks), kind).invoke("q")
        error: Any = caught.value
        assert error.partial.ledger.drafter.calls == 1
        assert "the target" in error.__notes__[-1]


@pytest.mark.parametrize("retries", [0, 2])
def test_wrong_arguments_are_not_retried(retries: int) -> None:
    asked = []

    def breaks(_: Any) -> Any:
        asked.append(1)
        raise TypeError("unexpected keyword argument")

    with pytest.raises(TypeError):
        rsd(RunnableLambda(breaks), max_retries=retries).invoke("q")
    assert len(asked) == 1


def test_a_drafter_that_cannot_work_is_reported_at_once_and_not_asked_at_each_step(served: Provider) -> None:
    served.answers_by(
        lambda asked: (
            Reply("no key", status=401)
            if asked.model == "cheap"
            else f"step {1 + asked.beginning.count('step')}.\n\n"
            if asked.beginning.count("step") < 3
            else "done"
        )
    )
    options: Any = {"prefix": "continue_final_message", "stop": "cut"}
    model = ChatRSD(
        draft=LangChainDrafter(chat_openai(served, model="cheap"), **options),
        target=LangChainTarget(chat_openai(served, model="strong"), **options),
        verifier=good,
    )
    with pytest.warns(
        RoleWarning, match="the drafter has failed at its first call.*no key.*the target writes every step"
    ):
        message = model.invoke("q")
    assert message.text == "step 1.\n\nstep 2.\n\nstep 3.\n\ndone"
    assert [asked.model for asked in served.asked] == ["cheap", "strong", "strong", "strong", "strong"]
    assert len(result_of(message).degradations) == 1
    model.invoke("q")  # a warning would be an error here
    assert [asked.model for asked in served.asked].count("cheap") == 2


@pytest.mark.parametrize(
    ("status", "passes"), [(400, False), (401, False), (404, False), (408, True), (429, True), (503, True)]
)
def test_temporary_errors_are_recognised_by_status(status: int, passes: bool) -> None:
    class TheirError(Exception):
        status_code = status

    error: Any = TheirError()
    mark_permanent(error)
    assert getattr(error, "is_retryable", True) == passes


@pytest.mark.parametrize(
    "error",
    [KeyError("k"), UnicodeDecodeError("utf8", b"x", 0, 1, "r"), ConnectionError("c"), FileNotFoundError(2, "no", "f"),
     ExceptionGroup("g", [ValueError()]), StopAsyncIteration(), SyntaxError("x")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_errors_of_any_type_are_found_by_it(error: Exception) -> None:
    ours = TargetError("the target failed")
    ours.__cause__ = error
    both = with_providers_type(ours)
    assert isinstance(both, type(error))
    assert getattr(both, "partial", "none") is None
    assert isinstance(both, TargetError) == (not isinstance(error, ExceptionGroup))


# Time-outs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_a_time_out_with_nothing_written_raises_and_fallbacks_answer(served: Provider, kind: Any, way: str) -> None:
    served.answers(Reply("late", delay=0.15))
    model = rsd(always("t"), kind, draft=chat_openai(served), timeout=0.05)
    with pytest.raises(TimeoutError) as caught:
        WAYS[way](model)
    error: Any = caught.value
    if isinstance(error, BatchError):
        error = error.errors[0]
    assert {AnswerTimeoutError, ModelTimeoutError} <= set(type(error).__mro__)
    assert error.partial.finish_reason == "max_seconds"
    assert error.partial.ledger.drafter.calls == 1
    assert "give a longer timeout" in str(error)
    assert WAYS[way](model.with_fallbacks([SPARE], exceptions_to_handle=(TimeoutError,))) == "spare"
    again: Any = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.partial.finish_reason) == (type(error), str(error), "max_seconds")


class OneStep(ScriptedDrafter):
    """Writes one step, and nothing more for a long time."""

    async def generate(self, path: Path, request: StepRequest) -> Any:
        if path.depth:
            await asyncio.sleep(60)
        return await super().generate(path, request)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream"])
def test_a_time_out_with_a_text_gives_it_and_says_so(kind: Any, way: str) -> None:
    roles: dict[str, Any] = {"draft": OneStep(["One.\n\n"]), "target": ScriptedTarget(["t"])}
    model = rsd(kind=kind, verifier=ScriptedVerifier([1.0]), granularity="step", timeout=0.4, **roles)
    assert WAYS[way](model).strip() == "One."
    if kind is RSDLLM:
        (generation,) = model.generate(["q"]).generations[0]
        told = generation.generation_info
    else:
        told = model.invoke("q").response_metadata
    assert (told["finish_reason"], told["rsd"]["finish_reason"]) == ("length", "max_seconds")


@pytest.mark.parametrize("kind", KINDS)
def test_one_late_prompt_of_a_batch_takes_no_other_down(served: Provider, kind: Any) -> None:
    served.answers_by(lambda asked: Reply("late", delay=4.0) if "slow" in str(asked.messages) else Reply("fine"))
    model = rsd(always("t"), kind, draft=chat_openai(served), timeout=1.5, verifier=lambda *_: 1.0)
    made = asyncio.run(model.abatch(["fast", "slow", "fast"], return_exceptions=True))
    assert [text(made[0]), text(made[2])] == ["fine", "fine"]
    assert isinstance(made[1], TimeoutError)


# Signals of LangGraph


def asks(*_: Any) -> str:
    return f"the user said {interrupt('really?')}"


def judged(*_: Any) -> float:
    return 1.0 if interrupt("really?") == "yes" else 0.0


async def judged_natively(*_: Any) -> float:
    return 1.0 if interrupt("really?") == "yes" else 0.0


def judge() -> Inner:
    return Inner(answer=lambda *_: f"Score: {9 if interrupt('really?') == 'yes' else 0}")


ROLES: dict[str, dict[str, Any]] = {
    "draft": {"draft": Inner(answer=asks)},
    "target": {"target": Inner(answer=asks)},
    "a chain as target": {"target": RunnableLambda(asks)},
    "judge": {"verifier": judge(), "draft": always("fine")},
    "function": {"verifier": judged, "draft": always("fine")},
    "coroutine": {"verifier": judged_natively, "draft": always("fine")},
}


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("trace_inner", [False, True])
def test_an_interrupt_passes_through_every_role_and_is_resumed(
    role: str, kind: Any, asynchronous: bool, trace_inner: bool
) -> None:
    model = rsd(**{"target": always("t"), "kind": kind, "trace_inner": trace_inner, "max_retries": 2, **ROLES[role]})

    def node(state: MessagesState) -> Any:
        return {"messages": [AIMessage(text(model.invoke(state["messages"])))]}

    async def anode(state: MessagesState) -> Any:
        return {"messages": [AIMessage(text(await model.ainvoke(state["messages"])))]}

    graph = StateGraph(MessagesState).add_node("ask", anode if asynchronous else node)
    built: Any = graph.add_edge(START, "ask").add_edge("ask", END).compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}

    def run(value: Any) -> Any:
        return asyncio.run(built.ainvoke(value, config)) if asynchronous else built.invoke(value, config)

    assert run({"messages": [HumanMessage("q")]})["__interrupt__"][0].value == "really?"
    answer = run(Command(resume="yes"))["messages"][-1].text
    assert answer == ("fine" if "verifier" in ROLES[role] else "the user said yes")


def test_an_interrupt_is_not_a_failed_call_of_the_role() -> None:
    model = rsd(always("t"), draft=Inner(answer=asks))
    graph = StateGraph(MessagesState).add_node("ask", lambda state: {"messages": [model.invoke(state["messages"])]})
    built: Any = graph.add_edge(START, "ask").add_edge("ask", END).compile(checkpointer=InMemorySaver())
    for n in range(10):  # as many failed calls would warn, which is an error here
        built.invoke({"messages": [HumanMessage("q")]}, {"configurable": {"thread_id": str(n)}})
