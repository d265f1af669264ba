"""A scripted chat model that is asked, streams, and is bound to tools like those of providers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field

Answer = Callable[[list[BaseMessage], dict[str, Any]], AIMessage | str | Exception]


class Inner(BaseChatModel):
    """Answers by a function of the messages and the options of the call; keeps what it was asked."""

    answer: Any
    model_name: str = "inner"
    delay: float = 0.0
    provider: str = "inner"
    asked: list[tuple[list[BaseMessage], dict[str, Any]]] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "inner"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self.model_name}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return LangSmithParams(ls_provider=self.provider)

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        time.sleep(self.delay)
        return generate_from_stream(iter(self._made(messages, stop, kwargs)))

    async def _agenerate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        await asyncio.sleep(self.delay)
        return generate_from_stream(iter(self._made(messages, stop, kwargs)))

    def _stream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        yield from self._made(messages, stop, kwargs)

    async def _astream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in self._made(messages, stop, kwargs):
            await asyncio.sleep(0)
            yield chunk

    def _made(self, messages: list[BaseMessage], stop: Any, kwargs: dict[str, Any]) -> list[ChatGenerationChunk]:
        self.asked.append((messages, {**kwargs, **({"stop": stop} if stop else {})}))
        made = self.answer(messages, kwargs)
        if isinstance(made, Exception):
            raise made
        message = AIMessage(made) if isinstance(made, str) else made
        pieces: list[Any] = message.content.split(" ") if isinstance(message.content, str) else [message.content]
        chunks = [
            AIMessageChunk(content=piece if i == 0 or not isinstance(piece, str) else " " + piece)
            for i, piece in enumerate(pieces)
        ]
        calls = [
            tool_call_chunk(name=call["name"], args=str(call["args"]).replace("'", '"'), id=call["id"], index=i)
            for i, call in enumerate(message.tool_calls)
        ]
        last = AIMessageChunk(
            content="" if isinstance(message.content, str) else [],
            additional_kwargs=message.additional_kwargs,
            tool_call_chunks=calls,
            response_metadata={"finish_reason": "tool_calls" if calls else "stop", "model_name": self.model_name}
            | message.response_metadata,
            usage_metadata=message.usage_metadata
            or UsageMetadata(input_tokens=10, output_tokens=len(pieces), total_tokens=10 + len(pieces)),
            chunk_position="last",
        )
        return [ChatGenerationChunk(message=chunk) for chunk in [*chunks, last]]


def always(answer: AIMessage | str | Exception, **options: Any) -> Inner:
    """A model with one answer."""
    return Inner(answer=lambda _messages, _options: answer, **options)


def good(_: list[BaseMessage], reply: AIMessage) -> float:
    """A verifier: drafts that say so are bad."""
    return 0.1 if "BAD" in str(reply.text) or any("BAD" in str(call) for call in reply.tool_calls) else 0.9
