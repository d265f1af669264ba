"""`trace_inner`: calls of inner models are children of the run that made them, and message streams stay clean."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers.base import BaseTracer
from langchain_core.tracers.schemas import Run
from langgraph.graph import END, START, MessagesState, StateGraph

from rsd_integrations.langchain import RSDLLM, ChatRSD, LangChainDrafter, LangChainJudge, LangChainTarget, RSDRunnable
from tests.langchain.fakes import always
from tests.langchain.providers import Asked, Provider, Reply, chat_openai, provider

KINDS = [ChatRSD, RSDRunnable, RSDLLM]
INNER = ["rsd:draft", "rsd:judge", "rsd:target"]


@pytest.fixture(scope="module")
def served() -> Iterator[Provider]:
    with provider() as running:
        running.answers_by(play)
        yield running


def play(asked: Asked) -> Reply:
    return {"cheap": Reply("a BAD draft"), "judge": Reply("Score: 0"), "strong": Reply("fine")}[asked.model]


def rsd(served: Provider, kind: Any = ChatRSD, **options: Any) -> Any:
    roles = {
        "draft": LangChainDrafter(chat_openai(served, model="cheap")),
        "target": LangChainTarget(chat_openai(served, model="strong")),
        "verifier": LangChainJudge(chat_openai(served, model="judge")),
    }
    return kind(**{**roles, "granularity": "turn", "trace_inner": True, **options})


class Tree(BaseTracer):
    """Keeps the runs as LangSmith's tracer does: each under the run that it is told belongs above it."""

    def __init__(self) -> None:
        super().__init__()
        self.roots: list[Run] = []

    def _persist_run(self, run: Run) -> None:
        self.roots.append(run)


class Heard(BaseCallbackHandler):
    """Which runs begin under which."""

    def __init__(self) -> None:
        self.parents: dict[UUID, UUID | None] = {}
        self.inner: dict[str, UUID] = {}
        self.tokens: list[str] = []

    def on_chain_start(self, *_: Any, run_id: UUID, parent_run_id: UUID | None = None, **__: Any) -> None:
        self.parents[run_id] = parent_run_id

    def on_llm_start(self, *args: Any, **kwargs: Any) -> None:
        self.on_chat_model_start(*args, **kwargs)

    def on_chat_model_start(
        self, *_: Any, run_id: UUID, parent_run_id: UUID | None = None, tags: Any = None, **__: Any
    ) -> None:
        self.parents[run_id] = parent_run_id
        for tag in tags or ():
            if tag.startswith("rsd:"):
                self.inner[tag] = run_id


class HeardAsync(AsyncCallbackHandler):
    def __init__(self, heard: Heard) -> None:
        self.heard = heard

    async def on_chain_start(self, *args: Any, **kwargs: Any) -> None:
        self.heard.on_chain_start(*args, **kwargs)

    async def on_llm_start(self, *args: Any, **kwargs: Any) -> None:
        self.heard.on_llm_start(*args, **kwargs)

    async def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        self.heard.on_chat_model_start(*args, **kwargs)


async def _astream(model: Any, config: Any) -> None:
    async for _ in model.astream("q", config):
        pass


async def _events(model: Any, config: Any) -> None:
    async for _ in model.astream_events("q", config, version="v2"):
        pass


WAYS: dict[str, Callable[[Any, Any], Any]] = {
    "invoke": lambda model, config: model.invoke("q", config),
    "ainvoke": lambda model, config: asyncio.run(model.ainvoke("q", config)),
    "stream": lambda model, config: list(model.stream("q", config)),
    "astream": lambda model, config: asyncio.run(_astream(model, config)),
    "batch": lambda model, config: model.batch(["q"], config),
    "abatch": lambda model, config: asyncio.run(model.abatch(["q"], config)),
    "events": lambda model, config: asyncio.run(_events(model, config)),
    "chain": lambda model, config: (RunnableLambda(lambda x: x) | model).invoke("q", config),
    "streamed chain": lambda model, config: list((RunnableLambda(lambda x: x) | model).stream("q", config)),
    "bound": lambda model, config: model.bind(stop=["STOP"]).invoke("q", config),
}


def depth(heard: Heard, run: UUID) -> int:
    above = heard.parents[run]
    return 0 if above is None else 1 + depth(heard, above)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("asynchronous_handler", [False, True])
