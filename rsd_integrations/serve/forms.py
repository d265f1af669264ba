"""Answers in the formats of /v1/chat/completions and /v1/completions."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from rsd_integrations.serve.answers import Answer, Delta, about, usage_of
from rsd_integrations.serve.errors import ApiError
from rsd_integrations.serve.jobs import Job
from rsd_integrations.serve.replies import event
from rsd_integrations.tool_calls import ToolCall

DONE = b"data: [DONE]\n\n"


class Choices(ABC):
    """Shared by the two routes: choices, which end with their `rsd` field.

    Args:
        model: The model name in the request.
        trace: Whether choices include their steps.
        usage: Whether a stream ends with the usage.
    """

    prefix: ClassVar[str]
    kind: ClassVar[str]
    chunk: ClassVar[str]

    def __init__(self, model: str, *, trace: bool = False, usage: bool = False) -> None:
        self._trace, self._usage = trace, usage
        self._about = {"id": f"{self.prefix}{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    @abstractmethod
    def content(self, answer: Answer) -> dict[str, Any]:
        """The content of a choice for a whole answer."""

    @abstractmethod
    def added(self, answer: Answer, delta: Delta) -> dict[str, Any]:
        """The content of a chunk's choice for a delta."""

    def whole(self, job: Job) -> dict[str, Any]:
        """All answers in one object."""
        choices = [{**self.content(answer), **self._ended(answer)} for answer in job.answers]
        return {**self._about, "object": self.kind, "choices": choices, "usage": usage_of(job.answered)}

    def first(self, job: Job) -> Iterable[bytes]:  # noqa: ARG002
        """Nothing."""
        return ()

    def step(self, answer: Answer, delta: Delta) -> Iterator[bytes]:
        """A chunk with the delta, and one that ends the answer."""
        if delta:
            yield self._chunk([{**self.added(answer, delta), "index": answer.index, "finish_reason": None}])
        if answer.result is not None:
            yield self._chunk([{**self.added(answer, Delta()), **self._ended(answer)}])

    def last(self, job: Job) -> Iterator[bytes]:
        """The usage if requested, and the end marker."""
        if self._usage:
            yield event({**self._about, "object": self.chunk, "choices": [], "usage": usage_of(job.answered)})
        yield DONE

    def failed(self, error: ApiError) -> Iterator[bytes]:
        """The error instead of a chunk."""
        yield b"data: " + error.body + b"\n\n"
        yield DONE

    def _ended(self, answer: Answer) -> dict[str, Any]:
        assert answer.result is not None
        told = about(answer.result, trace=self._trace)
        return {"index": answer.index, "finish_reason": answer.finish_reason, "logprobs": None, "rsd": told}

    def _chunk(self, choices: list[dict[str, Any]]) -> bytes:
        usage = {"usage": None} if self._usage else {}
        return event({**self._about, "object": self.chunk, "choices": choices, **usage})


class ChatForm(Choices):
    """Messages. A thought is `reasoning`, the name in vLLM and OpenRouter."""

    prefix = "chatcmpl-"
    kind = "chat.completion"
    chunk = "chat.completion.chunk"

    def __init__(self, model: str, *, trace: bool = False, usage: bool = False) -> None:
        super().__init__(model, trace=trace, usage=usage)
        self._begun: dict[int, int] = {}

    def content(self, answer: Answer) -> dict[str, Any]:
        whole = answer.whole
        content = None if whole.calls and not whole.content else whole.content
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if whole.thought:
            message["reasoning"] = whole.thought
        if whole.calls:
            message["tool_calls"] = [_call(call) for call in whole.calls]
        return {"message": message}

    def added(self, answer: Answer, delta: Delta) -> dict[str, Any]:
        told: dict[str, Any] = {}
        if answer.index not in self._begun:
            self._begun[answer.index] = 0
            told = {"role": "assistant", "content": ""}
        if delta.thought:
            told["reasoning"] = delta.thought
        if delta.content:
            told["content"] = delta.content
        if delta.calls:
            first = self._begun[answer.index]
            told["tool_calls"] = [{"index": first + i, **_call(call)} for i, call in enumerate(delta.calls)]
            self._begun[answer.index] += len(delta.calls)
        return {"delta": told}


class CompletionForm(Choices):
    """Texts."""

    prefix = "cmpl-"
    kind = chunk = "text_completion"

    def content(self, answer: Answer) -> dict[str, Any]:
        return self.added(answer, answer.whole)

    def added(self, answer: Answer, delta: Delta) -> dict[str, Any]:  # noqa: ARG002
        return {"text": delta.content, "logprobs": None, **({"reasoning": delta.thought} if delta.thought else {})}


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
