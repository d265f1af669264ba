"""The cost of requests: tokens and money of all three models, for one message or for all that a handler sees."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypedDict, get_args

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata, add_usage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.tracers.context import register_configure_hook

from rsd_core import Decoder, Ledger, Result, RewardGuidedDecoder, RunError
from rsd_core.ledger import Account, Role
from rsd_integrations.langchain.trace import result_of

BILL_EVENT = "rsd_bill"
"""Name of the custom event with which `RSDRunnable`, which is not a model to LangChain, reports a request's cost."""


class BillItem(TypedDict):
    """The work of one model in one role."""

    role: Role
    model: str
    """The model's name; several are joined by " + "."""
    calls: int
    """Calls begun, including failed and cancelled ones."""
    usage: UsageMetadata
    """Tokens of all these calls; `rejected` in the output details are not part of an answer."""
    cost: float | None
    """Money, in the currency of the models' prices; None if a model has no price."""


def bill_of(message: BaseMessage) -> list[BillItem]:
    """The cost of a message from `ChatRSD` or `RSDRunnable`: one item per role used.

    By contrast, its `usage_metadata` is that of the answer's own call.

    Raises:
        ValueError: The message comes from elsewhere.
    """
    result = result_of(message)
    return bill(result, message.response_metadata["rsd"].get("models", {}))


def bill(result: Result, models: Mapping[Role, str]) -> list[BillItem]:
    """The same for a result, with the names of the models in the roles."""
    return bill_of_ledger(result.ledger, models)


def bill_of_ledger(ledger: Ledger, models: Mapping[Role, str]) -> list[BillItem]:
    """The same for any number of requests."""
    accounts = {role: ledger.account(role) for role in _ROLES}
    return [_item(role, models.get(role, role), one) for role, one in accounts.items() if one.calls]


def bill_of_error(error: BaseException) -> list[BillItem]:
    """The cost of a failed request."""
    partial = getattr(error, "partial", None)
    return bill(partial, getattr(error, "models", {})) if isinstance(partial, Result) else []


@contextmanager
def naming(models: Mapping[Role, str]) -> Iterator[None]:
    """Attach the model names to errors of requests, for the bill."""
    try:
        yield
    except RunError as error:
        error.models = models  # type: ignore[attr-defined]
        raise


