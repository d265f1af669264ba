"""Agents that decide by risk: policies per tool, and drafts that are never executed."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain.agents.middleware import ModelRequest
from langchain.agents.structured_output import ToolStrategy
from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.tools import BaseTool, StructuredTool, tool
from pydantic import BaseModel

from rsd_core import ConfigurationError
from rsd_integrations.langchain import RSDMiddleware
from rsd_integrations.langchain.broken_calls import streamed_calls, without_calls_of_cut
from rsd_integrations.langchain.tool_policies import tools_of
from tests.langchain.fakes import Inner, always
from tests.langchain.providers import CHATS, Call, Provider, Reply, provider
from tests.langchain.test_providers import WITHOUT_STREAMS

QUESTION: Any = {"messages": [HumanMessage("Move 1000 to my savings.")]}
executed: list[tuple[str, Any]] = []


@pytest.fixture(scope="module")
def cheap() -> Iterator[Provider]:
    with provider() as running:
        yield running


@pytest.fixture(scope="module")
def strong() -> Iterator[Provider]:
    with provider() as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_executed() -> None:
    executed.clear()


@tool
def search(query: str = "") -> str:
    """Looks something up."""
    executed.append(("search", query))
    return "found"


@tool
def transfer_money(amount: int = 0, account: str = "savings") -> str:
    """Moves money."""
    executed.append(("transfer_money", amount))
    return "moved"


@tool
def send_email(to: str = "") -> str:
    """Sends an email."""
    executed.append(("send_email", to))
    return "sent"


TOOLS = [search, transfer_money, send_email]
BY_RISK = {"search": "always_draft", "transfer_money": "always_target", "send_*": "binary_step:0.9"}


def calls(*named: str, **args: Any) -> AIMessage:
    return AIMessage(
        "", tool_calls=[{"name": name, "args": args, "id": f"c{i}"} for i, name in enumerate(named)], id="m"
    )


class Judge:
    """A verifier with one reward, which keeps what it was asked about."""

    def __init__(self, reward: float) -> None:
        self.reward = reward
        self.asked: list[list[str]] = []

    def __call__(self, _: list[BaseMessage], reply: AIMessage) -> float:
        self.asked.append([call["name"] for call in reply.tool_calls])
        return self.reward


def once(message: AIMessage | str) -> Inner:
    """A model that says something first, and is done after a result of a tool."""
    return Inner(answer=lambda said, _: "done" if isinstance(said[-1], ToolMessage) else message)


def first_record(rsd: RSDMiddleware, target: Inner, tools: list[Any] = TOOLS, **options: Any) -> dict[str, Any]:
    record: dict[str, Any] = create_agent(target, tools, middleware=[rsd], **options).invoke(QUESTION)["rsd"][0]
    return record


@pytest.mark.parametrize(
    ("drafted", "reward", "author", "asked"),
    [
        (("search",), 0.0, "draft", []),
        (("transfer_money",), 1.0, "target", []),
        (("send_email",), 0.8, "target", [["send_email"]]),
        (("send_email",), 0.95, "draft", [["send_email"]]),
        (("search", "send_email"), 0.8, "target", [["search", "send_email"]]),
        (("search", "send_email"), 0.95, "draft", [["search", "send_email"]]),
        (("search", "transfer_money"), 1.0, "target", []),
        ((), 0.75, "draft", [[]]),
        ((), 0.6, "target", [[]]),
    ],
)
def test_the_strictest_policy_of_the_called_tools_decides(
    drafted: tuple[str, ...], reward: float, author: str, asked: list[list[str]]
) -> None:
    judge = Judge(reward)
    rsd = RSDMiddleware(once(calls(*drafted) if drafted else "hello"), judge, tool_policies=BY_RISK)
    record = first_record(rsd, once("no"))
    assert record["author"] == author
    assert record["reward"] == (reward if asked else None)
    assert record["tools"] == list(drafted)
    assert judge.asked[: len(asked)] == asked
    # LangGraph runs the calls of one message in parallel, so they come in any order.
    assert sorted(name for name, _ in executed) == (sorted(drafted) if author == "draft" else [])
    assert (record["refused"] is not None) == (author == "target" and not asked)


def test_only_what_reads_is_drafted_and_no_verifier_is_needed() -> None:
    draft, target = once(calls("search")), once(calls("transfer_money", amount=5))
    rsd = RSDMiddleware(draft, policy="always_target", tool_policies={"search": "always_draft"})
    state = create_agent(target, TOOLS, middleware=[rsd]).invoke(QUESTION)
    assert [record["author"] for record in state["rsd"]] == ["draft", "target"]
    assert state["rsd"][1]["refused"] == "text: reserved for the target"
    assert executed == [("search", "")]


def test_nothing_is_drafted_where_no_draft_could_be_kept() -> None:
    draft = once("hello")
    rsd = RSDMiddleware(draft, policy="always_target", tool_policies={"*": "always_target"})
    assert first_record(rsd, once("yes"))["author"] == "target"
    assert draft.asked == []


@pytest.mark.parametrize(
    "choice",
    ["transfer_money", {"type": "function", "function": {"name": "transfer_money"}}, {"name": "transfer_money"}],
)
def test_a_forced_call_goes_by_its_tool(choice: Any) -> None:
    from langchain.agents.middleware import AgentMiddleware

    class Forced(AgentMiddleware[Any, Any]):
        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            return handler(request.override(tool_choice=choice))

    draft = once("hello")
    rsd = RSDMiddleware(draft, Judge(1.0), tool_policies=BY_RISK)
    create_agent(once("yes"), TOOLS, middleware=[Forced(), rsd]).invoke(QUESTION)
    assert draft.asked == []


def test_patterns_count_in_their_order_and_names_before_them() -> None:
    policies = {"*_money": "always_draft", "transfer_*": "always_target", "transfer_money": "binary_step:0.5"}
    record = first_record(RSDMiddleware(once(calls("transfer_money")), Judge(0.6), tool_policies=policies), once("no"))
    assert record["policy"] == ["binary_step:delta=0.5"]


def destructive(hint: bool) -> BaseTool:
    """A tool as langchain-mcp-adapters makes them: the annotations of the server are its metadata."""
    return StructuredTool.from_function(
        lambda: executed.append(("wipe", None)),
        name="wipe",
        description="Wipes.",
        metadata={"title": None, "readOnlyHint": None, "destructiveHint": hint, "idempotentHint": None},
    )


@pytest.mark.parametrize(
    ("hint", "policies", "author"),
    [(True, {}, "target"), (False, {}, "draft"), (True, {"wipe": "binary_step:0.5"}, "draft")],
)
def test_a_tool_that_calls_itself_destructive_is_the_targets(hint: bool, policies: dict[str, Any], author: str) -> None:
    rsd = RSDMiddleware(once(calls("wipe")), Judge(1.0), tool_policies=policies)
    assert first_record(rsd, once("no"), [destructive(hint)])["author"] == author


def test_tools_are_known_by_the_names_that_models_call_them_by() -> None:
    forms: list[Any] = [
        search,
        {"type": "function", "function": {"name": "f", "parameters": {}}},
        {"name": "g", "input_schema": {}},
        {"title": "h", "type": "object", "properties": {}},
        {"type": "web_search_preview"},
        {"google_search": {}},
    ]
    request: Any = ModelRequest(model=always("x"), messages=[], tools=forms, response_format=ToolStrategy(Answer))
    assert list(tools_of(request)) == ["search", "f", "g", "h", "web_search_preview", "google_search", "Answer"]


def test_a_misspelled_tool_is_reported_once() -> None:
    rsd = RSDMiddleware(once("hello"), Judge(1.0), tool_policies={"transfer_mony": "always_target"})
    agent = create_agent(once("no"), TOOLS, middleware=[rsd])
    with pytest.warns(UserWarning, match="did you mean 'transfer_money'"):
        agent.invoke(QUESTION)
    agent.invoke(QUESTION)  # a second warning would be an error


def test_retries_draft_a_call_again() -> None:
    drafts = iter([calls("send_email", to="wrong"), calls("send_email", to="right")])
    draft = Inner(answer=lambda said, _: "done" if isinstance(said[-1], ToolMessage) else next(drafts))
    rsd = RSDMiddleware(
        draft,
        lambda _, reply: 0.1 if "wrong" in str(reply.tool_calls) else 1.0,
        tool_policies={"send_email": "retry:1/binary_step:0.9"},
    )
    assert first_record(rsd, once("no"))["author"] == "draft"
    assert executed == [("send_email", "right")]


class Answer(BaseModel):
    """An answer."""

    amount: int


def structured(amount: Any) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": "Answer", "args": {"amount": amount}, "id": "a"}])


@pytest.mark.parametrize("handled", [True, False])
def test_a_structured_draft_that_does_not_fit_is_never_kept(handled: bool) -> None:
    rsd = RSDMiddleware(always(structured("much")), lambda *_: 1.0)
    strategy = ToolStrategy(Answer, handle_errors=handled)
    state = create_agent(always(structured(3)), [], middleware=[rsd], response_format=strategy).invoke(QUESTION)
    assert state["structured_response"] == Answer(amount=3)
    assert [record["author"] for record in state["rsd"]] == ["target"]


def test_a_structured_answer_has_a_policy_by_its_schemas_name() -> None:
    rsd = RSDMiddleware(always(structured(1)), lambda *_: 1.0, tool_policies={"Answer": "always_target"})
    state = create_agent(always(structured(3)), TOOLS, middleware=[rsd], response_format=Answer).invoke(QUESTION)
    assert state["structured_response"] == Answer(amount=3)


# --- drafts that cannot be executed, by the real classes --------------------------------------------------------------


FINE = Reply(reason="tool_calls", calls=[Call("transfer_money", '{"amount": 1000, "account": "savings"}')])
CUT = Reply(reason="length", calls=[Call("transfer_money", '{"amount": 100')])


def answering(reply: Reply) -> Any:
    """The reply once, and then an end."""
    return lambda asked: "done" if "moved" in str(asked.body) else reply


def run_agent(agent: Any, way: str) -> dict[str, Any]:
    state: dict[str, Any] = {}
    if way == "invoke":
        state = agent.invoke(QUESTION)
    elif way == "ainvoke":
        state = asyncio.run(agent.ainvoke(QUESTION))
    else:
        for mode, part in agent.stream(QUESTION, stream_mode=["messages", "values"]):
            state = part if mode == "values" else state
    return state


WAYS = ["invoke", "ainvoke", "stream"]
CASES = [(name, way) for name in CHATS for way in WAYS if not (way == "stream" and name in WITHOUT_STREAMS)]


@pytest.mark.parametrize(("name", "way"), CASES)
def test_a_cut_call_of_a_draft_is_not_executed(name: str, way: str, cheap: Provider, strong: Provider) -> None:
    cheap.answers_by(answering(CUT))
    strong.answers_by(answering(FINE))
    rsd = RSDMiddleware(CHATS[name](cheap), lambda *_: 1.0)
    state = run_agent(create_agent(CHATS["ChatOpenAI"](strong), TOOLS, middleware=[rsd]), way)
    assert executed == [("transfer_money", 1000)]
    assert state["rsd"][0]["author"] == "target"
    assert state["rsd"][0]["refused"]


@pytest.mark.parametrize(("name", "way"), CASES)
def test_a_cut_call_of_the_target_is_not_executed(name: str, way: str, cheap: Provider, strong: Provider) -> None:
    cheap.answers("hm")
    strong.answers(CUT, "I could not.")
    rsd = RSDMiddleware(CHATS["ChatOpenAI"](cheap), lambda *_: 0.0)
    state = run_agent(create_agent(CHATS[name](strong), TOOLS, middleware=[rsd]), way)
    assert executed == []
    cut = next(message for message in state["messages"] if isinstance(message, AIMessage))
    assert cut.tool_calls == []
    if not cut.content or cut.invalid_tool_calls:  # where the class gives the call at all
        assert "transfer_money" in [call["name"] for call in cut.invalid_tool_calls]


UNREADABLE = ["{bad", "None", '{"amount": 100']


@pytest.mark.parametrize("arguments", [*UNREADABLE, "[1]"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("streaming", [False, True])
def test_a_draft_that_cannot_be_read_is_never_kept(
    arguments: str, way: str, streaming: bool, cheap: Provider, strong: Provider
) -> None:
    cheap.answers_by(answering(Reply(reason="tool_calls", calls=[Call("transfer_money", arguments)])))
    strong.answers_by(answering(FINE))
    options = {"streaming": True} if streaming else {}
    rsd = RSDMiddleware(CHATS["ChatOpenAI"](cheap, **options), lambda *_: 1.0)
    run_agent(create_agent(CHATS["ChatAnthropic"](strong), TOOLS, middleware=[rsd]), way)
    assert executed == [("transfer_money", 1000)]


@pytest.mark.parametrize("arguments", UNREADABLE)  # for an array, these classes raise their own error
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["ChatOpenAI", "ChatDeepSeek"])
def test_a_call_of_the_target_that_cannot_be_read_is_not_executed(
    name: str, arguments: str, way: str, cheap: Provider, strong: Provider
) -> None:
    """LangChain's own agent executes it where it is streamed: `{"amount": 100` as 100, and `{bad` as nothing."""
    cheap.answers("hm")
    strong.answers(Reply(reason="tool_calls", calls=[Call("search", "{}", "c1"), Call("transfer_money", arguments)]))
    rsd = RSDMiddleware(CHATS["ChatOpenAI"](cheap), lambda *_: 0.0, run_budget={"max_target_calls": 1})
    state = run_agent(create_agent(CHATS[name](strong), TOOLS, middleware=[rsd]), way)
    assert executed == [("search", "")]
    called = next(message for message in state["messages"] if isinstance(message, AIMessage))
    assert [call["name"] for call in called.invalid_tool_calls] == ["transfer_money"]


