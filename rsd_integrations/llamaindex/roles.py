"""LlamaIndex models as drafter and target."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Self

from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.tools import BaseTool

from rsd_core import (
    ConfigurationError,
    Drafter,
    Generation,
    Model,
    Path,
    Price,
    RunError,
    Step,
    StepRequest,
    Target,
    Usage,
)
from rsd_core.blocking import background_loop, in_thread
from rsd_core.concurrency import run_calls
from rsd_integrations.given_fields import shown
from rsd_integrations.llamaindex.classes import asked_with, calls_tools, model_name, only_blocks, refuse
from rsd_integrations.llamaindex.messages import as_text, originals, readable_by, thought_of
from rsd_integrations.llamaindex.replies import is_cut, usage_of_response
from rsd_integrations.provider_errors import mark_permanent
from rsd_integrations.turns import as_response

SENDS = ("temperature", "top_p", "top_k", "max_tokens", "seed")
"""Request fields that may be sent with each call."""


class LlamaIndexRole(Model):
    """A LlamaIndex model that plays a role.

    Args:
        llm: Any LlamaIndex LLM.
        name: Display name; by default the model's own.
        price: Price of its tokens, for the ledger.
        flops_per_token: Two per weight, if known, for the ledger.

    Raises:
        ConfigurationError: It is not a LlamaIndex LLM.
    """

    def __init__(
        self, llm: BaseLLM, *, name: str | None = None, price: Price | None = None, flops_per_token: float | None = None
    ) -> None:
        if not isinstance(llm, BaseLLM):
            raise ConfigurationError(f"{shown(llm)} is not a LlamaIndex LLM. Pass one, such as Ollama(model='…').")
        self.llm, self.name, self.price, self.flops_per_token = llm, name or model_name(llm), price, flops_per_token

    def using(self, **changes: Any) -> Self:
        """A copy with other values of its attributes, such as `tools` or `options`."""
        other = copy.copy(self)
        vars(other).update(changes)
        return other

    async def ask(
        self, llm: BaseLLM, messages: Sequence[ChatMessage], tools: Sequence[BaseTool] = (), **options: Any
    ) -> tuple[ChatResponse, Usage]:
        """The response of a model and its cost, using whichever method works.

        Calls the asynchronous method if it is really asynchronous; otherwise, and on the background loop, the blocking
        one in a thread, since clients belong to the loop on which they are first used. If a class has only one of the
        two, that one is used.

        Raises:
            RunError: The model's answer is not a chat response.
        """
        shown = readable_by(llm, messages)
        started = time.perf_counter()

        def read(answer: Any) -> _Reply:
            seconds = time.perf_counter() - started
            if not isinstance(answer, ChatResponse):
                raise RunError(f"{self.name} answered with {answer!r:.80}, which is not a ChatResponse")
            return _Reply(answer, usage_of_response(answer, shown, seconds))

        call: dict[str, Any] = {"tools": list(tools), "chat_history": shown} if tools else {"messages": shown}
        blocking: Callable[..., ChatResponse] = llm.chat_with_tools if tools else llm.chat  # type: ignore[attr-defined]
        native: Callable[..., Awaitable[ChatResponse]]
        native = llm.achat_with_tools if tools else llm.achat  # type: ignore[attr-defined]

        async def in_a_thread() -> _Reply:
            return await in_thread(lambda: read(blocking(**call, **options)))

        async def natively() -> _Reply:
            return read(await native(**call, **options))

        faces = [natively, in_a_thread]
        if only_blocks(llm) or asyncio.get_running_loop() is background_loop():
            faces.reverse()
        try:
            try:
                reply = await faces[0]()
            except NotImplementedError:
                reply = await faces[1]()
        except Exception as error:
            mark_permanent(error)
            raise
        return reply.response, reply.usage


class _Reply:
    """A response with its usage, which is charged even if the caller is cancelled while a thread works."""

    def __init__(self, response: ChatResponse, usage: Usage) -> None:
        self.response, self.usage = response, usage


class LlamaIndexGenerator(LlamaIndexRole, Drafter, Target):
    """A LlamaIndex model that writes whole messages (granularity `turn`).

    It gets the caller's messages unchanged, except for content specific to other providers' models, and its message is
    kept with all of its blocks.

    Args:
        llm: See `LlamaIndexRole`.
        sends: Which request fields to send, out of `SENDS`; the model's own settings decide the rest. Its class
            determines how: as a call option, or as a field of a copy.
        options: Additional keyword options of each call.
        **base: `name`, `price` and `flops_per_token`.

    Raises:
        ConfigurationError: A field is unknown, or the model's class cannot accept it.
    """

    def __init__(
        self, llm: BaseLLM, *, sends: Sequence[str] = (), options: Mapping[str, Any] | None = None, **base: Any
    ) -> None:
        super().__init__(llm, **base)
        if unknown := set(sends) - set(SENDS):
            raise ConfigurationError(f"sends={tuple(sends)!r}: {sorted(unknown)} not in {', '.join(SENDS)}")
        refuse(llm, sends)
        self.sends, self.options = tuple(sends), dict(options or {})
        self.tools: Sequence[BaseTool] = ()
        """Callable tools; `options` then go to `achat_with_tools`."""
        self.stop: Sequence[str] = ()
        """Strings that end the answer."""
        self._copies: dict[str, tuple[BaseLLM, dict[str, Any]]] = {}
        """Models with request fields set; shared by copies of this object, since each may create a client."""

    @property
    def renders_tools(self) -> bool:  # type: ignore[override]
        """Whether it has tools; definitions in a prompt are not enough for LlamaIndex."""
        return bool(self.tools)

    @property
    def can_call_tools(self) -> bool:
        """Whether its class and model can call tools."""
        return calls_tools(self.llm)

    async def generate(self, path: Path, request: StepRequest) -> Generation:
        """Write the message that follows the path, once per seed.

        Raises:
            ConfigurationError: A step is requested.
        """
        if request.delimiter is not None:
            raise ConfigurationError(
                f"{self.name} is a LlamaIndex model, which writes whole messages: use granularity='turn'"
            )
        written = await run_calls(self._write(path, request, seed) for seed in request.seeds)
        return Generation(tuple(one.steps[0] for one in written), sum((one.usage for one in written), Usage()))

    async def _write(self, path: Path, request: StepRequest, seed: int) -> Generation:
        llm, options = self._asked(request, seed)
        response, usage = await self.ask(llm, originals(path.prompt), self.tools, **{**options, **self.options})
        cut = is_cut(response)
        text = as_response(as_text(response.message), thought_of(response.message), path, cut=cut)
        step = Step(text, "length" if cut else "end", size=usage.generated, native=response)
        return Generation((step,), usage)

    def _asked(self, request: StepRequest, seed: int) -> tuple[BaseLLM, dict[str, Any]]:
        known: dict[str, Any] = {
            "temperature": request.sampling.temperature,
            "top_p": request.sampling.top_p,
            "max_tokens": request.max_tokens,
            "seed": seed % 2**31,  # servers accept 32 bits
        }
        if request.sampling.top_k:  # providers have no common value for all tokens
            known["top_k"] = request.sampling.top_k
        fields = {name: known[name] for name in self.sends if name in known}
        fields |= {"stop": list(self.stop)} if self.stop else {}
        key = repr(fields)
        if key not in self._copies:
            if len(self._copies) >= 64:
                self._copies.clear()
            self._copies[key] = asked_with(self.llm, fields)
        return self._copies[key]


class LlamaIndexDrafter(LlamaIndexGenerator):
    """A LlamaIndex model as drafter."""


class LlamaIndexTarget(LlamaIndexGenerator):
    """A LlamaIndex model as target."""
