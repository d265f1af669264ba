"""How a LangChain model in a role is called: silently, without blocking a loop, and with its tokens counted."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Self, TypeVar

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel, BaseLLM
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.utils import count_tokens_approximately
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.config import var_child_runnable_config
from langsmith import tracing_context

from rsd_core import ConfigurationError, Model, Price, Usage
from rsd_core.blocking import background_loop, in_thread
from rsd_core.lazy import identity

T = TypeVar("T")


class LangChainRole(Model):
    """What LangChain models have in common, whatever their role.

    Args:
        model: A chat model or LLM; bindings and fallbacks of one as well.
        trace_inner: Let callbacks and traces of the surrounding run see the calls of this model. Event streams then
            show its tokens as well, rejected ones included: tell them by the tag `rsd:…`. LangGraph's message streams
            stay clean.
        name: Shown to people; by default the model's own.
        price: What its tokens cost, for the ledger.
        flops_per_token: Two per weight, where known, for the ledger.
    """

    role = "model"
    """Tags the calls in traces, as `rsd:…`."""

    def __init__(
        self,
        model: Runnable[Any, Any],
        *,
        trace_inner: bool = False,
        name: str | None = None,
        price: Price | None = None,
        flops_per_token: float | None = None,
    ) -> None:
        if not isinstance(model, Runnable):
            raise ConfigurationError(
                f"{model!r} is no LangChain model. Pass a chat model or LLM, such as ChatOpenAI()."
            )
        self.model = model
        self.trace_inner = trace_inner
        self.name = name or _name(model)
        self.price = price
        self.flops_per_token = flops_per_token

    @property
    def fingerprint(self) -> str:
        """Tells models and their settings apart, as LangChain's own cache does."""
        return _with_digest(_fingerprint(self.model), self._decisive())

    def _decisive(self) -> dict[str, Any]:
        """What decides about its answers besides the model."""
        return {}

    def using(self, **changes: Any) -> Self:
        """A copy with other values of its attributes, such as `trace_inner` or `options`."""
        other = copy.copy(self)
        vars(other).update(changes)
        return other

    async def call(self, model: Runnable[Any, Any], value: Any, /, **options: Any) -> tuple[BaseMessage | str, Usage]:
        """Ask a model, without callbacks of the surrounding run unless `trace_inner`."""
        started = time.perf_counter()
        config = self._config()
        made = await self._run(
            model, partial(model.invoke, value, config, **options), partial(model.ainvoke, value, config, **options)
        )
        return made, told_usage(made, value, time.perf_counter() - started)

    async def _run(self, model: Runnable[Any, Any], blocking: Callable[[], T], native: Callable[[], Awaitable[T]]) -> T:
        """Call one of the two faces of a model."""
        if _blocking(model):
            return await (in_thread(blocking) if self.trace_inner else silently_in_thread(blocking))
        return await (native() if self.trace_inner else silently(native()))

    def _config(self) -> RunnableConfig:
        # Callbacks of the surrounding run are inherited unless others are named. `nostream` is LangGraph's word.
        if self.trace_inner:
            return RunnableConfig(tags=["nostream", f"rsd:{self.role}"])
        return RunnableConfig(callbacks=[])


async def silently(work: Awaitable[T]) -> T:
    """Await work that callbacks and traces of the surrounding run do not see."""

    async def untraced() -> T:
        with tracing_context(enabled=False):  # LangSmith's, which no callback switches off
            return await work

    return await asyncio.create_task(untraced(), context=_quiet())


async def silently_in_thread(work: Callable[[], T]) -> T:
    """The same for blocking work."""

    def untraced() -> T:
        with tracing_context(enabled=False):
            return work()

    return await in_thread(untraced, _quiet())


def _blocking(model: Runnable[Any, Any]) -> bool:
    """Whether to call the blocking face, in a thread of its own.

    On the background loop the caller blocks as well, and clients of the asynchronous face belong to the caller's own
    loops. Models without an asynchronous face would take theirs from a pool of few threads.
    """
    model = unbound(model)
    if asyncio.get_running_loop() is background_loop():
        return True
    if isinstance(model, BaseChatModel):
        base: type[Any] = BaseChatModel
    elif isinstance(model, BaseLLM):
        base = BaseLLM
    else:
        return False
    kind = type(model)
    return kind._agenerate is base._agenerate and kind._astream is base._astream


def _quiet() -> contextvars.Context:
    """The present context without callbacks: those of the surrounding run, and those that other variables hold.

    Naming none is not enough: a binding would merge them with the surrounding run's, and counters of usage are
    variables of their own.
    """
    context = contextvars.copy_context()
    for variable, value in list(context.items()):
        if isinstance(value, BaseCallbackHandler):
            context.run(variable.set, None)
    around = context.get(var_child_runnable_config)
    if around:
        context.run(var_child_runnable_config.set, {**around, "callbacks": None})
    return context


def told_usage(made: BaseMessage | str, asked: Any, seconds: float) -> Usage:
    """Tokens as the provider tells them, else four characters each."""
    told = made.usage_metadata if isinstance(made, AIMessage) else None
    if told is not None:
        read, wrote = told.get("input_tokens") or 0, told.get("output_tokens") or 0
        reused = (told.get("input_token_details") or {}).get("cache_read") or 0
    else:
        read, wrote, reused = estimate(asked), estimate(made), 0
    return Usage(read, read - reused + wrote, reused, wrote, seconds=seconds)


def estimate(value: Any) -> int:
    """Tokens of a text or of messages, four characters each."""
    messages = value if isinstance(value, list) else [value]
    return count_tokens_approximately(messages, extra_tokens_per_message=0)


def unbound(model: Runnable[Any, Any]) -> Runnable[Any, Any]:
    """A model without what `bind`, `with_config` and `with_retry` put around it."""
    while isinstance(model, RunnableBindingBase):
        model = model.bound
    return model


def _name(model: Runnable[Any, Any]) -> str:
    model = unbound(model)
    for attribute in ("model_name", "model", "model_id"):
        named = getattr(model, attribute, None)
        if isinstance(named, str):
            return named
    return type(model).__name__


def _fingerprint(model: Runnable[Any, Any]) -> str:
    if isinstance(model, RunnableBindingBase):
        return _with_digest(_fingerprint(model.bound), model.kwargs)
    if isinstance(model, BaseChatModel | BaseLLM) and (model.is_lc_serializable() or len(model.asdict()) > 1):
        known = model._get_llm_string() if isinstance(model, BaseChatModel) else str(sorted(model.asdict().items()))
        return f"{_name(model)}#{hashlib.sha256(known.encode()).hexdigest()[:16]}"
    return identity(model)  # the class tells nothing that could identify a model


def _with_digest(name: str, options: Mapping[str, Any]) -> str:
    if not options:
        return name
    known = json.dumps(options, sort_keys=True, default=str)
    return f"{name}+{hashlib.sha256(known.encode()).hexdigest()[:16]}"
