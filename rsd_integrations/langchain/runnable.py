"""RSD as a component of LangChain's chains."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Sequence
from contextlib import aclosing, closing
from typing import Any, cast

from langchain_core.callbacks import (
    AsyncCallbackManagerForChainRun,
    CallbackManagerForChainRun,
    adispatch_custom_event,
    dispatch_custom_event,
)
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.chat_models import agenerate_from_stream, generate_from_stream
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, convert_to_messages
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import RunnableConfig, RunnableSerializable

from rsd_core import PromptError
from rsd_core.blocking import wait_for
from rsd_core.concurrency import run_all
from rsd_core.queueing import side_by_side
from rsd_integrations.langchain.bill import BILL_EVENT, bill_of, bill_of_error
from rsd_integrations.langchain.chat_calls import Call, RSDMessages
from rsd_integrations.langchain.fields import CONFIG
from rsd_integrations.langchain.runs import configure, run_of

STEP_EVENT = "rsd_step"
"""Name of the custom event for each accepted or replaced step; its data is from `step_data`."""


class RSDRunnable(RSDMessages, RunnableSerializable[LanguageModelInput, AIMessage]):
    """Reward-guided speculative decoding as a component of a chain: a prompt in, the full result out.

    The result is a message, so that output parsers can follow; `result_of(message)` returns its `Result` with steps,
    rewards and ledger. Unlike a chat model it runs a batch as one, concurrently, and reports every step as a custom
    event `rsd_step` of its run, for `astream_events` and handlers' `on_custom_event`. A last one, `rsd_bill`, reports
    the request's cost, for `RSDBillCallbackHandler`.

    Example:
        ```python
        from langchain_core.output_parsers import StrOutputParser
        from langchain_core.prompts import ChatPromptTemplate

        chain = ChatPromptTemplate.from_template("{problem}") | RSDRunnable() | StrOutputParser()
        ```

    A failed prompt does not affect others in its batch: `return_exceptions=True` returns its error in its place.
    """

    model_config = CONFIG

    @property
    def InputType(self) -> Any:  # noqa: N802 - LangChain's word
        return LanguageModelInput

    @property
    def OutputType(self) -> type[AIMessage]:  # noqa: N802
        return AIMessage

    def invoke(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> AIMessage:
        with run_of(config):
            return self._call_with_config(self._one, input, config, **kwargs)

    async def ainvoke(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AIMessage:
        with run_of(config):
            return await self._acall_with_config(self._aone, input, config, **kwargs)

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        return self._batch_with_config(self._many, inputs, config, return_exceptions=return_exceptions, **kwargs)

    async def abatch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        return await self._abatch_with_config(
            self._amany, inputs, config, return_exceptions=return_exceptions, **kwargs
        )

    def stream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[AIMessageChunk]:
        return self.transform(iter([input]), config, **kwargs)

    async def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[AIMessageChunk]:
        async def alone() -> AsyncIterator[LanguageModelInput]:
            yield input

        async for chunk in self.atransform(alone(), config, **kwargs):
            yield chunk

    def transform(
        self, input: Iterator[LanguageModelInput], config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[AIMessageChunk]:
        configure(config)
        yield from self._transform_stream_with_config(input, self._transform, config, **kwargs)  # type: ignore[misc]

    async def atransform(
        self, input: AsyncIterator[LanguageModelInput], config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[AIMessageChunk]:
        configure(config)
        async for chunk in self._atransform_stream_with_config(input, self._atransform, config, **kwargs):
            yield chunk  # type: ignore[misc]

    def _one(self, input: LanguageModelInput, run_manager: CallbackManagerForChainRun, **kwargs: Any) -> AIMessage:
        call = self._call(input, run_manager, kwargs)
        return _message(call.settled(generate_from_stream(self._chunks_with_events(call))))

    async def _aone(
        self, input: LanguageModelInput, run_manager: AsyncCallbackManagerForChainRun, **kwargs: Any
    ) -> AIMessage:
        call = self._call(input, run_manager, kwargs)
        return _message(call.settled(await agenerate_from_stream(self._achunks_with_events(call))))

    def _many(
        self,
        inputs: list[LanguageModelInput],
        run_manager: list[CallbackManagerForChainRun],
        config: list[RunnableConfig],
        **kwargs: Any,
    ) -> list[AIMessage | Exception]:
        return wait_for(self._amany(inputs, run_manager, config, **kwargs))

    async def _amany(
        self, inputs: list[LanguageModelInput], run_manager: list[Any], config: list[RunnableConfig], **kwargs: Any
    ) -> list[AIMessage | Exception]:
        async def one(input: LanguageModelInput, manager: Any, config: RunnableConfig) -> AIMessage | Exception:
            configure(config)
            try:
                return await self._aone(input, manager, **kwargs)
            except Exception as error:  # LangChain raises it, or returns it in its place
                return error

        at_once = min(config[0].get("max_concurrency") or 64, len(inputs))
        with side_by_side(at_once):
            return await run_all(map(one, inputs, run_manager, config), at_once)

    def _transform(
        self, input: Iterator[LanguageModelInput], run_manager: CallbackManagerForChainRun, **kwargs: Any
    ) -> Iterator[AIMessageChunk]:
        with closing(self._chunks_with_events(self._call(_whole(list(input)), run_manager, kwargs))) as chunks:
            for chunk in chunks:
                yield cast("AIMessageChunk", chunk.message)

    async def _atransform(
        self, input: AsyncIterator[LanguageModelInput], run_manager: AsyncCallbackManagerForChainRun, **kwargs: Any
    ) -> AsyncIterator[AIMessageChunk]:
        parts = [part async for part in input]
        async with aclosing(self._achunks_with_events(self._call(_whole(parts), run_manager, kwargs))) as chunks:
            async for chunk in chunks:
                yield cast("AIMessageChunk", chunk.message)

    def _call(self, input: LanguageModelInput, run_manager: Any, kwargs: dict[str, Any]) -> Call:
        return Call(self, _messages(input), kwargs.pop("stop", None), kwargs, run_manager.get_child())

    def _chunks_with_events(self, call: Call) -> Generator[ChatGenerationChunk, None, None]:
        """The chunks of an answer; the run's handlers see each step before the consumer does, and the bill."""
        child = RunnableConfig(callbacks=call.callbacks)
        try:
            with closing(self._chunks(call)) as chunks:
                for chunk in chunks:
                    for name, data in _events(chunk):
                        dispatch_custom_event(name, data, config=child)
                    yield chunk
        except Exception as error:
            if items := bill_of_error(error):
                dispatch_custom_event(BILL_EVENT, items, config=child)
            raise

    async def _achunks_with_events(self, call: Call) -> AsyncGenerator[ChatGenerationChunk, None]:
        child = RunnableConfig(callbacks=call.callbacks)
        try:
            async with aclosing(self._achunks(call)) as chunks:
                async for chunk in chunks:
                    for name, data in _events(chunk):
                        await adispatch_custom_event(name, data, config=child)
                    yield chunk
        except Exception as error:
            if items := bill_of_error(error):
                await adispatch_custom_event(BILL_EVENT, items, config=child)
            raise


def _events(chunk: ChatGenerationChunk) -> Iterator[tuple[str, Any]]:
    """The custom events for a chunk: its steps, and with the last one the total cost."""
    for step in chunk.message.additional_kwargs.get("rsd_steps", ()):
        yield STEP_EVENT, step
    if "rsd" in chunk.message.response_metadata:
        yield BILL_EVENT, bill_of(chunk.message)


def _messages(input: LanguageModelInput) -> list[BaseMessage]:
    if isinstance(input, PromptValue):
        return input.to_messages()
    if not isinstance(input, Sequence):  # a dictionary's keys would pass for messages
        raise PromptError(f"{input!r:.80} is not a prompt. Pass a text, messages, or the output of a prompt template.")
    return convert_to_messages([input] if isinstance(input, str) else input)


def _whole(parts: list[Any]) -> LanguageModelInput:
    """An input received from a chain in parts."""
    if not parts:
        raise PromptError("the chain before RSD produced no prompt")
    whole = parts[0]
    for part in parts[1:]:
        whole = whole + part
    return cast("LanguageModelInput", whole)


def _message(result: ChatResult) -> AIMessage:
    return cast("AIMessage", result.generations[0].message)
