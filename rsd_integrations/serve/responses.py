"""Answers in the format of /v1/responses: an object of items, and the events that build it.

Form: OpenAI's API reference, "The response object" and "Streaming events". A thought is a `reasoning` item: its text is
the item's `content`, or its `summary` if the request asks for one, since it is not summarised here.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from rsd_integrations.serve.answers import Answer, Delta, about, usage_of
from rsd_integrations.serve.errors import ApiError
from rsd_integrations.serve.jobs import Job
from rsd_integrations.serve.replies import event
from rsd_integrations.serve.requests import ResponsesRequest
from rsd_integrations.tool_calls import ToolCall

Told = tuple[str, dict[str, Any]]
"""The type of an event, and its fields."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of item with one text, and the names of its events."""

    prefix: str
    """Prefix of its id."""
    item: Mapping[str, Any]
    part: Mapping[str, Any]
    """The type of the text part."""
    holds: str
    """The field with the part."""
    part_event: str
    text_event: str
    further: Mapping[str, Any] = field(default_factory=dict)
    """Additional fields of text events."""


MESSAGE = Kind(
    "msg_",
    {"type": "message", "role": "assistant"},
    {"type": "output_text", "annotations": [], "logprobs": []},
    "content",
    "response.content_part",
    "response.output_text",
    {"logprobs": []},
)
THOUGHT = Kind(
    "rs_",
    {"type": "reasoning", "summary": []},
    {"type": "reasoning_text"},
    "content",
    "response.content_part",
    "response.reasoning_text",
)
SUMMARY = Kind(
    "rs_",
    {"type": "reasoning"},
    {"type": "summary_text"},
    "summary",
    "response.reasoning_summary_part",
    "response.reasoning_summary_text",
)


class Output:
    """The growing items of a response, and their events.

    Args:
        summary: Whether thoughts go into summaries.
    """

    def __init__(self, *, summary: bool) -> None:
        self.items: list[dict[str, Any]] = []
        """The completed items."""
        self._thought = SUMMARY if summary else THOUGHT
        self._open: Kind | None = None
        self._id, self._text = "", ""

    def add(self, delta: Delta) -> Iterator[Told]:
        """Add a step's delta."""
        for kind, text in ((self._thought, delta.thought), (MESSAGE, delta.content)):
            if text:
                yield from self._begin(kind)
                self._text += text
                yield f"{kind.text_event}.delta", {**self._place(kind), **kind.further, "delta": text}
        for call in delta.calls:
            yield from self.end("completed")
            yield from self._call(call)

    def end(self, status: str) -> Iterator[Told]:
        """End the open item, if any."""
        kind = self._open
        if kind is None:
            return
        place, part, item = self._place(kind), {**kind.part, "text": self._text}, self._item(kind, status)
        yield f"{kind.text_event}.done", {**place, **kind.further, "text": self._text}
        yield f"{kind.part_event}.done", {**place, "part": part}
        yield "response.output_item.done", {"output_index": len(self.items), "item": item}
        self.items.append(item)
        self._open = None

    def last(self, status: str) -> Iterator[Told]:
        """End the output; an empty one gets an empty message."""
        if not self.items and self._open is None:
            yield from self._begin(MESSAGE)
        yield from self.end(status)

    def _begin(self, kind: Kind) -> Iterator[Told]:
        if self._open is kind:
            return
        yield from self.end("completed")
        self._open, self._id, self._text = kind, _new(kind.prefix), ""
        item = {**self._item(kind, "in_progress"), kind.holds: []}
        yield "response.output_item.added", {"output_index": len(self.items), "item": item}
        yield f"{kind.part_event}.added", {**self._place(kind), "part": {**kind.part, "text": ""}}

    def _place(self, kind: Kind) -> dict[str, Any]:
        return {"item_id": self._id, "output_index": len(self.items), f"{kind.holds}_index": 0}

    def _item(self, kind: Kind, status: str) -> dict[str, Any]:
        return {"id": self._id, **kind.item, kind.holds: [{**kind.part, "text": self._text}], "status": status}

    def _call(self, call: ToolCall) -> Iterator[Told]:
        item = {"id": _new("fc_"), "type": "function_call", "call_id": call.id, "name": call.name}
        index, place = {"output_index": len(self.items)}, {"item_id": item["id"], "output_index": len(self.items)}
        yield "response.output_item.added", {**index, "item": {**item, "arguments": "", "status": "in_progress"}}
        yield "response.function_call_arguments.delta", {**place, "delta": call.arguments}
        yield "response.function_call_arguments.done", {**place, "name": call.name, "arguments": call.arguments}
        whole = {**item, "arguments": call.arguments, "status": "completed"}
        yield "response.output_item.done", {**index, "item": whole}
        self.items.append(whole)


