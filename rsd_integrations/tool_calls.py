"""Tool calls: in a model's text, in the format of Hermes and Qwen chat templates, and in OpenAI-style messages.

Format of the text: model card of Qwen/Qwen2.5-7B-Instruct; `<tool_call>` and `</tool_call>` around a JSON object with
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
    """A unique id for a call that came without one."""
    return f"call_{uuid.uuid4().hex}"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call found in a text."""

    name: str | None
    """The tool; None if the call is not JSON, names no tool or has arguments that are not an object."""
    arguments: str
    """The arguments, a JSON object; if `name` is None, the call's whole text, tags included."""
    id: str = field(default_factory=new_id)
    """Generated, since texts have none."""


class ToolCallStream:
    """Splits streamed text into content and tool calls."""

    def __init__(self) -> None:
        self._buffer = ""
        self._after_call = False
        self.called = False
        """Whether there was a tool call, well-formed or not."""

    def feed(self, text: str, *, last: bool = False) -> tuple[str, list[ToolCall]]:
        """The content and the calls completed by another piece.

        Args:
            text: The piece.
            last: Whether the text ends with it, so that nothing is held back and an unclosed call counts.
        """
        content, calls = "", []
        for piece in self.pieces(text, last=last):
            if isinstance(piece, str):
                content += piece
            else:
                calls.append(piece)
        return content, calls

    def pieces(self, text: str, *, last: bool = False) -> Iterator[str | ToolCall]:
        """The same in text order; must be consumed to the end."""
        self._buffer += text
        return self._pieces(last)

    def _pieces(self, last: bool) -> Iterator[str | ToolCall]:
        while True:
            if self._after_call:  # white space after a call is not content, whichever piece contains it
                self._buffer = self._buffer.lstrip()
                self._after_call = not self._buffer
            before, opened, rest = self._buffer.partition(_OPEN)
            if not opened:
                # White space and the beginning of a tag wait: a call may follow, and white space before it is not
                # content.
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
    """The text of a malformed call as the arguments of an invalid one, so that it cannot pass for JSON."""
    return _OPEN + text


def _settled(text: str) -> str:
    """The text up to anything that could begin a tool call."""
    for n in range(min(len(_OPEN) - 1, len(text)), 0, -1):
        if text.endswith(_OPEN[:n]):
            return text[:-n].rstrip()
    return text.rstrip()


def sees_tools(model: Model, granularity: str) -> bool:
    """Whether a model sees a prompt's tools when it writes steps, or turns."""
    return model.renders_tools is True or model.renders_tools == granularity


def tools_of(prompt: Prompt) -> list[Any]:
    """The definitions of the tools in a prompt."""
    return [tool for message in prompt if message.role == "tools" for tool in json.loads(message.content)]


def as_text(content: str, calls: Iterable[tuple[str, Any]]) -> str:
    """A message as one text, for models that read only text: its content, and its calls in the format above.

    Args:
        content: The message's own text.
        calls: Name and arguments of each call.
    """
    written = (json.dumps({"name": name, "arguments": arguments}) for name, arguments in calls)
    return "\n".join(filter(None, [content, *(f"{_OPEN}\n{call}\n{_CLOSE}" for call in written)]))


def broken_as_text(name: str | None, arguments: str) -> str:
    """A malformed call in the format above: as far as it was written, or verbatim if it names no tool."""
    if name is None:
        return arguments
    return f'{_OPEN}\n{{"name": {json.dumps(name)}, "arguments": {arguments}\n{_CLOSE}'


def with_text(calls: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A message's calls with arguments as text, as servers expect them."""
    return [
        _with_arguments(call, lambda value: value if isinstance(value, str) else json.dumps(value)) for call in calls
    ]


def with_objects(calls: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A message's calls with arguments as objects, as chat templates expect them; invalid JSON stays text."""
    return [_with_arguments(call, parsed) for call in calls]


def parsed(arguments: Any) -> Any:
    """The arguments of a call as an object; anything but a JSON object is returned unchanged."""
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
