"""One growing answer: from a decoder's events to what clients are sent, on any route."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rsd_core import Event, Finished, Result, StepFinished, TextStream
from rsd_core.stopping import stops_at
from rsd_integrations.answer_forms import AnswerForm
from rsd_integrations.tool_calls import ToolCall, ToolCallStream, new_id


@dataclass(slots=True)
class Delta:
    """What a step adds to an answer."""

    thought: str = ""
    content: str = ""
    calls: list[ToolCall] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.thought or self.content or self.calls)


NOTHING = Delta()
"""The delta of events without a step."""


class Answer:
    """The answer of one choice. Only accepted text enters it, so rejected text cannot leak out.

    Args:
        index: Index of the choice.
        stop: The answer ends before the first of these strings.
        tools: Whether the models may call tools.
        form: Its required form, if any.
    """

    def __init__(
        self, index: int, stop: Sequence[str] = (), *, tools: bool = False, form: AnswerForm | None = None
    ) -> None:
        self.index = index
        self.whole = Delta()
        """The text so far."""
        self.result: Result | None = None
        self._stop = stop
        self._text = TextStream(stop if form is None else ())
        self._calls = (ToolCallStream() if tools else None) if form is None else form.stream()
        self._is_native = False

    def feed(self, event: Event) -> Delta:
        """The delta of an event; empty for most events."""
        if isinstance(event, Finished):
            self.result = event.result
        elif not isinstance(event, StepFinished):
            return NOTHING
        delta = Delta()
        if isinstance(event, StepFinished) and event.record.native is not None:
            self._is_native = True
            calls = list(_native_calls(event.record.native))
            content = event.record.content if not calls else _native_text(event.record.native)
            delta = Delta(event.record.thought, content[: stops_at(content, self._stop)], calls)
        elif not self._is_native:
            for kind, text in self._text.feed_parts(event):
                if kind == "thought":
                    delta.thought += text
                else:
                    delta.content += text
            if self._calls is not None and (delta.content or self.result is not None):
                text, delta.content = delta.content, ""
                for piece in self._calls.pieces(text, last=self.result is not None):
                    if isinstance(piece, str):
                        delta.content += piece
                    elif piece.name is None:  # not a call: text
                        delta.content += piece.arguments
                    else:
                        delta.calls.append(piece)
        self.whole.thought += delta.thought
        self.whole.content += delta.content
        self.whole.calls += delta.calls
        return delta

    @property
    def finish_reason(self) -> str:
        """The OpenAI finish reason; `rsd.finish_reason` has the exact one."""
        if self.whole.calls:
            return "tool_calls"
        return "stop" if self.result is not None and self.result.finish_reason == "stop" else "length"


def about(result: Result, *, trace: bool) -> dict[str, Any]:
    """What is reported about an answer besides its text.

    Args:
        result: The answer's.
        trace: Whether to include all steps.
    """
    told: dict[str, Any] = {
        "finish_reason": result.finish_reason,
        "steps": len(result.steps),
        "acceptance_rate": result.acceptance_rate,
        "target_share": result.target_share,
        "seconds": result.seconds,
        "degradations": [{"step": one.step, "kind": one.kind, "message": one.message} for one in result.degradations],
    }
    return told | {"trace": result.to_dict(rejected=False)} if trace else told


def usage_of(answered: Iterable[Sequence[Result]]) -> dict[str, Any]:
    """Token counts as clients expect them, and under `rsd` the cost of all three roles.

    Clients expect the answer's own tokens: rejected drafts and the verifier's reading appear only under `rsd`.

    Args:
        answered: The results by prompt, which is counted once for all of its answers.
    """
    by_prompt = list(answered)
    results = [result for own in by_prompt for result in own]
    # 0 if an answer was cut before its prompt was read
    prompt = sum(max((result.prompt_tokens for result in own), default=0) for own in by_prompt)
    written = sum(step.size for result in results for step in result.steps)
    thought = sum(step.size for result in results for step in result.steps if step.kind == "thought")
    bill: dict[str, dict[str, Any]] = {}
    for result in results:
        ledger = result.ledger
        for role, account in (
            ("drafter", ledger.drafter),
            ("verifier", ledger.verifier),
            ("target", ledger.target),
            ("total", ledger.total),
        ):
            own = bill.setdefault(role, {})
            for name in _BILLED:
                spent = getattr(account, name)
                known = spent is not None and own.get(name, 0) is not None
                own[name] = own.get(name, 0) + spent if known else None
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "completion_tokens_details": {"reasoning_tokens": thought},
        "rsd": bill,
    }


_BILLED = (
    *("calls", "failed", "computed", "reused", "generated", "scored", "discarded", "estimated"),
    *("seconds", "flops", "cost"),
)


def _native_calls(native: object) -> Iterable[ToolCall]:
    """The tool calls of a whole message: as the OpenAI API has them, or as LangChain does."""
    if isinstance(native, Mapping):
        for call in native.get("tool_calls") or ():
            yield ToolCall(call["function"]["name"], call["function"]["arguments"], call["id"])
        return
    for call in getattr(native, "tool_calls", ()):
        yield ToolCall(call["name"], json.dumps(call["args"], ensure_ascii=False), call["id"] or new_id())


def _native_text(native: object) -> str:
    if isinstance(native, Mapping):
        return native.get("content") or ""
    return str(getattr(native, "text", ""))