class RSDBillCallbackHandler(BaseCallbackHandler):
    """Sums the cost of requests, as `UsageMetadataCallbackHandler` sums the usage of answers.

    It covers `ChatRSD`, `RSDLLM`, `RSDRunnable` and `RSDMiddleware` wherever they run: in chains, graphs, batches and
    streams. The bill includes failed requests, but neither answers from LangChain's cache nor calls of other models.

    Example:
        ```python
        from rsd_integrations.langchain import ChatRSD, RSDBillCallbackHandler

        bill = RSDBillCallbackHandler()
        model = ChatRSD(draft="scripted:draft", target="scripted:target", verifier="scripted:verifier")
        model.invoke("How many seats are free?", config={"callbacks": [bill]})
        assert {item["role"] for item in bill.items} == {"drafter", "verifier", "target"}
        ```
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._items: dict[tuple[Role, str], BillItem] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.items!r})"

    @property
    def items(self) -> list[BillItem]:
        """One item per role and model."""
        with self._lock:
            return [BillItem(**item) for item in self._items.values()]

    @property
    def usage_metadata(self) -> dict[str, UsageMetadata]:
        """Tokens per model, in all roles."""
        tokens: dict[str, UsageMetadata] = {}
        for item in self.items:
            tokens[item["model"]] = add_usage(tokens.get(item["model"]), item["usage"])
        return tokens

    @property
    def cost(self) -> float | None:
        """The total money; None if a model used has no price."""
        costs = [item["cost"] for item in self.items]
        return None if None in costs else sum(cost for cost in costs if cost is not None)

    def add(self, items: list[BillItem]) -> None:
        """Add the cost of a request."""
        with self._lock:
            for item in items:
                key = (item["role"], item["model"])
                before = self._items.get(key)
                self._items[key] = item if before is None else _sum(before, item)

    def on_llm_end(self, response: LLMResult, *, tags: list[str] | None = None, **_: Any) -> None:
        """Add the cost of answers from their traces."""
        for generation in (one for ones in response.generations for one in ones):
            if isinstance(generation, ChatGeneration):
                told, cached = generation.message.response_metadata, _is_cached(generation.message)
            else:
                told, cached = generation.generation_info or {}, False
            if "rsd" in told and not cached and not _is_inner(tags):
                self.add(bill(Result.from_dict(told["rsd"]), told["rsd"].get("models", {})))

    def on_llm_error(self, error: BaseException, *, tags: list[str] | None = None, **_: Any) -> None:
        """Add the cost of a failed request."""
        if not _is_inner(tags):
            self.add(bill_of_error(error))

    def on_custom_event(self, name: str, data: Any, *, tags: list[str] | None = None, **_: Any) -> None:
        """Add the cost reported by `RSDRunnable`."""
        if name == BILL_EVENT and not _is_inner(tags):
            self.add(data)


@contextmanager
def get_rsd_bill_callback(name: str = "rsd_bill_callback") -> Generator[RSDBillCallbackHandler, None, None]:
    """Sum the cost of all RSD requests inside the context, as `get_usage_metadata_callback` sums usage.

    Example:
        ```python
        from rsd_integrations.langchain import ChatRSD, get_rsd_bill_callback

        model = ChatRSD(draft="scripted:draft", target="scripted:target", verifier="scripted:verifier")
        with get_rsd_bill_callback() as bill:
            model.batch(["How many seats are free?", "And in the third row?"])
        assert bill.usage_metadata["scripted target"]["output_tokens"] > 0
        ```
    """
    variable: ContextVar[RSDBillCallbackHandler | None] = ContextVar(name, default=None)
    register_configure_hook(variable, inheritable=True)
    handler = RSDBillCallbackHandler()
    token = variable.set(handler)
    try:
        yield handler
    finally:
        variable.reset(token)


def model_names(decoder: Decoder) -> dict[Role, str]:
    """The names of the models in the roles of a decoder."""
    casts: list[Any] = list(decoder.casts().values()) if isinstance(decoder, RewardGuidedDecoder) else [decoder]
    models = {role: [getattr(cast, role, None) for cast in casts] for role in _ROLES}
    return {
        role: " + ".join(dict.fromkeys(model.name for model in named if model is not None))
        for role, named in models.items()
        if any(named)
    }


_ROLES: tuple[Role, ...] = get_args(Role)


def _item(role: Role, model: str, account: Account) -> BillItem:
    usage = UsageMetadata(
        input_tokens=account.read,
        output_tokens=account.generated,
        total_tokens=account.read + account.generated,
        input_token_details=InputTokenDetails(cache_read=account.reused),
    )
    if role != "verifier":
        usage["output_token_details"] = OutputTokenDetails(
            rejected=account.discarded  # type: ignore[typeddict-unknown-key]
        )
    return BillItem(role=role, model=model, calls=account.calls, usage=usage, cost=account.cost)


def _sum(one: BillItem, other: BillItem) -> BillItem:
    costs = (one["cost"], other["cost"])
    return BillItem(
        role=one["role"],
        model=one["model"],
        calls=one["calls"] + other["calls"],
        usage=add_usage(one["usage"], other["usage"]),
        cost=None if costs[0] is None or costs[1] is None else costs[0] + costs[1],
    )


def _is_inner(tags: list[str] | None) -> bool:
    """Whether a run belongs to an RSD model in a role of another, whose bill includes its tokens."""
    return any(tag.startswith("rsd:") for tag in tags or ())


def _is_cached(message: BaseMessage) -> bool:
    """Whether a message came from LangChain's cache, which sets its cost to 0."""
    return "total_cost" in (getattr(message, "usage_metadata", None) or {})
