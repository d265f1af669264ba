"""LangChain messages as prompts of the core, and their text for those who read nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    convert_to_messages,
)

from rsd_core import Message, Prompt, PromptError
from rsd_integrations import tool_calls
from rsd_integrations.langchain.thoughts import is_thought, thought_of

_ROLES: dict[type[BaseMessage], str] = {
    HumanMessage: "user",
    AIMessage: "assistant",
    SystemMessage: "system",
    ToolMessage: "tool",
    FunctionMessage: "tool",
}

_READ = ("text", "tool_use", "tool_call", "function_call")
"""Types of content blocks that are read besides thoughts; calls are, as the message's own tool calls."""


def as_prompt(messages: Sequence[BaseMessage], tools: Sequence[Mapping[str, Any]] = ()) -> Prompt:
    """Messages, and the tools that may be called, as a prompt. Each message keeps its original as `native`."""
    prompt = tuple(_as_message(message) for message in messages)
    return (Message("tools", json.dumps(list(tools))), *prompt) if tools else prompt


def originals(prompt: Prompt) -> list[BaseMessage]:
    """A prompt as LangChain messages, without its tools: the caller's own messages where it came from LangChain."""
    return [_original(message) for message in prompt if message.role != "tools"]


def text_only(messages: Sequence[BaseMessage]) -> None:
    """Raise `PromptError` for content that a model of text would not see."""
    for message in messages:
        for block in message.content if isinstance(message.content, list) else ():
            kind = "text" if isinstance(block, str) else block.get("type")
            if kind not in _READ and not is_thought(block):
                raise PromptError(
                    f"a message holds a block of type {kind!r}, and models that write step by step take text alone. "
                    'Use chat models that take it, with granularity="turn": they get every message as it is.'
                )


def as_text(message: BaseMessage) -> str:
    """The text of a message with its tool calls, in the form of Hermes and Qwen templates, without its thought."""
    calls = message.tool_calls if isinstance(message, AIMessage) else []
    if not message.text and not calls:
        shown = [block for block in message.content if not is_thought(block)]
        return json.dumps(shown, default=str) if shown else ""
    return tool_calls.as_text(str(message.text), [(call["name"], call["args"]) for call in calls])


def _original(message: Message) -> BaseMessage:
    if isinstance(message.native, BaseMessage):
        return message.native
    data: dict[str, Any] = {"role": message.role, "content": message.content, **message.extra}
    if "tool_calls" in data:
        data["tool_calls"] = tool_calls.with_text(data["tool_calls"])
    return convert_to_messages([data])[0]


def _as_message(message: BaseMessage) -> Message:
    extra: dict[str, Any] = {}
    if isinstance(message, AIMessage) and (thought := thought_of(message)):
        extra["reasoning_content"] = thought
    if isinstance(message, AIMessage) and message.tool_calls:
        extra["tool_calls"] = [
            {"type": "function", "id": call["id"], "function": {"name": call["name"], "arguments": call["args"]}}
            for call in message.tool_calls
        ]
    if isinstance(message, ToolMessage):
        extra["tool_call_id"] = message.tool_call_id
    if message.name:
        extra["name"] = message.name
    if isinstance(message, ChatMessage):
        role = message.role
    else:  # a chunk counts as the message it is part of
        role = next((role for kind, role in _ROLES.items() if isinstance(message, kind)), message.type)
    return Message(role, str(message.text), extra, message)
