"""Calls of tools that a model did not write to their end, or not as JSON: they are invalid, and never executed."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.tool import ToolCall, invalid_tool_call
from langchain_core.tracers.context import register_configure_hook

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


class StreamedCalls(BaseCallbackHandler):
    """Keeps the calls of streamed messages as they were written: LangChain completes their JSON."""

    run_inline = True

    def __init__(self) -> None:
        self._messages: dict[UUID, AIMessageChunk] = {}

    def on_llm_new_token(self, token: Any, *, chunk: Any = None, run_id: UUID, **kwargs: Any) -> None:  # noqa: ARG002
        """Keep what a chunk has of calls."""
        message = getattr(chunk, "message", None)
        if isinstance(message, AIMessageChunk) and message.tool_call_chunks:
            calls = AIMessageChunk(content="", tool_call_chunks=message.tool_call_chunks)
            self._messages[run_id] = self._messages[run_id] + calls if run_id in self._messages else calls

    def without_broken_calls(self, message: AIMessage) -> AIMessage:
        """A message in whose `tool_calls` are those alone that may be executed; the others are invalid ones.

        Of a message that was cut that is none: through which of its calls the cut went cannot always be told, since
        Anthropic's API gives data.
        """
        written: dict[str | None, str | None] = {
            call["id"]: call["args"] for one in self._messages.values() for call in one.tool_call_chunks if call["id"]
        }
        found: dict[str | None, list[ToolCall]] = defaultdict(list)
        for call in message.tool_calls:
            unreadable = None if _is_object(written.get(call["id"])) else "its arguments are no JSON object"
            found["the message was cut in its calls" if is_cut(message) else unreadable].append(call)
        whole = found.pop(None, [])
        if not found:
            return message
        broken = [
            invalid_tool_call(
                name=call["name"], args=written.get(call["id"]) or json.dumps(call["args"]), id=call["id"], error=why
            )
            for why, calls in found.items()
            for call in calls
        ]
        return message.model_copy(
            update={"tool_calls": whole, "invalid_tool_calls": [*message.invalid_tool_calls, *broken]}
        )


@contextmanager
def streamed_calls() -> Iterator[StreamedCalls]:
    """Watch the calls of tools in what is streamed meanwhile."""
    watch = StreamedCalls()
    token = _watch.set(watch)
    try:
        yield watch
    finally:
        _watch.reset(token)


_watch: ContextVar[StreamedCalls | None] = ContextVar("rsd_streamed_calls", default=None)
register_configure_hook(_watch, inheritable=True)


def _is_object(text: str | None) -> bool:
    """Whether arguments can be read; none are an empty object, as LangChain has it."""
    if not text:
        return True
    try:
        return isinstance(json.loads(text, strict=False), dict)
    except ValueError:
        return False
