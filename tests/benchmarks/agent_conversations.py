"""Scripted conversations of an agent when everything around it fails, and which of its calls should not have been made.

The ids of calls tell which model wrote them. So each call that a tool received shows whether it was allowed: it was
complete, it was a draft that the judge accepted or was written by target or spare, and the person approved it if the
tool asks for that.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Annotated, Any, Literal, NamedTuple, cast

import anthropic
import openai
from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    HumanInTheLoopMiddleware,
    ModelFallbackMiddleware,
    ModelRetryMiddleware,
    SummarizationMiddleware,
)
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.utils import count_tokens_approximately
from langchain_core.tools import InjectedToolCallId, tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt
from pydantic import SecretStr

from rsd_integrations.langchain import ChatRSD, RSDMiddleware
from tests.langchain.providers import Asked, Call, Reply, provider

TASKS = 6
"""Number of tasks in each conversation."""
TRIGGER = 900
"""Tokens of context that trigger a summary."""
TIMEOUT = 0.4
"""Seconds after which clients give up."""
ACCEPT = 0.7
CONCURRENCY = 8
Role = Literal["draft", "target", "spare", "summary"]
GATED = ("transfer_money", "send_email")
FAULTS = ("cut", "hang", "401", "429", "500", "unknown_tool", "unreadable", "wrong", "judge_fails", "judge_asks")
RATES: dict[Role, dict[str, float]] = {
    "draft": {"cut": 0.06, "hang": 0.02, "401": 0.04, "429": 0.04, "500": 0.04, "unknown_tool": 0.06}
    | {"unreadable": 0.06, "wrong": 0.2},
    "target": {"cut": 0.06, "hang": 0.02, "401": 0.04, "429": 0.05, "500": 0.03, "unreadable": 0.03},
    "spare": {},
    "summary": {},
}
JUDGE = {"judge_fails": 0.04, "judge_asks": 0.03}
VIOLATIONS = (
    "broken_histories",
    "unapproved",
    "truncated",
    "rejected",
    "not_the_drafts",
    "altered",
    "twice",
    "foreign",
)
VARIANTS = ("middleware", "model")


class Wanted(NamedTuple):
    """A call that a task is about."""

    name: str
    args: dict[str, Any]


@dataclass(frozen=True)
class Issued:
    """A call that a model wrote."""

    role: Role
    name: str
    args: dict[str, Any]
    whole: bool


@dataclass
class Conversation:
    """The record of one conversation: calls written, judged, approved and executed."""

    number: int
    issued: dict[str, Issued] = field(default_factory=dict)
    accepted: set[str] = field(default_factory=set)
    """Ids of calls in drafts that the judge accepted."""
    approved: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The arguments that the person approved, by id of the call."""
    executed: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    context: int = 0
    """Tokens of the context by simple counting, before the model's last call."""
    reported: int = 0
    """Tokens that the last model to answer read and wrote."""
    summaries: int = 0
    early: int = 0
    interrupts: int = 0
    judged: int = 0
    broken_histories: int = 0
    """Requests that the provider would refuse: a call without its result, or a result without its call."""

    def chance(self, of: str) -> float:
        """The next random number in [0, 1); the same in each run."""
        self.asked[of] += 1
        return random.Random(f"{self.number} {of} {self.asked[of]}").random()

    def drawn(self, of: str, rates: dict[str, float]) -> str | None:
        """Draw one of some faults, or none, and count it."""
        left = self.chance(of)
        for fault, rate in rates.items():
            if left < rate:
                self.faults[fault] += 1
                return fault
            left -= rate
        return None

    def violations(self, *, by_tool: bool) -> Counter[str]:
        """The calls that were executed but should not have been.

        Args:
            by_tool: Whether transfers are the target's, and searches need no judge.
        """
        found: Counter[str] = Counter()
        found["broken_histories"] = self.broken_histories
        found["twice"] = len(self.executed) - len({one for one, *_ in self.executed})
        for call_id, name, args in self.executed:
            issued = self.issued.get(call_id)
            if issued is None or issued.name != name:
                found["foreign"] += 1
                continue
            found["truncated"] += not issued.whole
            found["unapproved"] += name in GATED and call_id not in self.approved
            found["altered"] += args != self.approved.get(call_id, issued.args)
            if issued.role == "draft":
                found["not_the_drafts"] += by_tool and name == "transfer_money"
                found["rejected"] += call_id not in self.accepted and not (by_tool and name == "search")
        return found


