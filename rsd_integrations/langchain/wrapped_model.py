"""A LangChain model in a role: chooses which of its methods to call, and counts its tokens."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self, TypeVar

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.language_models import LLM, BaseChatModel, BaseLLM, SimpleChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda

from rsd_core import ConfigurationError, Model, Price, RunError, Usage
from rsd_core.blocking import background_loop
from rsd_core.data import masked
from rsd_integrations.given_fields import shown
from rsd_integrations.langchain.broken_calls import streamed_calls
from rsd_integrations.langchain.compositions import check_composition, ends_in_model, models_in, settled
from rsd_integrations.langchain.identities import fingerprint, model_name, with_digest
from rsd_integrations.langchain.partner_classes import described, with_fields
from rsd_integrations.langchain.portable import portable, restored
from rsd_integrations.langchain.silent_calls import call_async, call_in_thread
from rsd_integrations.langchain.tokens import estimate_tokens, usage_of_reply

Answer = TypeVar("Answer")
Read = TypeVar("Read")


@dataclass(frozen=True, slots=True)
class ModelReply:
    """A model's answer and its usage."""

    message: BaseMessage | str
    usage: Usage


class LangChainRole(Model):
    """Base of LangChain models in any role.

    On the background loop, which serves blocking methods such as `invoke`, a model's blocking method is called in a
    thread: asynchronous clients belong to the caller's loops. A blocking call cannot be cut short. A request that is
    cancelled or times out meanwhile ends when the call returns; its reply is charged but unused.

    Args:
        model: A chat model or LLM; bindings and fallbacks of one as well.
        trace_inner: Show this model's calls in callbacks and traces of the surrounding run. Event streams then also
            show its tokens, including rejected ones, identified by the tag `rsd:…`. LangGraph's message streams stay
            clean.
        name: Display name; by default the model's own.
        price: Price of its tokens, for the ledger.
        flops_per_token: Two per weight, if known, for the ledger.
    """

    role = "model"
    """Tag of the calls in traces, as `rsd:…`."""
    callbacks: BaseCallbackManager | None = None
    """Callbacks of the calls' run, if traced; by default those of the surrounding run."""

    configurable: Mapping[str, Any] = MappingProxyType({})
    """Configuration of a configurable model for this copy's call; by default that of the context."""

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
            such = f"init_chat_model({masked(model)!r})" if isinstance(model, str) else "ChatOpenAI()"
            raise ConfigurationError(
                f"{shown(model)} is not a LangChain model. Pass a chat model or LLM such as {such}."
            )
        check_composition(model)
        self.model = model
        self.trace_inner = trace_inner
        self.name = name or model_name(model)
        self.price = price
        self.flops_per_token = flops_per_token

    def __getstate__(self) -> dict[str, Any]:
        """The pickled state, without copies for request fields (see `TakesFields`)."""
        state = {name: value for name, value in vars(self).items() if name != "_copies"}
        return state | {"model": portable(self.model)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({name: restored(value) if name == "model" else value for name, value in state.items()})

    @property
    def fingerprint(self) -> str:
        """Identifies a model and its settings, as LangChain's own cache does."""
        return with_digest(fingerprint(self.settled()), self._answers_differ_by())

    def settled(self) -> Runnable[Any, Any]:
        """The model, configured for the current call."""
        return settled(self.model, RunnableConfig(configurable=dict(self.configurable)) if self.configurable else None)

    def _answers_differ_by(self) -> dict[str, Any]:
        """What its answers depend on, besides the model."""
        return {}

    def using(self, **changes: Any) -> Self:
        """A copy with other values of its attributes, such as `trace_inner` or `options`."""
        other = copy.copy(self)
        vars(other).update(changes)
        return other

    async def call(self, model: Runnable[Any, Any], value: Any, /, **fields: Any) -> ModelReply:
        """Call a model, without callbacks of the surrounding run unless `trace_inner`.

        Args:
            model: The model.
            value: Messages or a text.
            fields: Fields to send with the call, by the names in `SENDS`.

        Raises:
            RunError: The model's answer is neither a message nor a text.
        """

        def read(answer: Any, seconds: float) -> ModelReply:
            if not isinstance(answer, BaseMessage | str):
                size = estimate_tokens(value)
                raise RunError(
                    f"{self.name} answered with {answer!r:.80}, which is neither a message nor a text",
                    usage=Usage(prefix=size, computed=size, seconds=seconds),
                )
            return ModelReply(answer, usage_of_reply(answer, value, seconds))

        config = self._config()
        if model is self.model:
            model = with_fields(self.settled(), fields, {})

        def ask() -> Any:
            with streamed_calls() as calls:
                answer = model.invoke(value, config)
            return calls.without_unreadable_calls(answer) if isinstance(answer, AIMessage) else answer

        async def ask_natively() -> Any:
            with streamed_calls() as calls:
                answer = await model.ainvoke(value, config)
            return calls.without_unreadable_calls(answer) if isinstance(answer, AIMessage) else answer

        return await self._run(model, ask, ask_natively, read)

    async def _run(
        self,
        model: Runnable[Any, Any],
        blocking: Callable[[], Answer],
        native: Callable[[], Awaitable[Answer]],
        read: Callable[[Answer, float], Read],
    ) -> Read:
        """Call the blocking or asynchronous method, and read the answer where it arrives: in the thread, if any.

        The result of `read`, given the answer and its seconds, has a `usage`, which is charged even if unused.
        """
        started = time.perf_counter()

        def ask() -> Read:
            return read(blocking(), time.perf_counter() - started)

        async def ask_natively() -> Read:
            return read(await native(), time.perf_counter() - started)

        try:
            if _is_called_blocking(model):
                return await call_in_thread(ask, self.name, traced=self.trace_inner)
            return await call_async(ask_natively(), self.name, traced=self.trace_inner)
        except Exception as error:
            error.add_note(f"{described(model)} was asked")  # shows what to fix if nothing works
            raise

    def _config(self) -> RunnableConfig:
        # Callbacks of the surrounding run are inherited unless others are given. `nostream` is LangGraph's tag.
        if self.trace_inner:
            config = RunnableConfig(tags=["nostream", f"rsd:{self.role}"])
            return config if self.callbacks is None else RunnableConfig(**config, callbacks=self.callbacks)
        return RunnableConfig(callbacks=[])


def binds_tools(model: Runnable[Any, Any]) -> bool:
    """Whether tools can be bound to a model, and their calls are returned."""
    return ends_in_model(model) and all(map(_binds_tools, models_in(model)))


def _binds_tools(model: Runnable[Any, Any]) -> bool:
    return hasattr(model, "bind_tools") and getattr(type(model), "bind_tools", None) is not BaseChatModel.bind_tools


def _is_called_blocking(model: Runnable[Any, Any]) -> bool:
    """Whether to call the blocking method: on the background loop, and if the other one only seems asynchronous."""
    return asyncio.get_running_loop() is background_loop() or any(map(_only_blocks, models_in(model)))


def _only_blocks(model: Runnable[Any, Any]) -> bool:
    """Whether the asynchronous method is LangChain's default: the blocking one in a small thread pool."""
    kind: type[Any] = type(model)
    if isinstance(model, BaseChatModel):
        streams = getattr(model, "streaming", False) is True and kind._astream is not BaseChatModel._astream
        return kind._agenerate in (BaseChatModel._agenerate, SimpleChatModel._agenerate) and not streams
    if isinstance(model, LLM):
        return kind._agenerate is LLM._agenerate and kind._acall is LLM._acall
    if isinstance(model, BaseLLM):
        return kind._agenerate is BaseLLM._agenerate
    return isinstance(model, RunnableLambda) and not hasattr(model, "afunc")
