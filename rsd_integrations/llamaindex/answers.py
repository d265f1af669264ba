"""What a request looks like to LlamaIndex: responses, usage, step events, and the way back to the result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    MessageRole,
    TextBlock,
    ThinkingBlock,
)
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.span import active_span_id

from rsd_core import Event, Finished, Result, StepFinished, TextStream

_dispatcher = get_dispatcher(__name__)


class RSDStepEvent(BaseEvent):
    """A step became part of a response."""

    step: int
    """Its index, counted from 0."""
    kind: Literal["thought", "answer"]
    """What of the response it is part of."""
    author: Literal["draft", "target", "limit"]
    """Who wrote it; `limit` closed a thought that had used up its tokens."""
    reward: float | None
    """Reward of the drafted step, in [0, 1]; None where nothing was scored."""
    accepted: bool
    """Whether the draft was accepted; False for steps by the target."""
    text: str
    """As it was written, markers of thoughts included."""
    tokens: int
    """Tokens generated for the text."""
    discarded_draft: str | None
    """Text of the rejected draft, which nothing but this event tells."""

    @classmethod
    def class_name(cls) -> str:
        return "RSDStepEvent"


class Answer:
    """One request: a text that grows, steps that are told to LlamaIndex's instrumentation, and a result in the end."""

    def __init__(self, stop: Sequence[str]) -> None:
        self.thought = ""
        """What was thought before the answer."""
        self.text = ""
        """The answer."""
        self.delta = ""
        """What the last event added to the text."""
        self.thinking_delta = ""
        """What it added to the thought."""
        self.result: Result | None = None
        self._pieces = TextStream(stop)
        self._span = active_span_id.get()  # a stream outlives its call, and its steps belong to the call's span

    def feed(self, event: Event) -> bool:
        """Take an event in; whether there is anything new to give out."""
        if isinstance(event, StepFinished):
            record = event.record
            _dispatcher.event(
                RSDStepEvent(
                    span_id=self._span,
                    step=event.index,
                    kind=record.kind,
                    author=record.author,
                    reward=record.reward,
                    accepted=record.accepted,
                    text=record.text,
                    tokens=record.size,
                    discarded_draft=record.discarded_draft,
                )
            )
        elif isinstance(event, Finished):
            self.result = event.result
        pieces = self._pieces.feed_parts(event)
        self.delta = "".join(text for kind, text in pieces if kind == "answer")
        self.thinking_delta = "".join(text for kind, text in pieces if kind == "thought")
        self.text += self.delta
        self.thought += self.thinking_delta
        return bool(pieces) or self.result is not None

    def completion(self, delta: str | None = None) -> CompletionResponse:
        """The answer so far as a completion, with its thought in `additional_kwargs`."""
        response = CompletionResponse(text=self.text, delta=delta, **self._metadata(delta))
        if self.thought:
            response.additional_kwargs["thinking"] = self.thought
        return response

    def chat(self, delta: str | None = None) -> ChatResponse:
        """The answer so far as a message, with its thought as a block of its own.

        Its metadata belongs to the response: what a message carries goes into memories and later prompts.
        """
        thought = [ThinkingBlock(content=self.thought)] if self.thought else []
        message = ChatMessage(role=MessageRole.ASSISTANT, blocks=[*thought, TextBlock(text=self.text)])
        return ChatResponse(message=message, delta=delta, **self._metadata(delta))

    def _metadata(self, delta: str | None) -> dict[str, Any]:
        """Usage, where token counters look for it, and the trace, once the result is there; before, the new thought.

        Agents stream this to users along with the text, so it tells no rejected texts.
        """
        streamed = {} if delta is None or not self.thinking_delta else {"thinking_delta": self.thinking_delta}
        if self.result is None:
            return {"additional_kwargs": streamed}
        usage = _usage(self.result)
        reason = "stop" if self.result.finish_reason == "stop" else "length"
        raw = {"usage": usage, "finish_reason": reason, "rsd": self.result.to_dict(rejected=False)}
        return {"raw": raw, "additional_kwargs": dict(usage) | streamed}


def _usage(result: Result) -> dict[str, int]:
    """Tokens of all models together, rejected drafts and the verifier's reading included: what is paid for."""
    total = result.ledger.total
    return {
        "prompt_tokens": total.read,
        "completion_tokens": total.generated,
        "total_tokens": total.read + total.generated,
    }


class _HasRaw(Protocol):
    raw: Any


def result_of(response: _HasRaw) -> Result:
    """The full result behind a response of `RSDLLM` or an agent's output: steps, rewards, ledger, finish reason.

    Texts of rejected drafts are left out; `RSDStepEvent` has them.

    Raises:
        ValueError: The response comes from elsewhere, or from the middle of a stream, whose last one has the result.
    """
    raw = response.raw
    if not isinstance(raw, dict) or "rsd" not in raw:
        raise ValueError(
            f"this {type(response).__name__} holds no RSD trace: its raw has no 'rsd'. "
            "Pass a response of RSDLLM; of a stream, the last one."
        )
    return Result.from_dict(raw["rsd"])
