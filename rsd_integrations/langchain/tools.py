"""Tool calls as LangChain's messages hold them: in a model's text, and in chunks."""

from __future__ import annotations

import json

from langchain_core.messages import AIMessage
from langchain_core.messages.tool import ToolCallChunk, tool_call_chunk
from langchain_core.utils.json import parse_partial_json

from rsd_integrations import tool_calls

_FIRST = 1000
"""Index of the first call: LangChain numbers a streamed message's other blocks from 0, and merges equal numbers."""
_NO_JSON = "\u00a0"
"""A blank that JSON does not know."""


def call_chunks(message: AIMessage) -> tuple[list[ToolCallChunk], list[ToolCallChunk]]:
    """The calls of a whole message and its invalid ones, for its chunks.

    What merges chunks reads arguments leniently: it closes what is open, and takes nothing for no arguments. So what
    the model's own class called invalid is given a blank before it, which no JSON begins with, wherever it would be
    completed. It stays invalid in whatever chunks are added to it; `lstrip` gives it back as it was.
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
    """Broken arguments in a form of which no lenient parser makes anything."""
    try:
        parse_partial_json(args or "{}")
    except ValueError:
        return args
    return _NO_JSON + args


class ToolCallStream:
    """Splits a text that comes piece by piece into content and tool calls.

    A call that is no JSON, names no tool or has no object as arguments has its whole text as arguments, for LangChain's
    `invalid_tool_calls`: the marks before it are no JSON, so that nothing completes it.

    Args:
        stream: What finds the calls; by default they are marked in the text.
    """

    def __init__(self, stream: tool_calls.ToolCallStream | None = None) -> None:
        self._stream = stream or tool_calls.ToolCallStream()
        self._next = _FIRST

    @property
    def called(self) -> bool:
        """Whether there was a tool call, well-formed or not."""
        return self._stream.called

    def feed(self, text: str, *, last: bool = False) -> tuple[str, list[ToolCallChunk]]:
        """The content and the calls that a further piece settles."""
        content, calls = self._stream.feed(text, last=last)
        chunks = [
            tool_call_chunk(name=call.name, args=call.arguments, id=call.id, index=index)
            for index, call in enumerate(calls, self._next)
        ]
        self._next += len(calls)
        return content, chunks
