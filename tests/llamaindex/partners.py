"""LLMs of LlamaIndex as users have them, over the provider of tests.langchain.providers.

Ollama and Bedrock are LlamaIndex's own classes. Those of OpenAI and Anthropic do not go with the SDKs of today, so they
are written anew by their rules: what is sent, what is read, what is refused.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from typing import Any

import httpx
import openai
from llama_index.core.base.llms.generic_utils import (
    achat_to_completion_decorator,
    astream_chat_to_completion_decorator,
    chat_to_completion_decorator,
    stream_chat_to_completion_decorator,
)
from llama_index.core.base.llms.types import CachePoint, CitationBlock, ThinkingBlock, ToolCallBlock
from llama_index.core.llms import ChatMessage, ChatResponse, CompletionResponse, LLMMetadata, TextBlock
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import LLM
from llama_index.core.tools import BaseTool
from llama_index.llms.bedrock_converse import BedrockConverse
from llama_index.llms.ollama import Ollama
from pydantic import PrivateAttr

from tests.langchain.providers import KEY, Provider


class _Rules(FunctionCallingLLM):
    """All faces over one exchange, blocking and asynchronous."""

    temperature: float = 0.1
    max_tokens: int | None = 512

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(is_chat_model=True, is_function_calling_model=True, context_window=200000)

    @abstractmethod
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """The blocking exchange."""

    @abstractmethod
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """The other one."""

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


class OpenAIRules(_Rules):
    """As llama-index-llms-openai 0.8.3, which takes the SDK before version 3.

    Options of a call are arguments of the SDK; arguments of calls are kept as text; blocks that it does not know are a
    `ValueError`; usage is in `additional_kwargs`.
    """

    model: str = "gpt-4.1-nano"

    _client: Any = PrivateAttr()
    _aclient: Any = PrivateAttr()

    def __init__(self, url: str, **fields: Any) -> None:
        super().__init__(**fields)
        options: dict[str, Any] = {"base_url": f"{url}/v1", "api_key": KEY, "max_retries": 0}
        self._client, self._aclient = openai.OpenAI(**options), openai.AsyncOpenAI(**options)

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
        return {**own, "messages": [_as_openai(message) for message in messages], **options}

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return _of_openai(self._client.chat.completions.create(**self._asked(messages, kwargs)))

    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return _of_openai(await self._aclient.chat.completions.create(**self._asked(messages, kwargs)))


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


def _of_openai(completion: Any) -> ChatResponse:
    choice = completion.choices[0]
    blocks: list[Any] = [TextBlock(text=choice.message.content)] if choice.message.content else []
    blocks += [
        ToolCallBlock(tool_call_id=call.id, tool_name=call.function.name, tool_kwargs=call.function.arguments or {})
        for call in choice.message.tool_calls or []
    ]
    usage = completion.usage.model_dump()
    return ChatResponse(
        message=ChatMessage(role="assistant", blocks=blocks),
        raw=completion,
        additional_kwargs={name: usage[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")},
    )


class AnthropicRules(_Rules):
    """As llama-index-llms-anthropic 0.12.3, which calls what version 2 of the SDK no longer has.

    Options of a call are arguments of the SDK, which refuses others with a `TypeError`; it writes into the messages it
    is given; usage is an object in `raw`; arguments of calls are objects.
    """

    model: str = "claude-sonnet-4-5"

    _url: str = PrivateAttr()

    def __init__(self, url: str, **fields: Any) -> None:
        super().__init__(**fields)
        self._url = f"{url}/v1/messages"

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        definitions = [
            {
                "name": tool.metadata.name,
                "description": tool.metadata.description,
                "input_schema": tool.metadata.get_parameters_dict(),
            }
            for tool in tools
        ]
        how = {"type": "any" if tool_required else "auto", "disable_parallel_tool_use": not allow_parallel_tool_calls}
        return {"messages": chat_history or [], "tools": definitions, "tool_choice": how, **kwargs}

    def _asked(self, messages: Sequence[ChatMessage], options: dict[str, Any]) -> dict[str, Any]:
        known = {"top_p", "top_k", "stop_sequences", "tools", "tool_choice", "temperature", "max_tokens", "thinking"}
        for name in options.keys() - known:
            raise TypeError(f"Messages.create() got an unexpected keyword argument '{name}'")
        for message in messages:
            message.additional_kwargs["cache_control"] = {"type": "ephemeral"}
        own: dict[str, Any] = {"model": self.model, "temperature": self.temperature, "max_tokens": self.max_tokens}
        system = "\n".join(str(message.content) for message in messages if message.role.value == "system")
        sent = [_as_anthropic(message) for message in messages if message.role.value != "system"]
        return {**own, "system": system, "messages": sent, **options}

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        reply = httpx.post(self._url, json=self._asked(messages, kwargs), headers={"x-api-key": KEY})
        return _of_anthropic(reply)

    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        async with httpx.AsyncClient() as client:
            reply = await client.post(self._url, json=self._asked(messages, kwargs), headers={"x-api-key": KEY})
        return _of_anthropic(reply)


AnthropicRules.__module__ = "llama_index.llms.anthropic.base"


def _as_anthropic(message: ChatMessage) -> dict[str, Any]:
    content: list[dict[str, Any]] = []
    for block in message.blocks:
        if isinstance(block, TextBlock):
            content += [{"type": "text", "text": block.text}] if block.text else []
        elif isinstance(block, ThinkingBlock):
            signature = block.additional_information.get("signature", "")
            content.append({"type": "thinking", "thinking": block.content, "signature": signature})
        elif isinstance(block, ToolCallBlock):
            call = {"id": block.tool_call_id or "", "name": block.tool_name, "input": block.tool_kwargs}
            content.append({"type": "tool_use", **call})
        elif not isinstance(block, CachePoint | CitationBlock):
            raise ValueError(f"Unsupported block type: {type(block)}")
    if message.role.value == "tool":
        result = {"tool_use_id": message.additional_kwargs["tool_call_id"], "type": "tool_result", "content": content}
        return {"role": "user", "content": [result]}
    return {"role": message.role.value, "content": content}


class _Counts:
    """Usage as an object, which it is in the SDK."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        vars(self).update(counts)


