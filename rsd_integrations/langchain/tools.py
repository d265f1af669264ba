"""Tool calls in a model's text, as LangChain knows them."""

from __future__ import annotations

from langchain_core.messages.tool import ToolCallChunk, tool_call_chunk

from rsd_integrations import tool_calls

_FIRST = 1000
"""Index of the first call: LangChain numbers a streamed message's other blocks from 0, and merges equal numbers."""


class ToolCallStream:
    """Splits a text that comes piece by piece into content and tool calls.

    A call that is no JSON or names no tool has its whole text as arguments, for LangChain's `invalid_tool_calls`.

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
