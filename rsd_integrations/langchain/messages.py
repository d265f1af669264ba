"""LangChain messages as the core's prompts, and as text for models that read only text."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    InvalidToolCall,
    SystemMessage,
    ToolMessage,
    convert_to_messages,
)
from langchain_core.runnables import Runnable

from rsd_core import Message, Prompt, PromptError
from rsd_integrations import tool_calls
from rsd_integrations.langchain.broken_calls import call_ids
from rsd_integrations.langchain.thoughts import is_thought, own_form, thought_of, without_foreign_thoughts

logger = logging.getLogger(__name__)

_ROLES: dict[type[BaseMessage], str] = {
    HumanMessage: "user",
    AIMessage: "assistant",
    SystemMessage: "system",
    ToolMessage: "tool",
    FunctionMessage: "tool",
}

_MEDIA = (
    "image", "image_url", "input_image", "audio", "input_audio", "video", "file", "input_file", "document", "media",
)  # fmt: skip
"""Types of content blocks, LangChain's and providers', with content other than text."""


def as_prompt(messages: Sequence[BaseMessage], tools: Sequence[Mapping[str, Any]] = ()) -> Prompt:
    """Messages and callable tools as a prompt. Each message keeps its original as `native`.

    In assistant messages, text and refusal blocks become content, call blocks the message's calls, and thought blocks
    its thought. Other provider blocks, such as searches and generated images, are not text and are dropped. Calls that
    are not JSON are shown as written; those that a tool answered still count as calls.
    """
    answered = _answered(messages)
    prompt = tuple(_as_message(message, answered) for message in messages)
    return (Message("tools", json.dumps(list(tools))), *prompt) if tools else prompt


def originals(prompt: Prompt) -> list[BaseMessage]:
    """A prompt as LangChain messages, without its tools: the caller's own messages if it came from LangChain."""
    return [_original(message) for message in prompt if message.role != "tools"]


