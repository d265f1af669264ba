"""Turns what users pass as a prompt into messages: normalised once, at the edge."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rsd_core.errors import PromptError
from rsd_core.paths import ROLES, Message, Prompt

PromptLike = str | Sequence[Message | Mapping[str, Any] | tuple[str, str]]
"""What users may pass: a string (one user message) or messages as pairs, mappings or `Message`."""
_EXTRA = {
    "tool_calls": "tool_calls",
    "tool_call_id": "tool_call_id",
    "name": "name",
    "reasoning": "reasoning_content",  # the name in vLLM and OpenRouter
    "reasoning_content": "reasoning_content",
}
"""Message fields that are kept, and their names here."""


def as_prompt(prompt: PromptLike) -> Prompt:
    """Normalise a prompt.

    Raises:
        PromptError: It is not a prompt, the prompt is empty, or a message is not a role with a text.
    """
    if isinstance(prompt, str):
        messages: Prompt = (Message("user", prompt),)
    elif not isinstance(prompt, Iterable):
        raise PromptError(f"{prompt!r} is not a prompt. Pass a question, or a list of messages.")
    else:
        messages = tuple(_as_message(message) for message in prompt)
    if not any(message.content.strip() or message.native for message in messages):
        raise PromptError(f"The prompt is empty ({prompt!r}). Pass a question, or messages with some text.")
    return messages


def _as_message(message: Message | Mapping[str, Any] | tuple[str, str]) -> Message:
    try:
        if isinstance(message, Message):
            parsed = message
        elif isinstance(message, Mapping):
            extra = {_EXTRA[key]: message[key] for key in _EXTRA if message.get(key) is not None}
            parsed = Message(message["role"], message["content"] or "", extra)
        else:
            role, content = message
            parsed = Message(role, content)
    except (KeyError, TypeError, ValueError) as error:
        raise PromptError(f"{message!r} is not a message. Pass {{'role': …, 'content': …}} or (role, text).") from error
    if isinstance(message, str) or parsed.role not in ROLES or not isinstance(parsed.content, str):
        raise PromptError(f"{message!r} is not a message: it takes a role, one of {', '.join(ROLES)}, and a text.")
    return parsed
