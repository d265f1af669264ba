"""LLMs of LlamaIndex as users have them, over the provider of tests.langchain.providers."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from typing import Any

import openai
from llama_index.core.base.llms.generic_utils import (
    achat_to_completion_decorator,
    astream_chat_to_completion_decorator,
    chat_to_completion_decorator,
    stream_chat_to_completion_decorator,
)
from llama_index.core.base.llms.types import ThinkingBlock, ToolCallBlock
from llama_index.core.llms import ChatMessage, ChatResponse, CompletionResponse, LLMMetadata, TextBlock
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import LLM
from llama_index.core.tools import BaseTool
from llama_index.llms.anthropic import Anthropic, utils
from llama_index.llms.ollama import Ollama
from pydantic import PrivateAttr

from tests.langchain.providers import KEY, Provider

# llama-index-llms-anthropic 0.12.3 calls this to make a message, and in version 2 of Anthropic's SDK it is a Union.
utils.MessageParam = dict


class OpenAIRules(FunctionCallingLLM):
    """What llama-index-llms-openai 0.8.3 does, over the SDK of today, which that package does not take.

    Options of a call are arguments of the SDK; arguments of calls are kept as text; blocks that it does not know are a
    `ValueError`; usage is in `additional_kwargs`.
    """

    model: str = "gpt-4.1-nano"
    temperature: float = 0.1
    max_tokens: int | None = None

    _client: Any = PrivateAttr()
    _aclient: Any = PrivateAttr()

    def __init__(self, url: str, **fields: Any) -> None:
        super().__init__(**fields)
        options: dict[str, Any] = {"base_url": f"{url}/v1", "api_key": KEY, "max_retries": 0}
        self._client, self._aclient = openai.OpenAI(**options), openai.AsyncOpenAI(**options)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(
            is_chat_model=True, is_function_calling_model=True, context_window=1047576, model_name=self.model
        )

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        return {
            "messages": chat_history or [],
            "tools": [tool.metadata.to_openai_tool() for tool in tools],
            "tool_choice": tool_choice or ("required" if tool_required else "auto"),
            "parallel_tool_calls": allow_parallel_tool_calls,
            **kwargs,
        }

    def _asked(self, messages: Sequence[ChatMessage], options: dict[str, Any]) -> dict[str, Any]:
        own = {"model": self.model, "temperature": self.temperature, "max_tokens": self.max_tokens}
        own = {name: value for name, value in own.items() if value is not None}
        return {**own, "messages": [_as_openai(message) for message in messages], **options}

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return _read(self._client.chat.completions.create(**self._asked(messages, kwargs)))

    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return _read(await self._aclient.chat.completions.create(**self._asked(messages, kwargs)))

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Generator[ChatResponse, None, None]:
        yield self.chat(messages, **kwargs)

    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> AsyncGenerator[ChatResponse, None]:
        async def responses() -> AsyncGenerator[ChatResponse, None]:
            yield await self.achat(messages, **kwargs)

        return responses()

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return chat_to_completion_decorator(self.chat)(prompt, **kwargs)

    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return await achat_to_completion_decorator(self.achat)(prompt, **kwargs)

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        return stream_chat_to_completion_decorator(self.stream_chat)(prompt, **kwargs)

    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        return await astream_chat_to_completion_decorator(self.astream_chat)(prompt, **kwargs)


def _as_openai(message: ChatMessage) -> dict[str, Any]:
    calls = []
    for block in message.blocks:
        if isinstance(block, ToolCallBlock):
            told = block.tool_kwargs
            arguments = json.dumps(told) if isinstance(told, dict) else told
            function = {"name": block.tool_name, "arguments": arguments}
            calls.append({"type": "function", "id": block.tool_call_id, "function": function})
        elif not isinstance(block, TextBlock | ThinkingBlock):
            raise ValueError(f"Unsupported content block type: {type(block).__name__}")
    made: dict[str, Any] = {"role": message.role.value, "content": message.content or ""}
    return made | message.additional_kwargs | ({"tool_calls": calls} if calls else {})


def _read(completion: Any) -> ChatResponse:
    choice = completion.choices[0]
    calls = choice.message.tool_calls or []
    blocks: list[Any] = [TextBlock(text=choice.message.content)] if choice.message.content else []
    blocks += [
        ToolCallBlock(tool_call_id=call.id, tool_name=call.function.name, tool_kwargs=call.function.arguments or {})
        for call in calls
    ]
    usage = completion.usage.model_dump()
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return ChatResponse(
        message=ChatMessage(role="assistant", blocks=blocks),
        raw=completion,
        additional_kwargs={name: usage[name] for name in names},
    )


def openai_rules(served: Provider, **options: Any) -> OpenAIRules:
    return OpenAIRules(served.url, **options)


def anthropic(served: Provider, **options: Any) -> Anthropic:
    return Anthropic(model="claude-sonnet-4-5", base_url=served.url, api_key=KEY, max_retries=0, **options)


def ollama(served: Provider, **options: Any) -> Ollama:
    return Ollama(model="qwen3", base_url=served.url, context_window=8000, request_timeout=20, **options)


LLMS: dict[str, Callable[..., LLM]] = {"openai": openai_rules, "anthropic": anthropic, "ollama": ollama}
"""How each is made over a provider."""
