"""Reads a LlamaIndex model's response: its calls, why it ended, and its token usage."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole, ToolCallBlock

from rsd_core import Usage
from rsd_integrations.llamaindex.messages import CALLS, as_text, thought_of, tool_call_blocks
from rsd_integrations.tool_calls import new_id

logger = logging.getLogger(__name__)

_REASONS = ("finish_reason", "stop_reason", "done_reason", "stopReason")
_LENGTH = ("length", "max_tokens", "model_length", "max_output_tokens", "model_context_window_exceeded")
_STOPPED = (
    *("content_filter", "content_filtered", "guardrail_intervened", "refusal", "malformed_tool_use"),
    *("safety", "recitation", "blocklist", "prohibited_content", "spii", "malformed_function_call"),
)
"""Filter reasons of OpenAI, Anthropic, Bedrock and Google, and the last two's reasons for failed calls."""
_READ = ("prompt_tokens", "input_tokens", "inputTokens", "prompt_token_count", "prompt_eval_count")
_WROTE = ("completion_tokens", "output_tokens", "outputTokens", "candidates_token_count", "eval_count")
_APART = ("cache_read_input_tokens", "cacheReadInputTokens")
_CACHED = ("cache_creation_input_tokens", "cacheWriteInputTokens")
_BESIDE = ("input_tokens", "inputTokens")
"""Anthropic and Bedrock count cache reads and writes separately from these."""
_WITHIN = ("cached_tokens", "cached_content_token_count")
"""OpenAI and Google include it in the prompt."""


def is_cut(response: ChatResponse) -> bool:
    """Whether the response hit its token limit."""
    return _reason(response) in _LENGTH


def usage_of_response(response: ChatResponse, messages: Sequence[ChatMessage], seconds: float) -> Usage:
    """Tokens of one call as reported by the provider, else estimated as four characters each and marked as such.

    Args:
        response: The model's response.
        messages: The input messages.
        seconds: Time the call took.
    """
    for place in _places(response):
        for counts in (_field(place, "usage"), _field(place, "usage_metadata"), place):
            read, wrote = _number(counts, _READ), _number(counts, _WROTE)
            if read is None or wrote is None:
                continue
            reused = _number(_field(counts, "prompt_tokens_details") or counts, _WITHIN) or 0
            if _number(counts, _BESIDE) is not None:
                reused = _number(counts, _APART) or 0
                read += reused + (_number(counts, _CACHED) or 0)
            wrote += _number(counts, ("thoughts_token_count",)) or 0  # Google's
            reused = min(read, reused)
            return Usage(read, read - reused + wrote, reused, wrote, seconds=seconds)
    read = sum(len(as_text(message)) // 4 + 1 for message in messages)
    wrote = (len(as_text(response.message)) + len(thought_of(response.message))) // 4 + 1
    return Usage(read, read + wrote, 0, wrote, seconds=seconds, estimated=read + wrote)


def as_asked(response: ChatResponse) -> tuple[ChatMessage, list[dict[str, str | None]]]:
    """The message of a response with calls that may be executed, each with an id, and the calls that may not.

    A call with arguments other than a JSON object was cut or is broken; so is the last call of a reply that hit its
    token limit or a filter, if only an object remains, since some clients complete the text.
    """
    message, calls = response.message, tool_call_blocks(response.message)
    last = calls[-1] if calls and _reason(response) in (*_LENGTH, *_STOPPED) else None
    invalid: list[dict[str, str | None]] = []

    def asked(block: Any) -> Any:
        if not isinstance(block, ToolCallBlock):
            return block
        arguments = arguments_of(block, cut=block is last)
        if arguments is not None:
            return block.model_copy(update={"tool_kwargs": arguments, "tool_call_id": block.tool_call_id or new_id()})
        told = block.tool_kwargs if isinstance(block.tool_kwargs, str) else json.dumps(block.tool_kwargs, default=str)
        invalid.append({"name": block.tool_name, "args": told, "id": block.tool_call_id})
        logger.warning("a call of the tool %r is cut or broken, and is not executed", block.tool_name)
        return None

    held = [call for call in calls if all(call is not block for block in message.blocks)]
    blocks = [made for block in (*message.blocks, *held) if (made := asked(block)) is not None]
    known = {key: value for key, value in message.additional_kwargs.items() if key not in CALLS}
    return ChatMessage(role=MessageRole.ASSISTANT, blocks=blocks, additional_kwargs=known), invalid


def arguments_of(call: ToolCallBlock, *, cut: bool = False) -> dict[str, Any] | None:
    """The arguments of a call; None if they are not a JSON object, or possibly incomplete.

    Args:
        call: A call, with its arguments as text or as an object.
        cut: Whether the reply may have ended within this call.
    """
    given = call.tool_kwargs
    if isinstance(given, dict):
        return None if cut else given
    if not given.strip():
        return None if cut else {}
    try:
        arguments = json.loads(given)
    except (ValueError, RecursionError):
        return None
    return arguments if isinstance(arguments, dict) else None


def _reason(response: ChatResponse) -> str | None:
    """The provider's finish reason, in lower case."""
    for place in _places(response):
        for name in _REASONS:
            if reason := _field(place, name):
                return str(getattr(reason, "name", reason)).lower()
    return None


def _places(response: ChatResponse) -> Iterator[Any]:
    """Where providers put reply metadata, the most informative first."""
    raw = response.raw
    for choices in ("choices", "candidates"):
        listed = _field(raw, choices)
        if isinstance(listed, Sequence) and listed:
            yield listed[0]
    yield from (raw, response.additional_kwargs, response.message.additional_kwargs)


def _field(of: Any, name: str) -> Any:
    return of.get(name) if isinstance(of, Mapping) else getattr(of, name, None)


def _number(counts: Any, names: Sequence[str]) -> int | None:
    for name in names:
        value = _field(counts, name)
        if isinstance(value, int) and value >= 0:
            return value
    return None