def wanted(task: str) -> list[Wanted]:
    """The calls that a task requires, by its name alone."""
    chance = random.Random(task)
    kind = chance.choice(["search", "transfer", "email", "chat", "both"])
    search = Wanted("search", {"query": f"price {chance.randrange(100)}"})
    transfer = Wanted("transfer_money", {"amount": chance.randrange(100, 1000), "account": "savings"})
    email = Wanted("send_email", {"to": f"user{chance.randrange(9)}", "text": "hello"})
    return {"search": [search], "transfer": [transfer], "email": [email], "chat": [], "both": [search, transfer]}[kind]


def asked_of(text: str) -> str | None:
    """The last task named in a text."""
    found = re.findall(r"TASK (\d+\.\d+)", text)
    return found[-1] if found else None


def unanswered(messages: Sequence[dict[str, Any]]) -> int:
    """Calls without a result in the messages after them, and results without a call, as providers refuse both."""
    open_calls: set[str] = set()
    wrong = 0
    for message in messages:
        blocks = message["content"] if isinstance(message.get("content"), list) else []
        results = {block["tool_use_id"] for block in blocks if block.get("type") == "tool_result"}
        results |= {message["tool_call_id"]} if message["role"] == "tool" else set()
        wrong += len(results - open_calls)
        open_calls -= results
        if not results:
            wrong += len(open_calls)
            open_calls = set()
        open_calls |= {block["id"] for block in blocks if block.get("type") == "tool_use"}
        open_calls |= {call["id"] for call in message.get("tool_calls") or ()}
    return wrong + len(open_calls)


class Models:
    """The scripted models of all conversations behind one server."""

    def __init__(self) -> None:
        self.conversations: dict[int, Conversation] = {}
        self._ids = itertools.count()

    def of(self, task: str) -> Conversation:
        """The conversation of a task."""
        return self.conversations[int(task.partition(".")[0])]

    def answer(self, asked: Asked) -> Reply:
        """A model's reply to a request."""
        role = cast("Role", asked.model.partition("-")[0])
        sent = json.dumps(asked.body["messages"])
        task = asked_of(sent)
        assert task is not None
        at = self.of(task)
        if role == "summary":
            at.summaries += 1
            at.early += max(at.context, at.reported) < TRIGGER
            return Reply(f"They talked of prices, up to TASK {task}.", read=100, wrote=5)
        at.broken_histories += unanswered(asked.body["messages"]) > 0
        fault = at.drawn(role, RATES[role])
        status = {"401": 401, "429": 429, "500": 500}.get(fault or "", 200)
        if fault == "unreadable" and asked.api == "anthropic":
            fault = "cut"  # its API returns data, which is always readable
        read = sum(len(text) for _, text in asked.messages) // 4
        if status != 200:
            return Reply(f"status {status}", status=status)
        now = sent[sent.rfind(f"TASK {task}") :]
        calls = [] if '"tool_calls"' in now or '"tool_use"' in now else wanted(task)
        reply = self._calling(at, role, calls, fault) if calls else self._saying(task, fault)
        at.reported = read + 20
        return Reply(**reply, read=read, wrote=20, delay=2.5 * TIMEOUT if fault == "hang" else 0.0)

    def _saying(self, task: str, fault: str | None) -> dict[str, Any]:
        text = {"wrong": f"I did {task} WRONG.", "cut": f"I did {task} and"}.get(fault or "", f"I did {task}.")
        return {"text": text, "reason": "length" if fault == "cut" else "stop"}

    def _calling(self, at: Conversation, role: Role, calls: Sequence[Wanted], fault: str | None) -> dict[str, Any]:
        made = []
        for one in calls:
            name, args = one
            if fault == "wrong":
                args = {key: 1 if isinstance(value, int) else "WRONG" for key, value in args.items()}
            name = "rob_bank" if fault == "unknown_tool" else name
            text = json.dumps(args)
            broken = fault in ("cut", "unreadable") and one is calls[-1]
            text = (text[:-3] if fault == "cut" else "{bad") if broken else text  # lenient parsers complete it
            call_id = f"call_{at.number}_{next(self._ids)}"
            at.issued[call_id] = Issued(role, name, args, whole=not broken)
            made.append(Call(name, text, call_id))
        return {"calls": made, "reason": "length" if fault == "cut" else "tool_calls"}

    def judge(self, messages: list[BaseMessage], reply: AIMessage) -> float:
        """The verifier: it knows the correct calls; sometimes it fails, and sometimes it asks a person."""
        task = asked_of(" ".join(str(message.text) for message in messages))
        assert task is not None
        at = self.of(task)
        at.judged += 1
        fault = at.drawn("judge", JUDGE)
        if fault == "judge_fails":
            raise ConnectionError("the judge is away")
        calls = [Wanted(call["name"], call["args"]) for call in reply.tool_calls]
        right = calls == wanted(task) if calls else "WRONG" not in reply.text and task in reply.text
        reward = 0.95 if right else 0.1
        if fault == "judge_asks":
            reward = float(interrupt({"reward": reward}))
        if reward >= ACCEPT:
            at.accepted.update(str(call["id"]) for call in reply.tool_calls)
        return reward


