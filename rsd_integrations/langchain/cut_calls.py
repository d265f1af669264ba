"""Calls of tools that were cut: what a model did not write to its end is never executed."""

from __future__ import annotations

import json

from langchain_core.messages import AIMessage
from langchain_core.messages.tool import invalid_tool_call

_KEYS = ("finish_reason", "stop_reason", "done_reason", "stopReason")
_CUT = {
    *("length", "max_tokens", "MAX_TOKENS", "model_length", "model_context_window_exceeded"),
    *("content_filter", "content_filtered", "SAFETY", "refusal"),
}
"""Finish reasons of OpenAI, Anthropic, Google, Bedrock, Mistral and Ollama: of used-up tokens, and of filters."""


def is_cut(message: AIMessage) -> bool:
    """Whether a message ends before its model was done, by what its provider says."""
    told = message.response_metadata
    return told.get("status") == "incomplete" or any(told.get(key) in _CUT for key in _KEYS)


def without_cut_calls(message: AIMessage) -> AIMessage:
    """A message that calls nothing where it was cut: its calls become invalid ones.

    Which of them the cut went through cannot be seen any more: LangChain completes the JSON of streamed calls, and
    Anthropic's API gives data.
    """
    if not message.tool_calls or not is_cut(message):
        return message
    cut = [
        invalid_tool_call(
            name=call["name"], args=json.dumps(call["args"]), id=call["id"], error="the message was cut in its calls"
        )
        for call in message.tool_calls
    ]
    return message.model_copy(update={"tool_calls": [], "invalid_tool_calls": [*cut, *message.invalid_tool_calls]})
