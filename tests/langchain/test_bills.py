"""Usage is that of the answer's own call, and the bill contains everything, however RSD is called."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import UsageMetadataCallbackHandler, get_usage_metadata_callback
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langgraph.graph import END, START, MessagesState, StateGraph

from rsd_core import Price, RunError
from rsd_integrations.langchain import (
    RSDLLM,
    ChatRSD,
    LangChainDrafter,
    LangChainJudge,
    LangChainTarget,
    RSDBillCallbackHandler,
    RSDRunnable,
    bill_of,
    get_rsd_bill_callback,
    result_of,
)
from tests.langchain.fakes import Inner, always
from tests.langchain.providers import Asked, Provider, Reply, chat_openai, provider


@pytest.fixture(scope="module")
def served() -> Iterator[Provider]:
    with provider() as running:
        running.answers_by(play)
        yield running


def play(asked: Asked) -> Reply:
    """A drafter whose answers are bad, a judge who says so, and a target: each with its own tokens."""
    return {
        "cheap": Reply("a BAD draft", read=100, wrote=10),
        "judge": Reply("Score: 0", read=400, wrote=3),
        "strong": Reply("fine", read=101, wrote=7),
        "broken": Reply("down", status=401),
    }[asked.model]


def role(served: Provider, name: str, price: Price | None = None) -> Any:
    kind = {"cheap": LangChainDrafter, "judge": LangChainJudge}.get(name, LangChainTarget)
    return kind(chat_openai(served, model=name), price=price)


def rsd(served: Provider, kind: Any = ChatRSD, target: Any = "strong", **options: Any) -> Any:
    roles = {"draft": role(served, "cheap"), "verifier": role(served, "judge")}
    roles["target"] = role(served, target) if isinstance(target, str) else target
    return kind(**{**roles, "granularity": "turn", "max_retries": 0, **options})


EXPECTED = {"cheap": (100, 10), "judge": (400, 3), "strong": (101, 7)}


def tokens(usage: dict[str, Any]) -> dict[str, tuple[int, int]]:
    return {name: (one["input_tokens"], one["output_tokens"]) for name, one in usage.items()}


def times(n: int) -> dict[str, tuple[int, int]]:
    return {name: (read * n, wrote * n) for name, (read, wrote) in EXPECTED.items()}


@pytest.mark.parametrize("kind", [ChatRSD, RSDRunnable])
def test_usage_is_the_chosen_replys_own(served: Provider, kind: Any) -> None:
    alone = chat_openai(served, model="strong").invoke("q")
    message = rsd(served, kind).invoke("q")
    assert message.usage_metadata == alone.usage_metadata
    assert message.usage_metadata["total_tokens"] == 108
    bill = {item["role"]: item for item in bill_of(message)}
    assert {name: item["model"] for name, item in bill.items()} == {
        "drafter": "cheap",
        "verifier": "judge",
        "target": "strong",
    }
    assert tokens({item["model"]: item["usage"] for item in bill.values()}) == EXPECTED
    assert dict(bill["drafter"]["usage"]["output_token_details"])["rejected"] == 10
    assert [item["calls"] for item in bill.values()] == [1, 1, 1]


@pytest.mark.parametrize("kind", [ChatRSD, RSDRunnable])
def test_one_chunk_of_a_stream_has_usage(served: Provider, kind: Any) -> None:
    chunks = list(rsd(served, kind).stream("q"))
    assert [bool(chunk.usage_metadata) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    assert whole.usage_metadata == rsd(served, kind).invoke("q").usage_metadata
    assert bill_of(whole) == bill_of(rsd(served, kind).invoke("q"))


def test_usage_of_the_llm_is_that_of_prompt_and_text(served: Provider) -> None:
    result = rsd(served, RSDLLM).generate(["q", "r"])
    for (generation,) in result.generations:
        assert generation.generation_info is not None
        assert generation.generation_info["token_usage"] == {
            "prompt_tokens": 101,
            "completion_tokens": 7,
            "total_tokens": 108,
        }
    assert result.llm_output is not None
    assert result.llm_output["token_usage"]["total_tokens"] == 216
    *_, last = (chunk for chunk in rsd(served, RSDLLM)._stream("q"))
    assert last.generation_info["token_usage"]["total_tokens"] == 108


def test_in_steps_the_usage_is_the_prompt_and_the_steps_of_the_answer() -> None:
    model = ChatRSD(draft="embedded:draft", target="embedded:target", verifier="embedded:verifier")
    question = "Mia has 45 apples. Then she buys 12 more. Next she sells 9. How many apples does Mia have now?"
    message = model.invoke(question)
    result, usage = result_of(message), message.usage_metadata
    assert usage is not None
    answered = model.invoke([HumanMessage(question), AIMessage(message.text), HumanMessage("And then?")])
    # What the next turn reads is the whole of this one, the new question and what the template puts around both.
    grown = result_of(answered).prompt_tokens - usage["total_tokens"]
    assert usage["input_tokens"] == result.prompt_tokens
    assert 0 <= grown < 25
    assert result.ledger.total.read > 3 * usage["total_tokens"]


# The bill of many requests


async def _astream(model: Any) -> None:
    async for _ in model.astream("q"):
        pass


async def _events(model: Any) -> None:
    async for _ in model.astream_events("q", version="v2"):
        pass


def _in_a_graph(model: Any) -> None:
    graph = StateGraph(MessagesState).add_node("a", lambda state: {"messages": [model.invoke(state["messages"])]})
    built = graph.add_edge(START, "a").add_edge("a", END).compile()
    list(built.stream({"messages": [HumanMessage("q")]}, stream_mode="messages"))


WAYS: dict[str, tuple[int, Callable[[Any], Any]]] = {
    "invoke": (1, lambda model: model.invoke("q")),
    "ainvoke": (1, lambda model: asyncio.run(model.ainvoke("q"))),
    "batch": (3, lambda model: model.batch(["a", "b", "c"])),
    "abatch": (3, lambda model: asyncio.run(model.abatch(["a", "b", "c"]))),
    "stream": (1, lambda model: list(model.stream("q"))),
    "astream": (1, lambda model: asyncio.run(_astream(model))),
    "events": (1, lambda model: asyncio.run(_events(model))),
    "chain": (1, lambda model: (RunnableLambda(lambda x: x) | model | StrOutputParser()).invoke("q")),
    "parallel": (2, lambda model: RunnableParallel(a=model, b=model).invoke("q")),
    "graph": (1, _in_a_graph),
}


@pytest.mark.parametrize("trace_inner", [False, True])
@pytest.mark.parametrize("kind", [ChatRSD, RSDRunnable, RSDLLM])
@pytest.mark.parametrize("way", WAYS)
def test_the_bill_sums_every_request_once(served: Provider, kind: Any, way: str, trace_inner: bool) -> None:
    if kind is RSDLLM and way == "graph":
        pytest.skip("an LLM gives no messages")
    count, ask = WAYS[way]
    with get_rsd_bill_callback() as bill:
        ask(rsd(served, kind, trace_inner=trace_inner))
    rsd(served, kind).invoke("after")
    assert tokens(bill.usage_metadata) == times(count)
    assert {item["role"]: item["calls"] for item in bill.items} == dict.fromkeys(
        ("drafter", "verifier", "target"), count
    )


def test_a_handler_may_be_given_with_the_call(served: Provider) -> None:
    bill = RSDBillCallbackHandler()
    rsd(served).batch(["a", "b"], {"callbacks": [bill]})
    rsd(served, RSDRunnable).invoke("c", {"callbacks": [bill]})
    assert tokens(bill.usage_metadata) == times(3)
    assert bill.cost is None
    assert "cheap" in repr(bill)


def test_money_is_on_the_bill_where_all_prices_are_known(served: Provider) -> None:
    prices = {name: role(served, name, Price(1.0, 2.0)) for name in ("cheap", "strong", "judge")}
    model = rsd(served, draft=prices["cheap"], target=prices["strong"], verifier=prices["judge"])
    with get_rsd_bill_callback() as bill:
        model.batch(["a", "b"])
    assert bill.cost == pytest.approx(2 * (601 * 1.0 + 20 * 2.0) / 1e6)


@pytest.mark.parametrize("kind", [ChatRSD, RSDRunnable, RSDLLM])
@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream"])
def test_failed_requests_are_on_the_bill(served: Provider, kind: Any, way: str) -> None:
    model = rsd(served, kind, target="broken")
    with get_rsd_bill_callback() as bill, pytest.raises(RunError, match="401"):
        WAYS[way][1](model)
    assert tokens(bill.usage_metadata) == {"cheap": (100, 10), "judge": (400, 3), "broken": (0, 0)}


def test_answers_of_a_cache_cost_nothing(served: Provider) -> None:
    for kind in (ChatRSD, RSDLLM):
        model = rsd(served, kind, cache=InMemoryCache())
        with get_rsd_bill_callback() as bill:
            model.invoke("q")
            model.invoke("q")
        assert tokens(bill.usage_metadata) == EXPECTED


def test_an_answer_of_an_inner_models_cache_is_on_the_bill_of_those_that_worked(served: Provider) -> None:
    model = rsd(served)
    model.draft.model.cache, model.target.model.cache = InMemoryCache(), InMemoryCache()
    first, second = model.invoke("q"), model.invoke("q")
    assert second.usage_metadata == first.usage_metadata  # which tells no handler that RSD itself was not asked
    with get_rsd_bill_callback() as bill:
        model.invoke("q")
    assert tokens(bill.usage_metadata)["judge"] == EXPECTED["judge"]


def test_models_in_the_roles_of_others_are_on_the_outer_bill(served: Provider) -> None:
    outer = ChatRSD(draft=rsd(served), target=always("t"), verifier=lambda *_: 1.0, trace_inner=True)
    with get_rsd_bill_callback() as bill:
        outer.invoke("q")
    assert tokens(bill.usage_metadata) == {"rsd": (101, 7), "<lambda>": (0, 0)}


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream", "graph"])
def test_counters_by_name_count_each_token_once(served: Provider, way: str) -> None:
    with get_usage_metadata_callback() as heard:
        WAYS[way][1](rsd(served))
    assert tokens(heard.usage_metadata) == {"rsd": (101, 7)}
    with get_usage_metadata_callback() as heard:
        WAYS[way][1](rsd(served, trace_inner=True))
    assert tokens(heard.usage_metadata) == EXPECTED


def test_counters_given_with_a_call_hear_of_traced_inner_models(served: Provider) -> None:
    heard = UsageMetadataCallbackHandler()
    rsd(served, trace_inner=True).invoke("q", {"callbacks": [heard]})
    assert tokens(heard.usage_metadata) == EXPECTED


def test_an_agents_context_is_summarised_when_it_is_long_and_not_when_much_was_paid(served: Provider) -> None:
    summary = Inner(answer=lambda *_: "They talked.", provider="openai")  # it only reads usage of its own provider
    # Each turn is 108 tokens long, and 621 were read and written for it.
    for limit, expected in ((600, False), (100, True)):
        middleware: Any = SummarizationMiddleware(model=summary, trigger=("tokens", limit), keep=("messages", 1))
        agent: Any = create_agent(rsd(served), [], middleware=[middleware])
        summary.asked.clear()
        state: Any = {"messages": []}
        for turn in range(3):
            state = agent.invoke({"messages": [*state["messages"], HumanMessage(f"question {turn}")]})
        assert bool(summary.asked) == expected
