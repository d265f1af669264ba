"""Tool calls in a model's text, in the form of Hermes and Qwen chat templates, as LangChain knows them.

Form: model card of Qwen/Qwen2.5-7B-Instruct; `<tool_call>` and `</tool_call>` around a JSON object with `name` and
`arguments`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator

from langchain_core.messages.tool import ToolCallChunk, tool_call_chunk

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_FIRST = 1000
"""Index of the first call: LangChain numbers a streamed message's other blocks from 0, and merges equal numbers."""


class ToolCallStream:
    """Splits a text that comes piece by piece into content and tool calls."""

    def __init__(self) -> None:
        self._buffer = ""
        self._calls = 0
        self._after_call = False

    @property
    def called(self) -> bool:
        """Whether there was a tool call, well-formed or not."""
        return self._calls > 0

    def feed(self, text: str, *, last: bool = False) -> tuple[str, list[ToolCallChunk]]:
        """The content and the calls that a further piece settles."""
        self._buffer += text
        content, calls = "", []
        for piece in self._pieces(last):
            if isinstance(piece, str):
                content += piece
            else:
                calls.append(piece)
        return content, calls

    def _pieces(self, last: bool) -> Iterator[str | ToolCallChunk]:
        while True:
            if self._after_call:  # blanks that follow a call are no content, in whatever piece they come
                self._buffer = self._buffer.lstrip()
                self._after_call = not self._buffer
            before, opened, rest = self._buffer.partition(_OPEN)
            if not opened:
                # Blanks and the beginning of a tag wait: a call may follow, and its blanks are no content.
                ready = _settled(self._buffer)
                if last:
                    ready = self._buffer.rstrip() if self.called else self._buffer
                yield ready
                self._buffer = self._buffer[len(ready) :]
                return
            yield before.rstrip()
            body, closed, after = rest.partition(_CLOSE)
            if not closed and not last:
                self._buffer = _OPEN + rest
                return
            yield self._call(body)
            self._buffer, self._after_call = after, True

    def _call(self, body: str) -> ToolCallChunk:
        """A call; one that is no JSON or names no tool keeps its whole text, for LangChain's `invalid_tool_calls`."""
        index, self._calls = self._calls, self._calls + 1
        try:
            data = json.loads(body)
            name, args = data["name"], data.get("arguments")
            if not isinstance(name, str) or not name:
                raise TypeError
            written = args if isinstance(args, str) else json.dumps(args or {}, ensure_ascii=False)
        except (ValueError, TypeError, KeyError, AttributeError):
            name, written = None, _OPEN + body
        return tool_call_chunk(name=name, args=written, id=f"call_{uuid.uuid4().hex}", index=_FIRST + index)


def _settled(text: str) -> str:
    """The text up to what could be the beginning of a tool call."""
    for n in range(min(len(_OPEN) - 1, len(text)), 0, -1):
        if text.endswith(_OPEN[:n]):
            return text[:-n].rstrip()
    return text.rstrip()
