"""Carries messages through LangChain's LLM interface, which passes texts."""

from __future__ import annotations

import json

from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.prompt_values import PromptValue, StringPromptValue

from rsd_core import Prompt, PromptLike
from rsd_integrations.langchain.messages import as_prompt, text_only


class _ChatText(str):
    """Messages as one text for LangChain, and unchanged for the models."""

    __slots__ = ("messages",)
    messages: Prompt


class _ChatPrompt(StringPromptValue):
    """A prompt value whose text retains its messages."""

    value: PromptValue

    def to_string(self) -> str:
        messages = self.value.to_messages()
        text_only(messages)
        prompt = as_prompt(messages)
        plain = [[message.role, message.content, *filter(None, [message.extra])] for message in prompt]
        text = _ChatText(json.dumps(plain, ensure_ascii=False, default=str))
        text.messages = prompt
        return text

    def to_messages(self) -> list[BaseMessage]:
        return self.value.to_messages()


def keep_messages(value: PromptValue) -> PromptValue:
    """A prompt value whose text keeps its messages."""
    if isinstance(value, StringPromptValue):
        return value
    messages = value.to_messages()
    if len(messages) == 1 and isinstance(messages[0], HumanMessage) and isinstance(messages[0].content, str):
        return StringPromptValue(text=messages[0].content)  # equivalent to a plain string, also in caches
    return _ChatPrompt(text="", value=value)


def as_asked(prompt: str) -> PromptLike:
    """The messages of such a text, or the text."""
    return prompt.messages if isinstance(prompt, _ChatText) else prompt
