"""Incomplete or malformed tool calls: they are marked invalid and never executed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
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
    *("content_filter", "content_filtered", "guardrail_intervened", "refusal", "malformed_tool_use"),
    *("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MALFORMED_FUNCTION_CALL"),
}
"""Finish reasons of OpenAI, Anthropic, Google, Bedrock, Mistral and Ollama: for token limits, filters, and failed
calls."""


def is_cut(message: AIMessage) -> bool:
    """Whether a message was cut off, according to its provider."""
    told = message.response_metadata
    return told.get("status") == "incomplete" or any(told.get(key) in _CUT for key in _KEYS)


def without_cut_call(message: AIMessage) -> AIMessage:
    """A cut message, with its last call marked invalid if the message ends in it.

    Streaming classes, and APIs with calls as objects, complete a cut call, so that it looks valid. (LangChain's own
    agents run it; seen with langchain-openai 1.7.4 streaming and langchain-anthropic 1.7.10.)
    """
    if not is_cut(message) or not message.tool_calls or message.invalid_tool_calls:  # one of those is the call
        return message
    last = message.tool_calls[-1]
    blocks = message.content if isinstance(message.content, list) else []
    places = [i for i, block in enumerate(blocks) if isinstance(block, dict) and last["id"] in call_ids(block)]
    if places and places[-1] < len(blocks) - 1:
        return message
    return _invalidated(message, [(last, None)], "the reply was cut, perhaps inside of this call")


def without_calls_of_cut(message: AIMessage) -> AIMessage:
    """A cut message with all calls marked invalid, since any of them may be the one that was cut."""
    if not is_cut(message):
        return message
    return _invalidated(message, [(call, None) for call in message.tool_calls], "the message was cut in its calls")


class StreamedCalls(BaseCallbackHandler):
    """Keeps the raw calls of streamed messages, since LangChain completes their JSON."""

    run_inline = True

    def __init__(self) -> None:
        self._messages: dict[UUID, AIMessageChunk] = {}

    def on_llm_new_token(self, token: Any, *, chunk: Any = None, run_id: UUID, **kwargs: Any) -> None:  # noqa: ARG002
        """Keep a chunk's parts of calls."""
        message = getattr(chunk, "message", None)
        if isinstance(message, AIMessageChunk) and message.tool_call_chunks:
            calls = AIMessageChunk(content="", tool_call_chunks=message.tool_call_chunks)
            self._messages[run_id] = self._messages[run_id] + calls if run_id in self._messages else calls

    def without_unreadable_calls(self, message: AIMessage) -> AIMessage:
        """A message with the calls that were not JSON when streamed marked invalid, in their raw form."""
        written: dict[str | None, str | None] = {}
        for call in (call for one in self._messages.values() for call in one.tool_call_chunks):
            name = (
                call["id"] or call["name"]
            )  # some servers give no ids: then a broken call invalidates all of the same name
            if _is_object(written.get(name)):
                written[name] = call["args"]
        found = [(one, written.get(one["id"] or one["name"])) for one in message.tool_calls]
        broken = [(one, args) for one, args in found if not _is_object(args)]
        return _invalidated(message, broken, "its arguments are not a JSON object")


@contextmanager
def streamed_calls() -> Iterator[StreamedCalls]:
    """Capture the tool calls streamed inside the context."""
    watch = StreamedCalls()
    token = _watch.set(watch)
    try:
        yield watch
    finally:
        _watch.reset(token)


_watch: ContextVar[StreamedCalls | None] = ContextVar("rsd_streamed_calls", default=None)
register_configure_hook(_watch, inheritable=True)


def _is_object(text: str | None) -> bool:
    """Whether arguments are readable; none count as an empty object, as in LangChain."""
    if not text:
        return True
    try:
        return isinstance(json.loads(text, strict=False), dict)
    except ValueError:
        return False


def _invalidated(message: AIMessage, calls: Sequence[tuple[ToolCall, str | None]], why: str) -> AIMessage:
    """A message with some calls marked invalid, with their raw arguments if known."""
    if not calls:
        return message
    gone = [call for call, _ in calls]
    ids = {call["id"] for call in gone if call["id"]}
    broken = [
        invalid_tool_call(
            name=call["name"], args=args or json.dumps(call["args"], ensure_ascii=False), id=call["id"], error=why
        )
        for call, args in calls
    ]
    content: Any = message.content
    if not isinstance(content, str):  # provider classes would send the blocks as calls
        content = [block for block in content if not (isinstance(block, dict) and ids.intersection(call_ids(block)))]
    return message.model_copy(
        update={
            "content": content,
            "tool_calls": [call for call in message.tool_calls if call not in gone],
            "invalid_tool_calls": [*message.invalid_tool_calls, *broken],
        }
    )


def call_ids(block: dict[str, Any]) -> tuple[Any, ...]:
    """The ids under which a content block is a tool call, for any provider; none for other blocks."""
    kind = str(block.get("type"))
    return (block.get("id"), block.get("call_id")) if "call" in kind or kind == "tool_use" else ()
