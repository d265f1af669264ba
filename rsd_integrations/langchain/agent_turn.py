"""One model call of an agent, as a decoder and its prompt."""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast, get_args

from langchain.agents.middleware import ExtendedModelResponse, ModelRequest, ModelResponse
from langchain_core.callbacks import adispatch_custom_event, dispatch_custom_event
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage
from langgraph.types import Command

from rsd_core import (
    Drafter,
    Generation,
    Ledger,
    Path,
    Price,
    Prompt,
    Result,
    RewardGuidedDecoder,
    RunError,
    Scores,
    Settings,
    Step,
    StepRequest,
    Target,
    TargetError,
    Usage,
    Verifier,
)
from rsd_core.ledger import Role
from rsd_core.model import add_usage
from rsd_integrations.langchain.agent_budget import BudgetExceededError, Budgets
from rsd_integrations.langchain.bill import BILL_EVENT, BillItem, bill_of_ledger
from rsd_integrations.langchain.broken_calls import StreamedCalls, streamed_calls, without_calls_of_cut
from rsd_integrations.langchain.identities import model_name
from rsd_integrations.langchain.judges import FunctionVerifier
from rsd_integrations.langchain.messages import as_prompt, as_text, readable_by
from rsd_integrations.langchain.silent_calls import Signal, call_async, call_in_thread
from rsd_integrations.langchain.thoughts import thought_of
from rsd_integrations.langchain.tokens import usage_of_reply
from rsd_integrations.langchain.tool_policies import ToolPolicies, TurnPolicy, as_words
from rsd_integrations.langchain.trace import metadata, step_data, usage
from rsd_integrations.loaded_models import LoadedModels
from rsd_integrations.turns import as_response

ExitBehavior = Literal["end", "error", "draft"]
_Response = ModelResponse[Any]
Handler = Callable[[ModelRequest[Any]], _Response | Awaitable[_Response]]


