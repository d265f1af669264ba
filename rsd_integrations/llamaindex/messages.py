"""LlamaIndex messages as prompts of the core."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

from rsd_core import Message, Prompt, PromptError

_ROLES = {
    MessageRole.DEVELOPER: "system",
    MessageRole.FUNCTION: "tool",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
}
"""Roles that have another name in chat templates."""
_READ = (TextBlock, ThinkingBlock, ToolCallBlock, CachePoint)
"""Blocks that models of text know, or may leave out."""


def as_prompt(messages: Sequence[ChatMessage]) -> Prompt:
    """Messages as roles and texts, which the models render with their own chat templates.

    Raises:
        PromptError: A message holds an image or anything else that a model of text would not see.
    """
    return tuple(_as_message(message) for message in messages)


def _as_message(message: ChatMessage) -> Message:
    for block in message.blocks:
        if not isinstance(block, _READ):
            raise PromptError(
                f"a message holds a block of type {block.block_type!r}, and RSDLLM takes text alone; "
                "describe it in words, or ask a multimodal model first"
            )
    known = message.additional_kwargs
    extra: dict[str, Any] = {key: known[key] for key in ("tool_call_id", "name") if key in known}
    if thought := _thought(message):
        extra["reasoning_content"] = thought
    if calls := [_call(block) for block in message.blocks if isinstance(block, ToolCallBlock)]:
        extra["tool_calls"] = calls
    return Message(_ROLES.get(message.role, message.role.value), message.content or "", extra)


def _thought(message: ChatMessage) -> str:
    thoughts = [block.content for block in message.blocks if isinstance(block, ThinkingBlock)]
    return "\n\n".join(filter(None, thoughts))


def _call(block: ToolCallBlock) -> dict[str, Any]:
    arguments = block.tool_kwargs
    if isinstance(arguments, str):  # templates want an object; what is none stays as it was written
        try:
            arguments = json.loads(arguments)
        except ValueError:
            arguments = block.tool_kwargs
    return {"type": "function", "id": block.tool_call_id, "function": {"name": block.tool_name, "arguments": arguments}}