def readable_by(model: Runnable[Any, Any], messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """Messages in a form that a model's provider accepts.

    Thoughts signed by another provider are dropped. Invalid calls without a tool's answer become text: partner classes
    would send them as calls, and APIs refuse a call without a result, which would block the conversation.
    (langchain-openai 1.7.4, langchain-anthropic 1.7.10 and langchain-mistralai 1.1.6.)
    """
    answered = _answered(messages)
    return without_foreign_thoughts(model, [_with_calls_told(message, answered) for message in messages])


def text_only(messages: Sequence[BaseMessage]) -> None:
    """Raise `PromptError` for user or tool content that a text model would not see."""
    for message in messages:
        for kind, block in _blocks(message):
            if isinstance(message, AIMessage):
                if kind not in _SHOWN and not is_thought(block):
                    logger.info("a block of type %r in an assistant message is not shown to text models", kind)
            elif kind in _MEDIA or not (kind == "text" or is_thought(block) or isinstance(message, ToolMessage)):
                raise PromptError(
                    f"a message has a block of type {kind!r}, but models that write step by step accept only text. "
                    'Use chat models that accept it, with granularity="turn": they get every message unchanged.'
                )


_SHOWN = ("text", "refusal", "tool_use", "tool_call", "function_call", "invalid_tool_call", "tool_call_chunk")


def as_text(message: BaseMessage) -> str:
    """The text of a message with its tool calls, in the format of Hermes and Qwen templates, without its thought."""
    written = _said(message)
    if isinstance(message, AIMessage):
        written = tool_calls.as_text(written, [(call["name"], call["args"]) for call in message.tool_calls])
        written = "\n".join(filter(None, [written, *map(_as_written, message.invalid_tool_calls)]))
    if written:
        return written
    shown = [block for block in message.content if not is_thought(block)]
    return json.dumps(shown, default=str) if shown else ""


def _original(message: Message) -> BaseMessage:
    if isinstance(message.native, BaseMessage):
        return message.native
    data: dict[str, Any] = {"role": message.role, "content": message.content, **message.extra}
    if "tool_calls" in data:
        data["tool_calls"] = tool_calls.with_text(data["tool_calls"])
    return convert_to_messages([data])[0]


def _as_message(message: BaseMessage, answered: Set[str]) -> Message:
    extra: dict[str, Any] = {}
    content = _said(message)
    if isinstance(message, AIMessage):
        if thought := thought_of(message):
            extra["reasoning_content"] = thought
        calls: list[tuple[Any, Any, Any]] = [(call["id"], call["name"], call["args"]) for call in message.tool_calls]
        for broken in message.invalid_tool_calls:
            if broken["name"] and broken["id"] in answered:
                calls.append((broken["id"], broken["name"], (broken["args"] or "").strip()))
            else:
                content = "\n".join(filter(None, [content, _as_written(broken)]))
        if calls:
            extra["tool_calls"] = [
                {"type": "function", "id": call_id, "function": {"name": name, "arguments": arguments}}
                for call_id, name, arguments in calls
            ]
    if isinstance(message, ToolMessage):
        extra["tool_call_id"] = message.tool_call_id
    if message.name:
        extra["name"] = message.name
    if isinstance(message, ChatMessage):
        role = message.role
    else:  # a chunk counts as its message
        role = next((role for kind, role in _ROLES.items() if isinstance(message, kind)), message.type)
    return Message(role, content, extra, message)


def _answered(messages: Sequence[BaseMessage]) -> set[str]:
    """Ids of the calls answered by a tool."""
    return {message.tool_call_id for message in messages if isinstance(message, ToolMessage)}


def _with_calls_told(message: BaseMessage, answered: Set[str]) -> BaseMessage:
    """A message with its unanswered invalid calls moved into the text."""
    if not isinstance(message, AIMessage):
        return message
    told = [call for call in message.invalid_tool_calls if call["id"] not in answered]
    if not told:
        return message
    ids = {call["id"] for call in told}
    text = "\n".join(map(_as_written, told))
    content: str | list[str | dict[str, Any]] = "\n".join(filter(None, [message.text, text]))
    if isinstance(message.content, list):
        kept = [one for one in message.content if isinstance(one, str) or not ids.intersection(call_ids(one))]
        calls = [i for i, one in enumerate(kept) if isinstance(one, dict) and call_ids(one)]
        place = calls[0] if calls else len(kept)  # calls come last
        content = [*kept[:place], {"type": "text", "text": text}, *kept[place:]]
    raw = ("tool_calls", "function_call")  # from which classes create calls if a message has none
    return message.model_copy(
        update={
            "content": content,
            "invalid_tool_calls": [call for call in message.invalid_tool_calls if call["id"] in answered],
            "additional_kwargs": {name: part for name, part in message.additional_kwargs.items() if name not in raw},
        }
    )


def _blocks(message: BaseMessage) -> Iterator[tuple[str, Any]]:
    """The content blocks of a message with their types, provider-specific ones unchanged."""
    for block in message.content if isinstance(message.content, list) else ():
        own = block if isinstance(block, str) else own_form(block)
        yield ("text" if isinstance(own, str) else str(own.get("type"))), own


def _said(message: BaseMessage) -> str:
    """The text of a message. Non-text output of a tool is given as JSON."""
    if isinstance(message.content, str):
        refusal = message.additional_kwargs.get("refusal") if isinstance(message, AIMessage) else None
        return message.content or (refusal if isinstance(refusal, str) else "")
    parts = []
    for kind, block in _blocks(message):
        if kind == "text":
            parts.append(block if isinstance(block, str) else str(block.get("text") or ""))
        elif kind == "refusal" and isinstance(message, AIMessage):
            parts.append(str(block.get("refusal") or ""))
        elif isinstance(message, ToolMessage) and not is_thought(block):
            parts.append(json.dumps(block, ensure_ascii=False, default=str))
    return "".join(parts)


def _as_written(call: InvalidToolCall) -> str:
    return tool_calls.broken_as_text(call["name"] or None, (call["args"] or "").strip())