@dataclass(frozen=True, slots=True)
class Setup:
    """A middleware's configuration, shared by all of its turns."""

    name: str
    draft: BaseChatModel
    draft_settings: Mapping[str, Any]
    """Options for the draft's calls."""
    verifier: str | Verifier | None
    policies: ToolPolicies
    budgets: Budgets
    exit_behavior: ExitBehavior
    prices: Mapping[str, Price]
    """By model name."""
    settings: Settings
    trace_inner: bool
    loaded: LoadedModels = field(default_factory=LoadedModels)
    debts: Debts = field(default_factory=lambda: Debts())

    @property
    def judge(self) -> Verifier | None:
        """The verifier, loaded."""
        return None if self.verifier is None else self.loaded.get(self.verifier)

    def drafted(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        """The agent's call, redirected to the draft model."""
        return request.override(model=self.draft, model_settings={**request.model_settings, **self.draft_settings})


class Turn:
    """One model call of an agent: drafted, judged, perhaps answered again; then its response and record.

    Args:
        rsd: What the middleware was given.
        request: The agent's call.
        handler: Executes a call.
        blocking: Whether the handler is synchronous.
    """

    def __init__(self, rsd: Setup, request: ModelRequest[Any], handler: Handler, *, blocking: bool) -> None:
        self._rsd, self._request = rsd, request
        state = cast("Mapping[str, Any]", request.state)
        self._spent = rsd.budgets.spent(state, rsd.name, "max_tokens", "max_cost")
        self._limit = self._spent or rsd.budgets.spent(state, rsd.name, "max_target_calls")
        self._policy = rsd.policies.for_turn(request)
        self._drafter = _Caller(rsd.drafted(request), handler, rsd, blocking=blocking, policy=self._policy)
        self._target = _Caller(request, handler, rsd, blocking=blocking)
        self.record: dict[str, Any] = {}
        """The record of the call, for the agent's state and traces."""

    def run(self, _: object) -> dict[str, Any]:
        """Make the call, and return its record."""
        if self._spent is not None:
            return self._settle(None)
        try:
            result = self._decoder().run(self._prompt)
        except (TargetError, Signal) as error:
            ledger = self._owed(error)
            dispatch_custom_event(BILL_EVENT, self._items(ledger))
            raise _origin(error) from error
        dispatch_custom_event(BILL_EVENT, self._items(result.ledger))
        return self._settle(result)

    async def arun(self, _: object) -> dict[str, Any]:
        """The same, asynchronously."""
        if self._spent is not None:
            return self._settle(None)
        try:
            result = await self._decoder().arun(self._prompt)
        except (TargetError, Signal) as error:
            ledger = self._owed(error)
            await adispatch_custom_event(BILL_EVENT, self._items(ledger))
            raise _origin(error) from error
        await adispatch_custom_event(BILL_EVENT, self._items(result.ledger))
        return self._settle(result)

    @property
    def response(self) -> ExtendedModelResponse[Any]:
        """The chosen model's response, and the record for the state."""
        update: dict[str, Any] = {"rsd": [self.record]}
        if self.record["author"] == "limit":  # without calls an agent ends anyway, unless it expects structured output
            update["jump_to"] = "end"
        return ExtendedModelResponse(self._response, Command(update=update))

    def _decoder(self) -> RewardGuidedDecoder:
        rsd = self._rsd
        verifier = rsd.judge
        decoder = RewardGuidedDecoder(
            drafter=self._drafter,
            verifier=None if verifier is None else _TurnVerifier(verifier, self._policy, rsd.prices),
            target=self._target if self._limit is None else _AtLimit(self._drafter, self._policy, rsd, self._limit),
            policy=self._policy,
            settings=rsd.settings,
        )
        return rsd.loaded.watched(decoder)

    @property
    def _prompt(self) -> Prompt:
        request = self._request
        system = [request.system_message] if request.system_message else []
        return as_prompt([*system, *request.messages], self._policy.definitions)

    def _settle(self, result: Result | None) -> dict[str, Any]:
        """Choose the response and make the record."""
        ledger = _sum(None if result is None else result.ledger, self._rsd.debts.pay(self._request))
        result = None if result is None else replace(result, ledger=ledger)
        step = result.steps[-1] if result is not None and result.steps else None
        author = "target" if step is None else step.author
        drafted = author == "draft" or (step is None and self._target.response is None)
        if self._limit is not None and author == "target":
            author, drafted = "limit", False
            ledger.target.calls -= result is not None  # no model was called
            message = step.native if step is not None else None
            self._response = _Response([message if isinstance(message, AIMessage) else _limited(self._limit)])
        else:
            chosen = self._drafter if drafted else self._target
            assert chosen.response is not None
            self._response = chosen.response
        judged = self._drafter.message or self._message
        reward = None if step is None or self._policy.refused is not None else step.reward
        self.record = {
            **({"kind": "answer", "accepted": False, "tokens": 0} if step is None else _told(step_data(step, 0))),
            "id": uuid.uuid4().hex,
            "middleware": self._rsd.name,
            "author": author,
            "reward": reward,
            "tools": [call["name"] for call in judged.tool_calls] if judged is not None else [],
            "policy": [as_words(policy) for policy in self._policy.applied],
            "refused": self._policy.refused,
            "limit": self._limit if author == "limit" else None,
            **_cost(ledger, result),
        }
        if author == "limit" and (self._rsd.exit_behavior == "error" or self._met_before):
            raise BudgetExceededError(str(self._limit), self.record)
        if result is not None:
            self._mark(result)
        return self.record

    @property
    def _models(self) -> dict[Role, str]:
        """The names of the models in the roles."""
        judge = self._rsd.judge
        return {
            "drafter": self._drafter.name,
            "verifier": "" if judge is None else judge.name,
            "target": self._target.name,
        }

    @property
    def _met_before(self) -> bool:
        """Whether this run already hit its limit: the agent did not end then, and would loop forever."""
        state = cast("Mapping[str, Any]", self._request.state)
        records = (state.get("rsd") or [])[state.get("rsd_run") or 0 :]
        return any(record["limit"] and record["middleware"] == self._rsd.name for record in records)

    @property
    def _message(self) -> AIMessage | None:
        return next((message for message in self._response.result if isinstance(message, AIMessage)), None)

    def _mark(self, result: Result) -> None:
        """Put the result into the message's metadata, as `ChatRSD` does."""
        message = self._message
        if message is None:
            return
        told = message.response_metadata | {"rsd": metadata(result, self._models)["rsd"]}
        marked = message.model_copy(update={"response_metadata": told})
        self._response = replace(
            self._response, result=[marked if one is message else one for one in self._response.result]
        )

    def _owed(self, error: TargetError | Signal) -> Ledger:
        """Note the cost of a failed call, for the record of the one that succeeds."""
        partial = getattr(error, "partial", None)
        ledger = Ledger() if partial is None else partial.ledger
        if partial is None:  # an interrupt: the models' calls are known, the verifier's are not
            for account, caller in ((ledger.drafter, self._drafter), (ledger.target, self._target)):
                for usage in caller.paid:
                    account.charge(caller, usage)
        self._rsd.debts.add(self._request, ledger)
        return ledger

    def _items(self, ledger: Ledger) -> list[BillItem]:
        """The cost of this attempt; a target that is itself RSD reports its own bill."""
        apart = self._limit is not None or self._target.is_rsd
        return [item for item in bill_of_ledger(ledger, self._models) if not (apart and item["role"] == "target")]


class Debts:
    """The cost of failed calls, by graph task, for the record of the call that finally succeeds.

    A failed call leaves nothing in the agent's state; without this, each retry would be free.
    """

    def __init__(self) -> None:
        self._owed: dict[str, Ledger] = {}

    def add(self, request: ModelRequest[Any], ledger: Ledger) -> None:
        """Add the cost of a failed call."""
        task = _task(request)
        if task is not None:
            self._owed[task] = _sum(ledger, self._owed.get(task))
            while len(self._owed) > _MOST_DEBTS:  # from abandoned runs
                self._owed.pop(next(iter(self._owed)))

    def pay(self, request: ModelRequest[Any]) -> Ledger | None:
        """The cost of earlier failed calls, which is then cleared."""
        return self._owed.pop(_task(request) or "", None)


_MOST_DEBTS = 1000


class _Caller(Drafter, Target):
    """A model as the agent calls it."""

    def __init__(
        self,
        request: ModelRequest[Any],
        handler: Handler,
        rsd: Setup,
        *,
        blocking: bool,
        policy: TurnPolicy | None = None,
    ) -> None:
        model = request.model
        self.name = model_name(model)
        self.price = rsd.prices.get(self.name)
        self.response: _Response | None = None
        self.message: AIMessage | None = None
        self.is_rsd = False
        """Whether it is itself RSD, judging by its replies."""
        self.paid: list[Usage] = []
        """For each reply."""
        self._request = request.override(messages=cast("list[AnyMessage]", readable_by(model, request.messages)))
        self._handler, self._blocking, self._policy = handler, blocking, policy
        self._traced = policy is None or rsd.trace_inner

    async def generate(self, path: Path, request: StepRequest) -> Generation:  # noqa: ARG002 - the agent's holds all
        started = time.perf_counter()
        self.response = self.message = None
        try:
            if self._blocking:
                return await call_in_thread(lambda: self._ask(path, started), self.name, traced=self._traced)
            return await call_async(self._ask_async(path, started), self.name, traced=self._traced)
        except Exception as error:
            reply = getattr(error, "ai_message", None)  # a reply that could not be parsed, but was paid for
            if isinstance(reply, AIMessage):
                add_usage(error, self._usage(reply, started))
            raise

    def _ask(self, path: Path, started: float) -> Generation:
        with streamed_calls() as calls:
            response = cast("_Response", self._handler(self._request))
        return self._read(response, calls, path, started)

    async def _ask_async(self, path: Path, started: float) -> Generation:
        with streamed_calls() as calls:
            response = await cast("Awaitable[_Response]", self._handler(self._request))
        return self._read(response, calls, path, started)

    def _read(self, response: _Response, calls: StreamedCalls, path: Path, started: float) -> Generation:
        messages = [
            without_calls_of_cut(calls.without_unreadable_calls(one)) if isinstance(one, AIMessage) else one
            for one in response.result
        ]
        response = replace(response, result=messages)
        reply = next((message for message in response.result if isinstance(message, AIMessage)), None)
        usage = self._usage(reply or "", started)
        self.paid.append(usage)
        if reply is None:
            raise RunError(f"{self.name} returned no message", usage=usage)
        self.response, self.message = response, reply
        if self._policy is not None:
            self._policy.see(response, reply)
        text = as_response(as_text(reply), thought_of(reply), path)
        return Generation((Step(text, "end", size=usage.generated, native=reply),), usage)

    def _usage(self, reply: AIMessage | str, started: float) -> Usage:
        seconds = time.perf_counter() - started
        told = reply.response_metadata.get("rsd") if isinstance(reply, AIMessage) else None
        if told is None:
            return usage_of_reply(reply, self._request.messages, seconds)
        self.is_rsd = True
        total = told["ledger"]["total"]  # all of it was paid for
        read = total["computed"] - total["generated"] + total["reused"]
        return Usage(read, total["computed"], total["reused"], total["generated"], seconds=seconds)


class _AtLimit(Target):
    """Replaces the target when its budget is exhausted: says so, or keeps a draft without tool calls."""

    price = Price(0, 0)

    def __init__(self, drafter: _Caller, policy: TurnPolicy, rsd: Setup, limit: str) -> None:
        self.name = "limit"
        self._drafter, self._policy, self._rsd, self._limit = drafter, policy, rsd, limit

    async def generate(self, path: Path, request: StepRequest) -> Generation:  # noqa: ARG002
        draft = self._drafter.message
        kept = self._rsd.exit_behavior == "draft" and draft is not None
        if not kept or draft is None or draft.tool_calls or draft.invalid_tool_calls:
            draft = _limited(self._limit)
        return Generation((Step(as_text(draft) or " ", "end", native=draft),), Usage())


class _TurnVerifier(Verifier):
    """A verifier that skips drafts that cannot be kept anyway."""

    may_abstain = True

    def __init__(self, verifier: Verifier, policy: TurnPolicy, prices: Mapping[str, Price]) -> None:
        self.name, self.flops_per_token = verifier.name, verifier.flops_per_token
        free = Price(0, 0) if isinstance(verifier, FunctionVerifier) else None
        self.price = verifier.price or prices.get(verifier.name) or free
        self._verifier, self._policy = verifier, policy

    async def score(self, path: Path, steps: Any) -> Scores:
        if self._policy.refused is not None:
            return Scores((None,) * len(steps), Usage())
        return await self._verifier.score(path, steps)


def is_draft(model: BaseChatModel) -> bool:
    """Whether a model is called as the draft of an outer middleware."""
    return _DRAFT in (getattr(model, "tags", None) or [])


def as_draft(model: BaseChatModel) -> BaseChatModel:
    """A model whose calls are distinguishable from the agent's own.

    LangGraph's message streams omit calls with this tag. Draft tokens must not be visible, so it is not streamed unless
    the user configured the model to stream.
    """
    update: dict[str, Any] = {"tags": [*(model.tags or []), "nostream", _DRAFT]}
    if getattr(model, "streaming", None) is not True:
        update["disable_streaming"] = True
    return model.model_copy(update=update)


_DRAFT = "rsd:draft"


def _origin(error: TargetError | Signal) -> BaseException:
    """The original exception, for outer middleware to recognise."""
    return error.signal if isinstance(error, Signal) else error.__cause__ or error


def _limited(limit: str) -> AIMessage:
    return AIMessage(f"The budget is spent: {limit}.")


def _told(step: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in step.items() if key not in ("step", "text")}


def _cost(ledger: Ledger, result: Result | None) -> dict[str, Any]:
    """The cost of a call, all models together."""
    accounts = (ledger.drafter, ledger.verifier, ledger.target)
    costs = [account.cost for account in accounts if account.computed or account.reused]
    total = ledger.total
    none = {"input_tokens": total.read, "output_tokens": total.generated, "total_tokens": total.read + total.generated}
    return {
        "usage": none if result is None else dict(usage(result)),
        "cost": None if None in costs else sum(cost for cost in costs if cost is not None),
        "target_calls": ledger.target.calls,
        "degradations": [] if result is None else [item.message for item in result.degradations],
    }


def _sum(*ledgers: Ledger | None) -> Ledger:
    total = Ledger()
    for role in get_args(Role):
        for ledger in filter(None, ledgers):
            total.account(role).add(ledger.account(role))
    return total


def _task(request: ModelRequest[Any]) -> str | None:
    """The graph task of a call, the same for all attempts."""
    info = getattr(request.runtime, "execution_info", None)
    return None if info is None else f"{info.thread_id} {info.task_id}"