class ResponsesForm:
    """The single answer of a request, in the Responses format.

    Args:
        asked: The request, much of which the response echoes.
    """

    def __init__(self, asked: ResponsesRequest) -> None:
        reasoning, text, further = asked.reasoning or {}, asked.text or {}, asked.model_extra or {}
        summary = reasoning.get("summary") or reasoning.get("generate_summary")
        self._trace = asked.rsd.trace
        self._output = Output(summary=summary is not None)
        self._number = -1
        self._about: dict[str, Any] = {
            "id": _new("resp_"),
            "object": "response",
            "created_at": int(time.time()),
            "model": asked.model,
            "background": False,
            "error": None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "metadata": further.get("metadata") or {},
            "parallel_tool_calls": asked.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": reasoning.get("effort"), "summary": summary},
            "store": False,
            "temperature": asked.temperature,
            "text": {"format": {"type": "text"}, **text},
            "tool_choice": asked.tool_choice or "auto",
            "tools": asked.tools or [],
            "top_p": asked.top_p,
            "truncation": "disabled",
            "user": further.get("user"),
        }

    def whole(self, job: Job) -> dict[str, Any]:
        """The response."""
        (answer,) = job.answers
        for _ in (*self._output.add(answer.whole), *self._output.last(_status(answer))):
            pass
        return self._ended(job)

    def first(self, job: Job) -> Iterator[bytes]:  # noqa: ARG002
        """The event for a new, empty response."""
        begun = {**self._about, "status": "in_progress", "incomplete_details": None, "output": [], "usage": None}
        yield self._event("response.created", {"response": begun})
        yield self._event("response.in_progress", {"response": begun})

    def step(self, answer: Answer, delta: Delta) -> Iterator[bytes]:
        """The delta, and the end of the last item."""
        for told in self._output.add(delta):
            yield self._event(*told)
        if answer.result is not None:
            for told in self._output.last(_status(answer)):
                yield self._event(*told)

    def last(self, job: Job) -> Iterator[bytes]:
        """The whole response."""
        response = self._ended(job)
        yield self._event(f"response.{response['status']}", {"response": response})

    def failed(self, error: ApiError) -> Iterator[bytes]:
        """The error, flat as in this API, and as on all other routes, so that clients raise it."""
        flat = {"code": error.code, "message": error.message, "param": error.param}
        yield self._event("error", {**flat, "error": orjson.loads(error.body)["error"]})

    def _event(self, kind: str, fields: Mapping[str, Any]) -> bytes:
        self._number += 1
        return event({"type": kind, "sequence_number": self._number, **fields}, kind)

    def _ended(self, job: Job) -> dict[str, Any]:
        (answer,) = job.answers
        assert answer.result is not None
        status = _status(answer)
        incomplete = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            **self._about,
            "status": status,
            "completed_at": int(time.time()) if status == "completed" else None,
            "incomplete_details": incomplete,
            "output": self._output.items,
            "usage": _usage(job),
            "rsd": about(answer.result, trace=self._trace),
        }


def _status(answer: Answer) -> str:
    return "incomplete" if answer.finish_reason == "length" else "completed"


def _usage(job: Job) -> dict[str, Any]:
    """A chat's usage under this API's names."""
    usage = usage_of(job.answered)
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": usage["completion_tokens_details"],
        "total_tokens": usage["total_tokens"],
        "rsd": usage["rsd"],
    }


def _new(prefix: str) -> str:
    return f"{prefix}{uuid.uuid4().hex}"