def agent_of(variant: str, number: int, url: str, models: Models) -> Any:
    """One agent with its surroundings; providers alternate between roles."""

    at = models.conversations[number]

    @tool
    def search(query: str, call_id: Annotated[str, InjectedToolCallId]) -> str:
        """Looks something up."""
        at.executed.append((call_id, "search", {"query": query}))
        return f"Of {query}: " + "it costs much and it is worth it; " * 12

    @tool
    def transfer_money(amount: int, account: str, call_id: Annotated[str, InjectedToolCallId]) -> str:
        """Moves money."""
        at.executed.append((call_id, "transfer_money", {"amount": amount, "account": account}))
        return "moved"

    @tool
    def send_email(to: str, text: str, call_id: Annotated[str, InjectedToolCallId]) -> str:
        """Sends an email."""
        at.executed.append((call_id, "send_email", {"to": to, "text": text}))
        return "sent"

    class Watch(AgentMiddleware[Any, Any]):
        """Counts the context itself, before it may be summarised."""

        def before_model(self, state: Any, runtime: Any) -> None:
            at.context = count_tokens_approximately(state["messages"], chars_per_token=letters)

    tools = [search, transfer_money, send_email]
    made = _classes(url)
    cheap, strong = made[number % 2], made[(number // 2) % 2]
    draft, target, spare = cheap("draft"), strong("target"), made[(number // 2 + 1) % 2]("spare")
    letters = 3.3 if isinstance(target, ChatAnthropic) else 4.0  # as LangChain counts for these classes
    around: list[Any] = [
        Watch(),
        SummarizationMiddleware(strong("summary"), trigger=("tokens", TRIGGER), keep=("messages", 6)),
        HumanInTheLoopMiddleware(interrupt_on=dict.fromkeys(GATED, True)),
        ModelFallbackMiddleware(spare),
        ModelRetryMiddleware(max_retries=1, retry_on=_passes, initial_delay=0.0, jitter=False, on_failure="error"),
    ]
    policy = f"binary_step:{ACCEPT}"
    if variant == "middleware":
        by_tool: dict[str, Any] = {"search": "always_draft", "transfer_money": "always_target"}
        around.append(RSDMiddleware(draft, models.judge, policy, tool_policies=by_tool))
        return create_agent(target, tools, middleware=around, checkpointer=InMemorySaver())
    model = ChatRSD(draft=draft, target=target, verifier=models.judge, policy=policy)
    return create_agent(model, tools, middleware=around, checkpointer=InMemorySaver())


def _classes(url: str) -> tuple[Callable[[str], BaseChatModel], ...]:
    key: dict[str, Any] = {"api_key": SecretStr("a-key"), "max_retries": 0, "timeout": TIMEOUT}
    return (
        lambda role: ChatOpenAI(model=f"{role}-o", base_url=f"{url}/v1", use_responses_api=False, **key),
        lambda role: ChatAnthropic(model=f"{role}-a", base_url=url, max_tokens=500, **key),
    )


def _passes(error: Exception) -> bool:
    """Whether a retry may help: not if a key is wrong."""
    kinds = ("APITimeoutError", "RateLimitError", "InternalServerError", "APIConnectionError")
    return isinstance(error, tuple([getattr(module, kind) for module in (anthropic, openai) for kind in kinds]))


def decide(at: Conversation, state: Any) -> Any:
    """The person's answer to the agent: it approves, edits, rejects, or gives the judge's reward."""
    value = state.interrupts[0].value
    at.interrupts += 1
    if "reward" in value:
        return Command(resume=value["reward"])
    message = state.values["messages"][-1]
    gated = [call for call in message.tool_calls if call["name"] in GATED]
    decisions: list[dict[str, Any]] = []
    for call in gated:
        kind, args = at.chance("person"), call["args"]
        if kind < 0.7:
            decisions.append({"type": "approve"})
            at.approved[call["id"]] = args
        elif kind < 0.85:
            edited = {**args, **({"amount": 1} if "amount" in args else {"text": "edited"})}
            decisions.append({"type": "edit", "edited_action": {"name": call["name"], "args": edited}})
            at.approved[call["id"]] = edited
        else:
            decisions.append({"type": "reject"})
    return Command(resume={"decisions": decisions})


_MAKING = Lock()
"""`@tool` switches warnings off and on for the whole process: threads that make tools concurrently see them."""


def converse(variant: str, number: int, url: str, models: Models) -> dict[str, int]:
    """Hold a conversation, invoked, streamed or asynchronous by its number; return the errors that reached the user."""
    at = models.conversations[number]
    with _MAKING:
        agent = agent_of(variant, number, url, models)
    config: Any = {"configurable": {"thread_id": str(number)}}
    failed = 0

    def go(value: Any) -> None:
        if number % 3 == 0:
            agent.invoke(value, config)
        elif number % 3 == 1:
            asyncio.run(agent.ainvoke(value, config))
        else:
            for _ in agent.stream(value, config, stream_mode=["messages", "values"]):
                pass

    for i in range(TASKS):
        said = f"TASK {number}.{i}: please do what you have to. " + "The weather is fine today. " * 12
        value: Any = {"messages": [("user", said)]}
        try:
            while True:
                go(value)
                state = agent.get_state(config)
                if not state.interrupts:
                    break
                value = decide(at, state)
        except Exception as error:
            if isinstance(error, AssertionError):
                raise
            failed += 1
    return {"failed_tasks": failed}


def measure(n: int, variants: Sequence[str] = VARIANTS) -> dict[str, Any]:
    """The figures for each kind of agent."""
    return {variant: _measured(variant, n) for variant in variants}


def _measured(variant: str, n: int) -> dict[str, Any]:
    models, started = Models(), time.perf_counter()
    models.conversations = {number: Conversation(number) for number in range(n)}
    with _served(models) as url, ThreadPoolExecutor(CONCURRENCY) as pool:
        ended = list(pool.map(lambda number: converse(variant, number, url, models), range(n)))
    seconds = time.perf_counter() - started
    all_of = list(models.conversations.values())
    found: Counter[str] = sum((one.violations(by_tool=variant == "middleware") for one in all_of), Counter())
    roles = Counter(one.issued[call].role for one in all_of for call, *_ in one.executed if call in one.issued)
    faults: Counter[str] = sum((one.faults for one in all_of), Counter())
    return {
        "conversations": n,
        "tasks": n * TASKS,
        "failed_tasks": sum(one["failed_tasks"] for one in ended),
        "executed": sum(len(one.executed) for one in all_of),
        "executed_by": {role: roles[role] for role in ("draft", "target", "spare")},
        "violations": {name: found[name] for name in VIOLATIONS},
        "summaries": sum(one.summaries for one in all_of),
        "early_summaries": sum(one.early for one in all_of),
        "judged": sum(one.judged for one in all_of),
        "interrupts": sum(one.interrupts for one in all_of),
        "faults": {name: faults[name] for name in FAULTS},
        "seconds": round(seconds, 1),
    }


@contextmanager
def _served(models: Models) -> Iterator[str]:
    with provider() as served:
        served.answers_by(models.answer)
        yield served.url