def test_inner_runs_are_children_of_the_rsd_run(
    served: Provider, kind: Any, way: str, asynchronous_handler: bool
) -> None:
    heard = Heard()
    handler = HeardAsync(heard) if asynchronous_handler else heard
    WAYS[way](rsd(served, kind), {"callbacks": [handler], "tags": ["mine"], "metadata": {"user": "u"}})
    assert sorted(heard.inner) == INNER
    (parent,) = {heard.parents[run] for run in heard.inner.values()}
    assert parent is not None
    assert depth(heard, parent) == (1 if "chain" in way else 0)
    assert parent not in heard.inner.values()


@pytest.mark.parametrize("kind", [ChatRSD, RSDRunnable])
@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream"])
def test_a_tracer_has_one_tree_of_all_runs(served: Provider, kind: Any, way: str) -> None:
    tree = Tree()
    WAYS[way](rsd(served, kind), {"callbacks": [tree], "tags": ["mine"], "metadata": {"user": "u"}})
    (root,) = tree.roots
    assert len({run.run_type for run in root.child_runs}) == 1
    for run, tag in zip(root.child_runs, ["rsd:draft", "rsd:judge", "rsd:target"], strict=True):
        assert {tag, "mine", "nostream"} <= set(run.tags or [])
        assert run.metadata["user"] == "u"
    assert root.end_time is not None


def test_two_streams_side_by_side_have_children_of_their_own(served: Provider) -> None:
    one, other = Heard(), Heard()
    streams = [rsd(served).stream("q", {"callbacks": [heard]}) for heard in (one, other)]
    for _ in zip(*streams, strict=True):
        pass
    for heard in (one, other):
        assert sorted(heard.inner) == INNER
        assert {heard.parents[run] for run in heard.inner.values()} <= set(heard.parents)
    assert not set(one.parents) & set(other.parents)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("trace_inner", [False, True])
def test_in_a_graph_inner_runs_are_below_the_models_and_messages_stay_clean(
    served: Provider, asynchronous: bool, trace_inner: bool
) -> None:
    model = rsd(served, trace_inner=trace_inner)

    def node(state: MessagesState) -> Any:
        return {"messages": [model.invoke(state["messages"])]}

    async def anode(state: MessagesState) -> Any:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState).add_node("ask", anode if asynchronous else node)
    built: Any = graph.add_edge(START, "ask").add_edge("ask", END).compile()
    heard = Heard()
    config: Any = {"callbacks": [heard]}
    question = {"messages": [HumanMessage("q")]}

    async def streamed() -> list[Any]:
        return [part async for part in built.astream(question, config, stream_mode="messages")]

    parts = asyncio.run(streamed()) if asynchronous else list(built.stream(question, config, stream_mode="messages"))
    assert "".join(str(message.text) for message, _ in parts) == "fine"
    assert "BAD draft" not in str([message.content for message, _ in parts])
    assert sorted(heard.inner) == (INNER if trace_inner else [])
    for run in heard.inner.values():
        assert depth(heard, run) == 3  # below the graph, its node and the model


def test_a_role_may_be_traced_alone(served: Provider) -> None:
    heard = Heard()
    draft = LangChainDrafter(chat_openai(served, model="cheap"), trace_inner=True)
    for way in ("invoke", "astream"):
        heard.inner.clear()
        WAYS[way](rsd(served, trace_inner=False, draft=draft), {"callbacks": [heard]})
        assert list(heard.inner) == ["rsd:draft"]
        assert depth(heard, heard.inner["rsd:draft"]) == 1


def test_handlers_of_a_calls_own_hear_nothing_of_silent_models(served: Provider) -> None:
    for way in WAYS:
        heard = Heard()
        WAYS[way](rsd(served, trace_inner=False), {"callbacks": [heard]})
        assert heard.inner == {}


def test_what_was_told_of_one_call_is_not_taken_for_another(served: Provider) -> None:
    heard = Heard()
    failing = rsd(served, draft=always("x"), target=always("y"), verifier=lambda *_: 1.0)
    with pytest.raises(ValueError, match="not accept model with a call"):
        failing.invoke("q", {"callbacks": [heard]}, model="other")
    rsd(served).generate([[HumanMessage("q")]])
    assert heard.inner == {}
