"""What one call asks for, and the chunks that answer it: shared by everything here that gives messages."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import aclosing, closing, contextmanager
from typing import Any

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult

from rsd_core import Decoder, Drafter, Prompt, Target
from rsd_core.stopping import as_stop
from rsd_integrations.langchain.bill import model_names, naming
from rsd_integrations.langchain.chunks import MessageChunks
from rsd_integrations.langchain.fields import CALL_OPTIONS, RSDFields
from rsd_integrations.langchain.messages import as_prompt, text_only
from rsd_integrations.langchain.roles import LangChainGenerator
from rsd_integrations.langchain.silent_calls import errors_as_raised
from rsd_integrations.tool_calls import sees_tools


class RSDMessages(RSDFields):
    """The fields with the way from messages to chunks."""

    def inner_models(self) -> list[LangChainGenerator]:
        """The LangChain models that draft and that replace."""
        return [role for role in self.writers() if isinstance(role, LangChainGenerator)]

    def all_inner(self) -> bool:
        """Whether all that write are LangChain models."""
        return bool(self.writers()) and len(self.inner_models()) == len(self.writers())

    def _chunks(self, call: Call) -> Generator[ChatGenerationChunk, None, None]:
        decoder = call.model.make_decoder(**call.inner)
        call.chunks.models = model_names(decoder)
        with _errors(call), closing(decoder.stream(call.prompt(decoder), stop=call.stop)) as events:
            for event in events:
                yield from call.chunks.feed(event)

    async def _achunks(self, call: Call) -> AsyncGenerator[ChatGenerationChunk, None]:
        decoder = await call.model.amake_decoder(**call.inner)
        call.chunks.models = model_names(decoder)
        with _errors(call):
            async with aclosing(decoder.astream(call.prompt(decoder), stop=call.stop)) as events:
                async for event in events:
                    for chunk in call.chunks.feed(event):
                        yield chunk


@contextmanager
def _errors(call: Call) -> Iterator[None]:
    """Let errors leave as callers know them, with what bills need."""
    with errors_as_raised(), naming(call.chunks.models):
        yield


class Call:
    """One call: fields of the model, options of inner models, tools, stop strings, callbacks of inner runs."""

    def __init__(
        self,
        model: RSDMessages,
        messages: list[BaseMessage],
        stop: list[str] | None,
        kwargs: dict[str, Any],
        callbacks: BaseCallbackManager | None = None,
    ) -> None:
        own = {name: kwargs.pop(name) for name in CALL_OPTIONS if name in kwargs}
        self.model = model.with_options(own)
        self.messages = messages
        if "model" in kwargs:
            raise ValueError("RSD takes no model with a call: two models write, which `draft` and `target` name")
        self.tools: list[dict[str, Any]] = kwargs.pop("tools", None) or []
        self.stop = list(as_stop(self.model.stop if stop is None else stop))
        self.callbacks = callbacks
        self.inner: dict[str, Any] = {"callbacks": callbacks}
        """What inner models are called with. They get messages, tools and options as they are, and stop themselves."""
        self.granularity = self.model.resolved().granularity
        self.passes_on = self.granularity == "turn" and self.model.all_inner()
        if self.passes_on:
            stop_option = {"stop": self.stop} if self.stop else {}
            self.inner |= {"options": kwargs | stop_option, "tools": self.tools}
        else:
            text_only(messages)
            refuse_choice(kwargs.pop("tool_choice", None))
            if kwargs:
                raise ValueError(
                    f"RSD takes no {sorted(kwargs)} with a call of models that are not LangChain's own; it takes "
                    f"stop, {', '.join(CALL_OPTIONS)}"
                )
        self.chunks = MessageChunks(
            self.model.model_name,
            self.stop,
            tools=bool(self.tools) and not self.passes_on,
            traced=self.model.trace_inner,
            markers=self.model.resolved().thoughts.markers,
        )

    def settled(self, result: ChatResult) -> ChatResult:
        """The chunks' result, its message as one that was never in chunks."""
        self.chunks.settle(result.generations[0].message)
        return result

    def prompt(self, decoder: Decoder) -> Prompt:
        """The messages, and the tools where the models are shown them."""
        if self.tools and not self.passes_on:
            for model in decoder.models:
                if isinstance(model, Drafter | Target) and not sees_tools(model, self.granularity):
                    raise ValueError(
                        f"{model.name} cannot call tools: its chat template shows none. Use models whose template "
                        'does, or chat models with granularity="turn".'
                    )
        return as_prompt(self.messages, self.tools)


def refuse_choice(tool_choice: object) -> None:
    """Raise `ValueError` for a tool choice that only a forced call could honour."""
    if tool_choice not in (None, "auto"):
        raise ValueError(
            f"tool_choice={tool_choice!r} cannot be honoured in step granularity: a call is the models' own choice. "
            'Use tool_choice="auto", or chat models with granularity="turn". with_structured_output forces a call.'
        )
