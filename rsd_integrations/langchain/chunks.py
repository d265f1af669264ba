"""From the decoder's events to LangChain's message chunks: the one way messages are made, streamed or not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.tool import ToolCallChunk, tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk

from rsd_core import Event, Finished, Markers, StepFinished, TextStream
from rsd_core.stopping import stops_at
from rsd_integrations.answer_forms import AnswerForm
from rsd_integrations.langchain.thoughts import told_apart
from rsd_integrations.langchain.tools import ToolCallStream
from rsd_integrations.langchain.trace import metadata, step_data, usage


class MessageChunks:
    """Makes a chunk for each accepted or replaced step, two where it ends a thought, and a last one with the metadata.

    A thought is `additional_kwargs["reasoning_content"]`, of which LangChain makes reasoning blocks. What merging would
    spoil is on the last chunk alone: numbers are added, texts joined and unequal floats refused when chunks are merged.
    The steps of the other chunks are a list in `additional_kwargs["rsd_steps"]`, which grows.

    Args:
        model_name: Goes with the last chunk.
        stop: Strings that end the answer.
        tools: Whether the text may hold tool calls.
        form: The form of the answer, where it has one.
        rejected: Whether to tell the texts of rejected drafts in the metadata.
        markers: Those of thoughts that models write into their text, where the settings name them.
    """

    def __init__(
        self,
        model_name: str,
        stop: Sequence[str] = (),
        *,
        tools: bool = False,
        form: AnswerForm | None = None,
        rejected: bool = False,
        markers: Markers | None = None,
    ) -> None:
        self._rejected = rejected
        self._model_name = model_name
        self._stop = stop
        self._markers = markers
        self._text = TextStream(stop if form is None else ())  # which cut no JSON
        calls = None if form is None else form.stream()
        self._calls = ToolCallStream(calls) if calls or (tools and form is None) else None
        self._native: AIMessage | None = None
        self._steps = 0

    def feed(self, event: Event) -> Sequence[ChatGenerationChunk]:
        """The chunks that an event makes; none for most events."""
        if isinstance(event, StepFinished):
            step = {"rsd_steps": [step_data(event.record, self._steps)]}
            self._steps += 1
            if isinstance(event.record.native, AIMessage):
                self._native = _cut(told_apart(event.record.native, self._markers), self._stop)
                return [ChatGenerationChunk(message=_as_chunk(self._native, step))]
            return self._chunks(event, step)
        if isinstance(event, Finished):
            called = bool(self._native.tool_calls) if self._native else bool(self._calls and self._calls.called)
            about: dict[str, Any] = {"model_name": self._model_name, "model_provider": "rsd"}
            if self._native is not None:
                about |= _provider(self._native) | {"inner": self._native.response_metadata}
            about |= metadata(event.result, tool_calls=called, rejected=self._rejected)
            chunks = self._chunks(
                event, {}, response_metadata=about, usage_metadata=usage(event.result), chunk_position="last"
            )
            chunks[-1].generation_info = {"finish_reason": about["finish_reason"]}
            return chunks
        return []

    def _chunks(self, event: Event, additional: dict[str, Any], **last: Any) -> list[ChatGenerationChunk]:
        """Thought and answer in chunks of their own: readers of a stream tell blocks apart by their places."""
        pieces = () if self._native is not None else self._text.feed_parts(event)
        thought = "".join(text for kind, text in pieces if kind == "thought")
        content = "".join(text for kind, text in pieces if kind == "answer")
        calls: list[ToolCallChunk] = []
        if self._calls is not None:
            content, calls = self._calls.feed(content, last=bool(last))
        messages: list[AIMessageChunk] = []
        if thought:
            messages.append(AIMessageChunk(content="", additional_kwargs={"reasoning_content": thought, **additional}))
        if content or calls or last or not thought:
            kwargs = {} if thought else additional
            messages.append(AIMessageChunk(content=content, tool_call_chunks=calls, additional_kwargs=kwargs, **last))
        return [ChatGenerationChunk(message=message) for message in messages]


def _cut(message: AIMessage, stop: Sequence[str]) -> AIMessage:
    """A message that ends before the first stop string. Not every model that is told to stop does so."""
    at = stops_at(str(message.text), stop)
    if at is None:
        return message
    content: str | list[str | dict[str, Any]] = message.content
    if isinstance(content, str):
        content = content[:at]
    else:
        content = []
        for block in message.content:
            text = block if isinstance(block, str) else block.get("text", "") if block["type"] == "text" else ""
            content.append(block)
            if len(text) > at:
                content[-1] = text[:at] if isinstance(block, str) else {**block, "text": text[:at]}
                break
            at -= len(text)
    return message.model_copy(update={"content": content, "tool_calls": [], "invalid_tool_calls": []})


def _as_chunk(message: AIMessage, step: dict[str, Any]) -> AIMessageChunk:
    """A whole message as one chunk."""
    calls = [
        tool_call_chunk(name=call["name"], args=json.dumps(call["args"], ensure_ascii=False), id=call["id"], index=i)
        for i, call in enumerate(message.tool_calls)
    ]
    calls += [
        tool_call_chunk(name=call["name"], args=call["args"], id=call["id"], index=len(calls) + i)
        for i, call in enumerate(message.invalid_tool_calls)
    ]
    return AIMessageChunk(
        content=message.content,
        additional_kwargs={**message.additional_kwargs, **step},
        tool_call_chunks=calls,
        response_metadata=_provider(message),
    )


def _provider(message: AIMessage) -> dict[str, Any]:
    """By whose rules the blocks of a message are read: its provider's, where those show its thought."""
    about = {
        key: value for key in ("model_provider", "output_version") if (value := message.response_metadata.get(key))
    }
    if "reasoning_content" in message.additional_kwargs:
        blocks = AIMessage(message.content, additional_kwargs=message.additional_kwargs, response_metadata=about)
        if all(block["type"] != "reasoning" for block in blocks.content_blocks):
            about["model_provider"] = "rsd"
    return about
