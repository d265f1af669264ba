"""Requests as LlamaIndex sees them: responses, usage, step events, and the conversion back to a result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.span import active_span_id
from pydantic_core import to_jsonable_python

from rsd_core import Event, Finished, Result, StepFinished, TextStream, split
from rsd_core.stopping import stops_at
from rsd_integrations import tool_calls
from rsd_integrations.llamaindex.bill import errors_are_charged, open_bills
from rsd_integrations.llamaindex.messages import originals, thought_of
from rsd_integrations.llamaindex.replies import as_asked, usage_of_response
from rsd_integrations.provider_errors import late, providers_types

_dispatcher = get_dispatcher(__name__)


class RSDStepEvent(BaseEvent):
    """A step became part of a response."""

    step: int
    """Its index, counted from 0."""
    kind: Literal["thought", "answer"]
    """The part of the response it belongs to."""
    author: Literal["draft", "target", "limit"]
    """Who wrote it; `limit` closed a thought at its token limit."""
    reward: float | None
    """Reward of the drafted step, in [0, 1]; None if it was not scored."""
    accepted: bool
    """Whether the draft was accepted; False for steps by the target."""
    text: str
    """The text as written, thought markers included."""
    tokens: int
    """Tokens generated for the text."""
    discarded_draft: str | None
    """Text of the rejected draft, which only this event contains."""

    @classmethod
    def class_name(cls) -> str:
        return "RSDStepEvent"


class Answer:
    """One request: a growing text, steps reported to LlamaIndex's instrumentation, and finally a result.

    Args:
        stop: Strings that end the answer.
        tools: Whether a text may contain tool calls.
        single: Whether only the first of them may be executed.
    """

    def __init__(self, stop: Sequence[str], *, tools: bool = False, single: bool = False) -> None:
        self.stop, self._single = stop, single
        self.thought = ""
        """The thought before the answer."""
        self.text = ""
        """The answer."""
        self.delta = ""
        """The text added by the last event."""
        self.thinking_delta = ""
        """The thought added by the last event."""
        self.result: Result | None = None
        self._native: ChatResponse | None = None
        """The response of the LlamaIndex model that wrote the answer."""
        self._message: ChatMessage | None = None
        """Its message, as the answer."""
        self._blocks: list[Any] = []
        """Blocks of the answer besides thought and text."""
        self._invalid: list[dict[str, str | None]] = []
        """Invalid calls."""
        self._pieces = TextStream(stop)
        self._calls = tool_calls.ToolCallStream() if tools else None
        self._bills = open_bills()
        self._span = active_span_id.get()  # a stream outlives its call, and its steps belong to the call's span

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Charge a failed request, and give its error the provider's type as well."""
        with providers_types(), errors_are_charged(self._bills):
            yield

    def feed(self, event: Event) -> bool:
        """Process an event; return whether there is new output.

        Raises:
            AnswerTimeoutError: The request timed out before anything was written.
        """
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
            if isinstance(record.native, ChatResponse):
                self._take(record.native)
                return True
        elif isinstance(event, Finished):
            if error := late(event.result):
                raise error
            self.result = event.result
            for bill in self._bills:
                bill.add(event.result)
        if self._message is not None:
            self.delta = self.thinking_delta = ""
            return self.result is not None
        pieces = self._pieces.feed_parts(event)
        self.delta = "".join(text for kind, text in pieces if kind == "answer")
        self.thinking_delta = "".join(text for kind, text in pieces if kind == "thought")
        if self._calls is not None:
            self.delta, calls = self._calls.feed(self.delta, last=self.result is not None)
            for call in calls:
                self._add_call(call)
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
        """The answer so far as a message, with its thought as a separate block.

        Metadata goes into the response, since a message's data enters memories and later prompts.
        """
        message = self._message or self._made_of(self._blocks)
        return ChatResponse(message=message, delta=delta, **self._metadata(delta))

    def _take(self, native: ChatResponse) -> None:
        """Use the response of a LlamaIndex model: its message unchanged, unless it is cut at a stop string.

        A marked thought in its text becomes a separate block.
        """
        message, self._invalid = as_asked(native)
        self.text, self.thought, self._native = message.content or "", thought_of(message), native
        parts, at = split(self.text), stops_at(self.text, self.stop)
        if at is None and parts.answer == self.text:
            self._message = message
        else:
            self.thought, self.text = self.thought or parts.thought, parts.answer
            at = stops_at(self.text, self.stop)
            self.text = self.text[:at]
            self._message = self._made_of(
                block for block in message.blocks if at is None and not isinstance(block, TextBlock | ThinkingBlock)
            )
        self.delta, self.thinking_delta = self.text, self.thought

    def _made_of(self, others: Iterable[Any]) -> ChatMessage:
        others = list(others)
        thought = [ThinkingBlock(content=self.thought)] if self.thought else []
        text = [TextBlock(text=self.text)] if self.text or not others else []
        return ChatMessage(role=MessageRole.ASSISTANT, blocks=[*thought, *text, *others])

    def _add_call(self, call: tool_calls.ToolCall) -> None:
        arguments = tool_calls.parsed(call.arguments)
        if call.name is None or not isinstance(arguments, dict) or (self._single and self._blocks):
            self._invalid.append({"name": call.name, "args": call.arguments, "id": call.id})
        else:
            self._blocks.append(ToolCallBlock(tool_call_id=call.id, tool_name=call.name, tool_kwargs=arguments))

    def _metadata(self, delta: str | None) -> dict[str, Any]:
        """Usage, where token counters look for it, and the trace, once the result exists; before that, the new thought.

        Agents stream this to users along with the text, so it contains no rejected texts.
        """
        told: dict[str, Any] = {}
        if delta is not None and self.thinking_delta:
            told["thinking_delta"] = self.thinking_delta
        if self._invalid:
            told["invalid_tool_calls"] = self._invalid
        if self.result is None:
            return {"additional_kwargs": told}
        usage = self._usage(self.result)
        blocks = self._blocks if self._message is None else self._message.blocks
        called = any(isinstance(block, ToolCallBlock) for block in blocks)
        reason = "stop" if self.result.finish_reason == "stop" else "length"
        raw = {"usage": usage, "finish_reason": "tool_calls" if called and reason == "stop" else reason}
        raw["rsd"] = self.result.to_dict(rejected=False)
        if self._native is None:
            return {"raw": raw, "additional_kwargs": usage | told}
        raw["inner"] = to_jsonable_python(self._native.raw, fallback=repr)
        return {"raw": raw, "additional_kwargs": {**self._native.additional_kwargs, **usage, **told}}

    def _usage(self, result: Result) -> dict[str, int]:
        """Tokens of the answer's own call: the prompt as read by the last model, and the answer so far.

        The tokens of all models, including rejected drafts, are in the trace's ledger.
        """
        read, wrote = result.prompt_tokens, sum(step.size for step in result.steps)
        if self._native is not None:
            read = usage_of_response(self._native, originals(result.prompt), 0).prefix
        return {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote}


class _HasRaw(Protocol):
    raw: Any


def result_of(response: _HasRaw) -> Result:
    """The full result behind a response of `RSDLLM` or an agent's output: steps, rewards, ledger, finish reason.

    Texts of rejected drafts are omitted; `RSDStepEvent` has them.

    Raises:
        ValueError: The response is from another source, or from the middle of a stream; the last one has the result.
    """
    raw = response.raw
    if not isinstance(raw, dict) or "rsd" not in raw:
        raise ValueError(
            f"this {type(response).__name__} contains no RSD trace: its raw has no 'rsd'. Pass a response from "
            "RSDLLM; for a stream, the last one."
        )
    return Result.from_dict(raw["rsd"])
