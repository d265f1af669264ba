"""Token usage of a LangChain model: as reported by its provider, else estimated."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.utils import count_tokens_approximately

from rsd_core import Usage


def usage_of_reply(reply: BaseMessage | str, prompt: Any, seconds: float) -> Usage:
    """Tokens of one call as reported by the provider, else estimated as four characters each.

    Args:
        reply: The model's answer.
        prompt: The input: a text or messages.
        seconds: Time the call took.
    """
    counts = reply.usage_metadata if isinstance(reply, AIMessage) else None
    if counts is None:
        read, wrote, reused = estimate_tokens(prompt), estimate_tokens(reply), 0
    else:
        read, wrote = counts.get("input_tokens") or 0, counts.get("output_tokens") or 0
        # Capped at the input, since some providers count cached tokens separately.
        reused = min(read, (counts.get("input_token_details") or {}).get("cache_read") or 0)
    return Usage(read, read - reused + wrote, reused, wrote, seconds=seconds)


def estimate_tokens(value: Any) -> int:
    """Tokens of a text or messages, estimated as four characters each."""
    messages = value if isinstance(value, list) else [value]
    return count_tokens_approximately(messages, extra_tokens_per_message=0)
