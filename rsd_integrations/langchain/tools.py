"""Tool calls in LangChain's messages: from a model's text, and in chunks."""

from __future__ import annotations

import json

from langchain_core.messages import AIMessage
from langchain_core.messages.tool import ToolCallChunk, tool_call_chunk
from langchain_core.utils.json import parse_partial_json

from rsd_integrations import tool_calls

_FIRST = 1000
"""Index of the first call: LangChain numbers a streamed message's other blocks from 0, and merges equal numbers."""
_NO_JSON = "\u00a0"
"""A space character that is invalid in JSON."""


def call_chunks(message: AIMessage) -> tuple[list[ToolCallChunk], list[ToolCallChunk]]:
    """The calls of a whole message and its invalid ones, for its chunks.

    Merging chunks parses arguments leniently: it closes what is open, and takes empty text for no arguments. So
    arguments that the model's own class found invalid are prefixed with a space that JSON cannot begin with, if they
    would be completed. They stay invalid whatever chunks are added; `lstrip` restores them.
    """
    calls = [
        tool_call_chunk(
            name=call["name"], args=json.dumps(call["args"], ensure_ascii=False), id=call["id"], index=index
        )
        for index, call in enumerate(message.tool_calls, _FIRST)
    ]
    broken = [
        tool_call_chunk(name=call["name"], args=_never_completed(call["args"] or ""), id=call["id"], index=index)
        for index, call in enumerate(message.invalid_tool_calls, _FIRST + len(calls))
    ]
    return calls, broken


def _never_completed(args: str) -> str:
    """Broken arguments in a form that no lenient parser can complete."""
    try:
        parse_partial_json(args or "{}")
    except ValueError:
        return args
    return _NO_JSON + args


class ToolCallStream:
    """Splits streamed text into content and tool calls.

    A call that is not JSON, names no tool or has arguments other than an object gets its whole text as arguments, for
    LangChain's `invalid_tool_calls`: its tags are not JSON, so it cannot be completed.

    Args:
        stream: Finds the calls; by default those marked in the text.
    """

    def __init__(self, stream: tool_calls.ToolCallStream | None = None) -> None:
        self._stream = stream or tool_calls.ToolCallStream()
        self._next = _FIRST

    @property
    def called(self) -> bool:
        """Whether there was a tool call, well-formed or not."""
        return self._stream.called

    def feed(self, text: str, *, last: bool = False) -> tuple[str, list[ToolCallChunk]]:
        """The content and the calls completed by another piece."""
        content, calls = self._stream.feed(text, last=last)
        chunks = [
            tool_call_chunk(name=call.name, args=call.arguments, id=call.id, index=index)
            for index, call in enumerate(calls, self._next)
        ]
        self._next += len(calls)
        return content, chunks