@pytest.mark.parametrize("way", WAYS)
def test_a_draft_that_calls_an_unknown_tool_is_never_kept(way: str, cheap: Provider, strong: Provider) -> None:
    cheap.answers_by(answering(Reply(reason="tool_calls", calls=[Call("rob_bank")])))
    strong.answers_by(answering(FINE))
    rsd = RSDMiddleware(CHATS["ChatAnthropic"](cheap), lambda *_: 1.0)
    state = run_agent(create_agent(CHATS["ChatOpenAI"](strong), TOOLS, middleware=[rsd]), way)
    assert executed == [("transfer_money", 1000)]
    assert "rob_bank" in state["rsd"][0]["refused"]


@pytest.mark.parametrize(
    ("policies", "what"),
    [
        ({"search": "first_token:1"}, "entropy"),
        ({"search": "request_budget:2"}, "run_budget"),
        ({"search": "binary_stp:0.7"}, "did you mean 'binary_step'"),
        (["search"], "is not a mapping"),
        ({"search": "binary_step:7"}, "less than or equal to 1"),
    ],
)
def test_policies_that_cannot_decide_are_refused(policies: Any, what: str) -> None:
    with pytest.raises(ConfigurationError, match=what):
        RSDMiddleware(always("x"), lambda *_: 1.0, tool_policies=policies)