def _of_anthropic(reply: httpx.Response) -> ChatResponse:
    if reply.is_error:
        raise httpx.HTTPStatusError(reply.text, request=reply.request, response=reply)
    raw = reply.json()
    blocks: list[Any] = []
    for block in raw["content"]:
        if block["type"] == "text":
            blocks.append(TextBlock(text=block["text"]))
        elif block["type"] == "thinking":
            about = {"type": "thinking", "signature": block["signature"]}
            blocks.append(ThinkingBlock(content=block["thinking"], additional_information=about))
        else:
            call = {"tool_call_id": block["id"], "tool_name": block["name"], "tool_kwargs": block["input"]}
            blocks.append(ToolCallBlock(**call))
    message = ChatMessage(role="assistant", blocks=blocks)
    return ChatResponse(message=message, raw=raw | {"usage": _Counts(raw["usage"])})


def openai_rules(served: Provider, **options: Any) -> OpenAIRules:
    return OpenAIRules(served.url, **options)


def anthropic(served: Provider, **options: Any) -> AnthropicRules:
    return AnthropicRules(served.url, **options)


def ollama(served: Provider, **options: Any) -> Ollama:
    return Ollama(model="qwen3", base_url=served.url, context_window=8000, request_timeout=20, **options)


def bedrock(served: Provider, **options: Any) -> BedrockConverse:
    keys = {"aws_access_key_id": "AKIA", "aws_secret_access_key": KEY, "region_name": "us-east-1"}
    return BedrockConverse(
        model="anthropic.claude-3-haiku-20240307-v1:0", endpoint_url=served.url, max_retries=1, **keys, **options
    )


LLMS: dict[str, Callable[..., LLM]] = {
    "openai": openai_rules,
    "anthropic": anthropic,
    "ollama": ollama,
    "bedrock": bedrock,
}
"""How each is made over a provider."""
