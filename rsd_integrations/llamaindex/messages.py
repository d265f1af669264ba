"""LlamaIndex messages as the core's prompts, and back; and in a form readable by another provider's models."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    CitableBlock,
    CitationBlock,
    ContentBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

from rsd_core import Message, Prompt, PromptError
from rsd_integrations import tool_calls
from rsd_integrations.llamaindex.classes import provider_of

logger = logging.getLogger(__name__)

_ROLES = {
    MessageRole.DEVELOPER: "system",
    MessageRole.FUNCTION: "tool",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
}
"""Roles with another name in chat templates."""
_READ = (TextBlock, ThinkingBlock, ToolCallBlock, CachePoint, CitableBlock, CitationBlock)
"""Blocks that text models know, or may skip."""
_SIGNED = {"anthropic": "signature", "bedrock_converse": "signature"}
"""Providers that only accept thoughts with their own signature, and where a block has it."""


def as_prompt(messages: Sequence[ChatMessage]) -> Prompt:
    """Messages as roles and texts, each with its original as `native`."""
    return tuple(_as_message(message) for message in messages)


def text_only(messages: Sequence[ChatMessage]) -> None:
    """Refuse content that a text model would not see. Non-text content in model answers is dropped.

    Raises:
        PromptError: A message not written by a model contains an image or similar.
    """
    for message in messages:
        for block in () if _role(message) == "assistant" else _blocks(message):
            if not isinstance(block, _READ):
                raise PromptError(
                    f"a message contains a block of type {block.block_type!r}, which text models do not see; "
                    "describe it in words, or use LlamaIndex LLMs that do as draft and target"
                )


def originals(prompt: Prompt) -> list[ChatMessage]:
    """A prompt as LlamaIndex messages, without its tools: the caller's own if it came from LlamaIndex."""
    return [_original(message) for message in prompt if message.role != "tools"]


def readable_by(llm: BaseLLM, messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Copies of messages in a form that a model accepts, even if other providers' models wrote some of them.

    Of an assistant message, texts, thoughts and calls are kept, with arguments as objects; thoughts only without a
    signature, or with the right one if a provider requires it. Invalid calls were never executed and become text.
    Anything else in an assistant message was made by its own provider for display.
    """
    signature = _SIGNED.get(provider_of(llm) or "")
    return [_readable(message, signature) for message in messages]


def tool_call_blocks(message: ChatMessage) -> list[ToolCallBlock]:
    """The calls of a message: its blocks, else those in `additional_kwargs`, as in older LlamaIndex models."""
    blocks = [block for block in message.blocks if isinstance(block, ToolCallBlock)]
    held = () if blocks else message.additional_kwargs.get("tool_calls") or ()
    return blocks + [call for one in held if (call := _held_call(one)) is not None]


def as_text(message: ChatMessage) -> str:
    """The text of a message with its calls, in the format of Hermes and Qwen templates, without its thought."""
    return "\n".join(filter(None, [_said(message), *map(_call_as_text, tool_call_blocks(message))]))


def _call_as_text(block: ToolCallBlock) -> str:
    arguments = tool_calls.parsed(block.tool_kwargs or {})
    if isinstance(arguments, dict):
        return tool_calls.as_text("", [(block.tool_name, arguments)])
    return tool_calls.broken_as_text(block.tool_name, arguments)


def thought_of(message: ChatMessage) -> str:
    """The thought before the text; empty if unknown."""
    thoughts = [block.content for block in message.blocks if isinstance(block, ThinkingBlock)]
    return "\n\n".join(filter(None, thoughts))


def _role(message: ChatMessage) -> str:
    return _ROLES.get(message.role, message.role.value)


def _said(message: ChatMessage) -> str:
    return "\n".join(block.text for block in _blocks(message) if isinstance(block, TextBlock))


def _blocks(message: ChatMessage) -> Iterator[ContentBlock]:
    """The blocks of a message, including those inside citable ones."""
    for block in message.blocks:
        if isinstance(block, CitableBlock):
            yield from block.content
        else:
            yield block


def _as_message(message: ChatMessage) -> Message:
    known = message.additional_kwargs
    extra: dict[str, Any] = {key: known[key] for key in ("tool_call_id", "name") if isinstance(known.get(key), str)}
    if thought := thought_of(message):
        extra["reasoning_content"] = thought
    if calls := [_call(block) for block in tool_call_blocks(message)]:
        extra["tool_calls"] = calls
    return Message(_role(message), _said(message), extra, message)


def _original(message: Message) -> ChatMessage:
    if isinstance(message.native, ChatMessage):
        return message.native
    blocks: list[Any] = []
    if thought := message.extra.get("reasoning_content"):
        blocks.append(ThinkingBlock(content=thought))
    calls = message.extra.get("tool_calls") or ()
    if message.content or not calls:
        blocks.append(TextBlock(text=message.content))
    blocks += [call for one in calls if (call := _held_call(one)) is not None]
    known = {key: message.extra[key] for key in ("tool_call_id", "name") if key in message.extra}
    return ChatMessage(role=MessageRole(message.role), blocks=blocks, additional_kwargs=known)


def _readable(message: ChatMessage, signature: str | None) -> ChatMessage:
    copied = message.model_copy(update={"additional_kwargs": dict(message.additional_kwargs)})  # some models modify it
    if _role(message) != "assistant":
        return copied
    held = [] if any(isinstance(block, ToolCallBlock) for block in message.blocks) else tool_call_blocks(message)
    shown = [_shown(block, signature) for block in (*message.blocks, *held)]
    known = {key: value for key, value in message.additional_kwargs.items() if key not in CALLS}
    blocks = [block for block in shown if block is not None]
    return message.model_copy(update={"blocks": blocks, "additional_kwargs": known})


def _shown(block: ContentBlock, signature: str | None) -> ContentBlock | None:
    """A block of an assistant message as shown to another model; None if hidden."""
    if isinstance(block, TextBlock | CachePoint):
        return block
    if isinstance(block, ThinkingBlock):
        return block if signature is None or block.additional_information.get(signature) else None
    if not isinstance(block, ToolCallBlock):
        logger.info("a block of type %r in an assistant message is omitted", block.block_type)
        return None
    arguments = tool_calls.parsed(block.tool_kwargs or {})
    if isinstance(arguments, dict):
        return block.model_copy(update={"tool_kwargs": arguments})
    return TextBlock(text=_call_as_text(block))


CALLS = ("tool_calls", "function_call")
"""Fields of a message's `additional_kwargs` with calls, in each provider's own format."""


def _call(block: ToolCallBlock) -> dict[str, Any]:
    arguments = tool_calls.parsed(block.tool_kwargs)  # templates expect an object; anything else stays as written
    return {"type": "function", "id": block.tool_call_id, "function": {"name": block.tool_name, "arguments": arguments}}


def _held_call(call: Any) -> ToolCallBlock | None:
    """A call in OpenAI's, Anthropic's, Ollama's or LlamaIndex's format, as data or as an object."""

    def field(of: Any, *names: str) -> Any:
        values = [of.get(name) if isinstance(of, Mapping) else getattr(of, name, None) for name in names]
        return next((value for value in values if value is not None), None)

    function = field(call, "function") or call
    name = field(function, "name", "tool_name")
    arguments = field(function, "arguments", "input", "tool_kwargs")
    if not isinstance(name, str) or not isinstance(arguments, str | dict | None):
        return None
    return ToolCallBlock(
        tool_call_id=field(call, "id", "tool_id", "tool_call_id"), tool_name=name, tool_kwargs=arguments or {}
    )