# --- broken calls, whatever their text --------------------------------------------------------------------------------

ARGUMENTS = st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.integers() | st.text(max_size=8))


@given(ARGUMENTS, st.data())
def test_of_all_beginnings_of_a_call_only_the_whole_one_is_executable(
    args: dict[str, Any], data: st.DataObject
) -> None:
    text = json.dumps(args)
    cut = data.draw(st.integers(1, len(text)))
    middle = data.draw(st.integers(0, cut))
    written = text[:cut]
    chunks = [
        AIMessageChunk(
            content="", tool_call_chunks=[tool_call_chunk(name="t", args=written[:middle], id="c", index=0)]
        ),
        AIMessageChunk(content="", tool_call_chunks=[tool_call_chunk(args=written[middle:], index=0)]),
    ]
    run = uuid.uuid4()
    with streamed_calls() as calls:
        for chunk in chunks:
            calls.on_llm_new_token("", chunk=ChatGenerationChunk(message=chunk), run_id=run)
    lenient = generate_from_stream(iter([ChatGenerationChunk(message=chunk) for chunk in chunks]))
    message = lenient.generations[0].message
    assert isinstance(message, AIMessage)
    kept = without_calls_of_cut(calls.without_unreadable_calls(message))
    assert [call["args"] for call in kept.tool_calls] == ([args] if written == text else [])
    assert len(kept.tool_calls) + len(kept.invalid_tool_calls) == 1
