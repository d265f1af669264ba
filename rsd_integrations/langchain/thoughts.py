"""Thoughts in LangChain's messages: found, converted for the core, and hidden from other providers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable

from rsd_core import Reader
from rsd_core.thoughts.markers import MARKERS, Markers, Thinking
from rsd_integrations.langchain.compositions import unbound
from rsd_integrations.turns import parts_in

Content = str | list[str | dict[str, Any]]

BLOCKS = ("reasoning", "thinking", "redacted_thinking", "reasoning_content")
"""Types of content blocks with thoughts: LangChain's and OpenAI's, Anthropic's and Google's, Bedrock's."""

_FAMILIES = ("anthropic", "openai", "google", "bedrock")
"""Providers that sign or encrypt thoughts and refuse others', by part of their names in LangChain."""


def is_thought(block: object) -> bool:
    """Whether a content block is part of a thought."""
    return isinstance(block, Mapping) and own_form(block).get("type") in BLOCKS


def thought_of(message: BaseMessage) -> str:
    """The thought in a message, in any provider's format; empty if it has none."""
    apart = message.additional_kwargs.get("reasoning_content")
    if isinstance(apart, str) and apart:
        return apart
    old = message.additional_kwargs.get("reasoning")  # OpenAI's Responses API with output_version="v0"
    if isinstance(old, Mapping) and (text := _text({"type": "reasoning", **old})):
        return text
    blocks = message.content if isinstance(message.content, list) else []
    return "\n\n".join(filter(None, [_text(own_form(block)) for block in blocks if isinstance(block, dict)]))


def opened(rendered: str) -> Thinking | None:
    """What a chat template opens at the end of a prompt; None if that is not a thought."""
    for markers in MARKERS.values():
        opening = rendered[rendered.rfind(markers.open) :] if markers.open in rendered else ""
        reader, pieces = Reader(markers).read(opening)
        if reader.state in ("opened", "closed") and not pieces:
            return Thinking(markers, opening)
    return None


def told_apart(message: AIMessage, markers: Markers | None = None) -> AIMessage:
    """A message with any marked thought in its text moved out of it."""
    text = str(message.text)
    parts = parts_in(text, markers)
    if parts.answer == text:
        return message
    thought = thought_of(message) or parts.thought
    held = message.additional_kwargs | ({"reasoning_content": thought} if thought else {})
    start = text.rfind(parts.answer)
    content = text_between(message.content, start, start + len(parts.answer))
    return message.model_copy(update={"content": content, "additional_kwargs": held})


def without_foreign_thoughts(model: Runnable[Any, Any], messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """Messages with the model's own provider's thoughts unchanged, and other providers' blocks removed."""
    bare = unbound(model)
    family = _family(bare._get_ls_params().get("ls_provider")) if isinstance(bare, BaseChatModel) else None
    return [_without_foreign(message, family) if family in _FAMILIES else message for message in messages]


def text_between(content: Content, start: int, stop: int) -> Content:
    """Content with its text cut to the part between two positions; other blocks stay."""
    if isinstance(content, str):
        return content[start:stop]
    rest: list[str | dict[str, Any]] = []
    for block in content:
        text = block if isinstance(block, str) else block.get("text", "") if block.get("type") == "text" else ""
        left = text[max(0, start) : max(0, stop)]
        start, stop = start - len(text), stop - len(text)
        if left == text:
            rest.append(block)
        elif left:
            rest.append(left if isinstance(block, str) else {**block, "text": left})
    return rest


def _without_foreign(message: BaseMessage, family: str | None) -> BaseMessage:
    author = _family(message.response_metadata.get("model_provider"))
    if author in (None, family) or not isinstance(message.content, list) or not any(map(is_thought, message.content)):
        return message
    kept = [block for block in message.content if not is_thought(block)]
    return message.model_copy(update={"content": kept or ""})


def _family(provider: str | None) -> str | None:
    name = "openai" if provider == "azure" else provider
    return next((family for family in _FAMILIES if family in (name or "")), name)


def own_form(block: Mapping[str, Any]) -> Mapping[str, Any]:
    """A block in its provider's format."""
    value = block.get("value") if block.get("type") == "non_standard" else None
    return value if isinstance(value, Mapping) else block


def _text(block: Mapping[str, Any]) -> str:
    if block.get("type") not in BLOCKS:
        return ""
    for key in ("reasoning", "thinking", "reasoning_content", "summary", "content"):
        if value := block.get(key):
            parts = value if isinstance(value, list) else [value]
            texts = [part if isinstance(part, str) else str(part.get("text") or "") for part in parts]
            return ("\n\n" if key == "summary" else "").join(texts)
    return ""
