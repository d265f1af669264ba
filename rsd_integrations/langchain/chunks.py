"""From the decoder's events to LangChain's message chunks: the only way messages are built, streamed or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.tool import ToolCallChunk
from langchain_core.outputs import ChatGenerationChunk

from rsd_core import Event, Finished, Markers, Result, StepFinished, TextStream
from rsd_core.ledger import Role
from rsd_core.stopping import stops_at
from rsd_integrations.answer_forms import AnswerForm
from rsd_integrations.langchain.failures import LateAnswerError
from rsd_integrations.langchain.thoughts import told_apart
from rsd_integrations.langchain.tools import ToolCallStream, call_chunks
from rsd_integrations.langchain.trace import answer_usage, metadata, step_data
from rsd_integrations.provider_errors import late


class MessageChunks:
    """Makes a chunk for each accepted or replaced step, two if it ends a thought, and a last one with the metadata.

    A thought is `additional_kwargs["reasoning_content"]`, which LangChain turns into reasoning blocks. Data that
    merging would spoil is only on the last chunk: merging adds numbers, joins texts and refuses unequal floats. The
    steps of the other chunks are a growing list in `additional_kwargs["rsd_steps"]`.

    Args:
        model_name: Set on the last chunk.
        stop: Strings that end the answer.
        tools: Whether the text may contain tool calls.
        form: The required form of the answer, if any.
        traced: Whether traces see the calls of inner models. The metadata then includes the texts of rejected drafts
            but no model name, since counters by name count the inner calls, and would count the answer's twice.
        markers: Markers of thoughts in models' text, if given in the settings.
    """

    def __init__(
        self,
        model_name: str,
        stop: Sequence[str] = (),
        *,
        tools: bool = False,
        form: AnswerForm | None = None,
        traced: bool = False,
        markers: Markers | None = None,
    ) -> None:
        self._traced = traced
        self._model_name = model_name
        self._stop = stop
        self._markers = markers
        self._text = TextStream(stop if form is None else ())  # stop strings must not cut JSON
        calls = None if form is None else form.stream()
        self._calls = ToolCallStream(calls) if calls or (tools and form is None) else None
        self._native: AIMessage | None = None
        self._steps = 0
        self.models: dict[Role, str] = {}
        """Names of the models in the roles, for the bill."""

    def feed(self, event: Event) -> Sequence[ChatGenerationChunk]:
        """The chunks for an event; none for most events."""
        if isinstance(event, StepFinished):
            step = {"rsd_steps": [step_data(event.record, self._steps)]}
            self._steps += 1
            if isinstance(event.record.native, AIMessage):
                self._native = _cut(told_apart(event.record.native, self._markers), self._stop)
                return _as_chunks(self._native, step)
            return self._chunks(event, step)
        if isinstance(event, Finished):
            if (error := late(event.result, LateAnswerError)) is not None:
                raise error
            chunks = self._chunks(event, {}, last=True)
            about = self._about(event.result)
            ending = cast("AIMessageChunk", chunks[-1].message)
            ending.response_metadata, ending.usage_metadata = about, answer_usage(event.result)
            ending.chunk_position = "last"
            chunks[-1].generation_info = {"finish_reason": about["finish_reason"]}
            return chunks
        return []

    def _about(self, result: Result) -> dict[str, Any]:
        """The metadata of the whole answer."""
        called = bool(self._native.tool_calls) if self._native else bool(self._calls and self._calls.called)
        about: dict[str, Any] = {"model_provider": "rsd"}
        if not self._traced:
            about["model_name"] = self._model_name
        if self._native is not None:
            about |= _provider(self._native) | {"inner": self._native.response_metadata}
        return about | metadata(result, self.models, tool_calls=called, rejected=self._traced)

    def settle(self, message: BaseMessage) -> None:
        """Restore, in a message merged from chunks, the invalid calls as the model's own class found them."""
        if isinstance(message, AIMessage) and self._native is not None:
            message.invalid_tool_calls = self._native.invalid_tool_calls

    def _chunks(self, event: Event, additional: dict[str, Any], *, last: bool = False) -> list[ChatGenerationChunk]:
        """Thought, answer and calls in separate chunks, since stream readers distinguish blocks by position."""
        pieces = () if self._native is not None else self._text.feed_parts(event)
        thought = "".join(text for kind, text in pieces if kind == "thought")
        content = "".join(text for kind, text in pieces if kind == "answer")
        calls: list[ToolCallChunk] = []
        if self._calls is not None:
            content, calls = self._calls.feed(content, last=last)
        messages: list[AIMessageChunk] = []
        if thought:
            messages.append(AIMessageChunk(content="", additional_kwargs={"reasoning_content": thought}))
        if content:
            messages.append(AIMessageChunk(content=content))
        if calls:
            messages.append(AIMessageChunk(content="", tool_call_chunks=calls))
        if not messages or (last and (calls or not content)):  # LangChain drops the call chunks of a last chunk
            messages.append(AIMessageChunk(content=""))
        messages[0].additional_kwargs |= additional
        return [ChatGenerationChunk(message=message) for message in messages]


def _cut(message: AIMessage, stop: Sequence[str]) -> AIMessage:
    """A message cut before the first stop string, since not every model honours them."""
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


def _as_chunks(message: AIMessage, step: dict[str, Any]) -> list[ChatGenerationChunk]:
    """A whole message as chunks: everything except invalid calls, then these.

    Next to content, and under some providers' rules, LangChain's v3 event streams would lose them.
    """
    calls, broken = call_chunks(message)
    # In the providers' format; LangChain reads calls from these if a chunk has none.
    raw = {key: value for key, value in message.additional_kwargs.items() if key in ("tool_calls", "function_call")}
    said = {key: value for key, value in message.additional_kwargs.items() if key not in raw} | step
    chunks = [
        AIMessageChunk(
            content=message.content,
            additional_kwargs=said | (raw if calls else {}),
            tool_call_chunks=calls,
            response_metadata=_provider(message),
        )
    ]
    if broken:
        chunks.append(AIMessageChunk(content="", additional_kwargs={} if calls else raw, tool_call_chunks=broken))
    return [ChatGenerationChunk(message=chunk) for chunk in chunks]


def _provider(message: AIMessage) -> dict[str, Any]:
    """The provider under whose rules a message's blocks are read: its own, if that shows its thought."""
    about = {
        key: value for key in ("model_provider", "output_version") if (value := message.response_metadata.get(key))
    }
    if "reasoning_content" in message.additional_kwargs:
        blocks = AIMessage(message.content, additional_kwargs=message.additional_kwargs, response_metadata=about)
        if all(block["type"] != "reasoning" for block in blocks.content_blocks):
            about["model_provider"] = "rsd"
    return about
