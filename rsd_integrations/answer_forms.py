"""The required form of an answer after reasoning in steps: JSON that follows a schema, a tool call, or either.

The fields are those of OpenAI's API, "Create chat completion": `tools`, `tool_choice` and `response_format`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rsd_core import ConfigurationError, Decoder, StructuredDecoder
from rsd_core.data import unknown
from rsd_core.structured import ASK
from rsd_integrations.chat_fields import schema_of
from rsd_integrations.tool_calls import ToolCall, ToolCallStream, as_invalid

_CALL = "Now call {which}: write its name and its arguments as JSON by this schema, and nothing else:\n{{schema}}"
_EITHER = (
    "Now either call one of the tools, or give the answer: write the tool's name and its arguments, or the answer, as "
    "JSON by this schema, and nothing else:\n{schema}"
)
_ANSWER, _DEFINED = "answer", "_answer"


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """The required form of one request's answer."""

    schema: Mapping[str, Any]
    ask: str
    """The instruction after the reasoning, containing `{schema}`."""
    name: str = "answer"
    calls: bool = False
    """Whether a tool may be called."""
    answers: bool = True
    """Whether a plain answer is allowed; otherwise a call is forced."""

    def decoder(self, decoder: Decoder) -> StructuredDecoder:
        """A decoder that answers in this form after reasoning as another one does.

        Raises:
            ConfigurationError: Its models cannot write this form.
        """
        try:
            return StructuredDecoder(decoder, self.schema, name=self.name, ask=self.ask)
        except ConfigurationError as error:
            what = "structured output" if self.answers else "a forced call of a tool"
            raise ConfigurationError(f"{what} cannot be honoured: {error}") from error

    def stream(self) -> ToolCallStream | None:
        """A reader of the calls in the JSON; None if there are none and the JSON is the answer."""
        return _Calls(self) if self.calls else None


def form_of(
    tools: Sequence[Mapping[str, Any]] = (),
    tool_choice: str | bool | Mapping[str, Any] | None = None,
    response_format: Mapping[str, Any] | None = None,
    parallel_tool_calls: bool | None = None,
) -> AnswerForm | None:
    """The form of an answer; None for text, in which the models may call tools freely.

    Args:
        tools: The tools that may be called.
        tool_choice: `required` (`any`, true) or a tool, by name or in OpenAI's format, forces one call.
        response_format: The form of the answer if no call is forced.
        parallel_tool_calls: False allows at most one call.

    Raises:
        ConfigurationError: There is no such tool, or a value is invalid.
    """
    schema = None if response_format is None else schema_of(response_format)
    forced = _chosen(tools, tool_choice)
    if forced:
        calls = [_call(tool) for tool in forced]
        which = f"the tool {_function(forced[0])['name']}" if len(forced) == 1 else "one of the tools"
        return AnswerForm(_one_of(calls), _CALL.format(which=which), "call", calls=True, answers=False)
    free = list(tools) if tool_choice != "none" else []
    if schema is None:
        if free and parallel_tool_calls is False:
            raise ConfigurationError(
                "parallel_tool_calls=False cannot be honoured in steps: models may write any number of calls; force "
                "one with tool_choice"
            )
        return None
    named = (response_format or {}).get("json_schema", {}).get("name")
    name = named if isinstance(named, str) and named else "answer"
    if not free:
        return AnswerForm(schema, ASK, name)
    given = {"type": "object", "properties": {_ANSWER: schema}, "required": [_ANSWER], "additionalProperties": False}
    return AnswerForm(_one_of([*map(_call, free), _apart(given, _DEFINED)]), _EITHER, name, calls=True)


class _Calls(ToolCallStream):
    """Reads the JSON of a form as a call or an answer."""

    def __init__(self, form: AnswerForm) -> None:
        super().__init__()
        self._form = form

    def pieces(self, text: str, *, last: bool = False) -> Iterator[str | ToolCall]:
        self._buffer += text
        try:
            data = json.loads(self._buffer)
        except (ValueError, RecursionError):
            if last and self._buffer:  # cut off: not a call, and must not pass for one
                written, self._buffer = self._buffer, ""
                self.called = not self._form.answers
                yield written if self._form.answers else ToolCall(None, as_invalid(written))
            return
        self._buffer = ""
        if self._form.answers and data.keys() == {_ANSWER}:
            yield json.dumps(data[_ANSWER], ensure_ascii=False)
        else:
            self.called = True
            yield ToolCall(data["name"], json.dumps(data["arguments"], ensure_ascii=False))


def _chosen(
    tools: Sequence[Mapping[str, Any]], choice: str | bool | Mapping[str, Any] | None
) -> Sequence[Mapping[str, Any]]:
    """The tools of which one must be called; none if the models decide."""
    if choice in (None, False, "auto", "none"):
        return ()
    if not tools:
        raise ConfigurationError(f"tool_choice={choice!r:.80} without tools: give tools, or omit it")
    if choice in (True, "any", "required"):
        return tools
    named = choice.get("function", choice) if isinstance(choice, Mapping) else {"name": choice}
    name = named.get("name") if isinstance(named, Mapping) else None
    if not isinstance(name, str):
        raise ConfigurationError(f"tool_choice takes auto, none, required, any or a tool (got {choice!r:.80})")
    by_name = {_function(tool)["name"]: tool for tool in tools}
    if name not in by_name:
        raise ConfigurationError(f"tool_choice: {unknown('tool', name, by_name)}")
    return [by_name[name]]


def _function(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    function = tool.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ConfigurationError(f'a tool is {{"type": "function", "function": {{"name": …}}}} (got {tool!r:.80})')
    return function


def _call(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of a tool call."""
    function = _function(tool)
    arguments = function.get("parameters") or {"type": "object", "properties": {}}
    told = {"description": function["description"]} if function.get("description") else {}
    schema = {
        "type": "object",
        **told,
        "properties": {"name": {"const": function["name"]}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }
    return _apart(schema, function["name"])


def _apart(schema: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Moves a part's own definitions to where its references find them."""
    key = "arguments" if "arguments" in schema["properties"] else _ANSWER
    part = schema["properties"][key]
    if '"$ref"' not in json.dumps(part):
        return schema
    moved = _moved(part, f"#/$defs/{name}")
    properties = {**schema["properties"], key: {"$ref": f"#/$defs/{name}"}}
    return {**schema, "properties": properties, "$defs": {name: moved}}


def _moved(node: Any, to: str) -> Any:
    if isinstance(node, Mapping):
        return {
            name: to + part[1:]
            if name == "$ref" and isinstance(part, str) and part.startswith("#")
            else _moved(part, to)
            for name, part in node.items()
        }
    return [_moved(part, to) for part in node] if isinstance(node, list) else node


def _one_of(schemas: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """A schema that allows any of several, with all definitions at its root."""
    definitions = {name: part for schema in schemas for name, part in schema.get("$defs", {}).items()}
    bare = [{name: part for name, part in schema.items() if name != "$defs"} for schema in schemas]
    root = bare[0] if len(bare) == 1 else {"anyOf": bare}
    return {**root, "$defs": definitions} if definitions else root
