"""Tool calls: in a model's text, in the form of Hermes and Qwen chat templates, and in messages of the OpenAI form.

Form of the text: model card of Qwen/Qwen2.5-7B-Instruct; `<tool_call>` and `</tool_call>` around a JSON object with
`name` and `arguments`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from rsd_core import Model, Prompt

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


def new_id() -> str:
    """An id for a call that came without one; no other call has it."""
    return f"call_{uuid.uuid4().hex}"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call as it stands in a text."""

    name: str | None
    """Which tool; None where the call is no JSON, names none or has arguments that are no object."""
    arguments: str
    """What the tool is called with, a JSON object; all of the call's text, its marks included, where `name` is None."""
    id: str = field(default_factory=new_id)
    """Made up: texts have none."""


class ToolCallStream:
    """Splits a text that comes piece by piece into content and tool calls."""

    def __init__(self) -> None:
        self._buffer = ""
        self._after_call = False
        self.called = False
        """Whether there was a tool call, well-formed or not."""

    def feed(self, text: str, *, last: bool = False) -> tuple[str, list[ToolCall]]:
        """The content and the calls that a further piece settles.

        Args:
            text: The piece.
            last: Whether the text ends with it, so that nothing is held back and an open call is one.
        """
        content, calls = "", []
        for piece in self.pieces(text, last=last):
            if isinstance(piece, str):
                content += piece
            else:
                calls.append(piece)
        return content, calls

    def pieces(self, text: str, *, last: bool = False) -> Iterator[str | ToolCall]:
        """The same in the order of the text; to be read to its end."""
        self._buffer += text
        return self._pieces(last)

    def _pieces(self, last: bool) -> Iterator[str | ToolCall]:
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
            body, closed, after = rest.partition(_CLOSE)
            if not closed and not last:
                yield _settled(before)
                self._buffer = self._buffer[len(_settled(before)) :]
                return
            self.called, call = True, _call(body, closed)
            yield before.rstrip() if call.name else before
            yield call
            self._buffer, self._after_call = after, call.name is not None


def _call(body: str, closed: str) -> ToolCall:
    try:
        data = json.loads(body)
        name, arguments = data["name"], data.get("arguments")
        given = parsed({} if arguments in (None, "") else arguments)
        if not isinstance(name, str) or not name or not isinstance(given, dict):
            raise TypeError
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return ToolCall(None, _OPEN + body + closed)
    written = arguments if isinstance(arguments, str) and arguments else json.dumps(given, ensure_ascii=False)
    return ToolCall(name, written)


def as_invalid(text: str) -> str:
    """A text that was to be a call and is none, as the arguments of an invalid one: nobody takes it for JSON."""
    return _OPEN + text


def _settled(text: str) -> str:
    """The text up to what could be the beginning of a tool call."""
    for n in range(min(len(_OPEN) - 1, len(text)), 0, -1):
        if text.endswith(_OPEN[:n]):
            return text[:-n].rstrip()
    return text.rstrip()


def sees_tools(model: Model, granularity: str) -> bool:
    """Whether a model is shown a prompt's tools where it writes steps, or turns."""
    return model.renders_tools is True or model.renders_tools == granularity


def tools_of(prompt: Prompt) -> list[Any]:
    """The definitions of the tools that a prompt lets a model call."""
    return [tool for message in prompt if message.role == "tools" for tool in json.loads(message.content)]


def as_text(content: str, calls: Iterable[tuple[str, Any]]) -> str:
    """A message in one text, for those who read nothing else: its content, and its calls in the form above.

    Args:
        content: The message's own text.
        calls: Name and arguments of each call.
    """
    written = (json.dumps({"name": name, "arguments": arguments}) for name, arguments in calls)
    return "\n".join(filter(None, [content, *(f"{_OPEN}\n{call}\n{_CLOSE}" for call in written)]))


def broken_as_text(name: str | None, arguments: str) -> str:
    """A call that is none, in the form above: as far as it was written, or as it stands where it names no tool."""
    if name is None:
        return arguments
    return f'{_OPEN}\n{{"name": {json.dumps(name)}, "arguments": {arguments}\n{_CLOSE}'


def with_text(calls: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A message's calls with arguments as text, which is how servers take them."""
    return [
        _with_arguments(call, lambda value: value if isinstance(value, str) else json.dumps(value)) for call in calls
    ]


def with_objects(calls: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A message's calls with arguments as objects, as chat templates take them; what is no JSON stays text."""
    return [_with_arguments(call, parsed) for call in calls]


def parsed(arguments: Any) -> Any:
    """The arguments of a call as an object; what is no JSON object stays as it is."""
    if isinstance(arguments, str):
        with suppress(ValueError, RecursionError):
            value = json.loads(arguments)
            return value if isinstance(value, dict) else arguments
    return arguments


def _with_arguments(call: Mapping[str, Any], changed: Callable[[Any], Any]) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, Mapping) or "arguments" not in function:
        return dict(call)
    return {**call, "function": {**function, "arguments": changed(function["arguments"])}}
