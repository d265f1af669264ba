"""Replies with tool calls: as OpenAI-style messages, and as text for models that read only text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rsd_core import ConfigurationError, RunError, split
from rsd_core.thoughts.markers import Markers
from rsd_integrations.openai_compatible.finish_reasons import is_call
from rsd_integrations.openai_compatible.profile import Profile
from rsd_integrations.openai_compatible.written import FIELDS, Written, told
from rsd_integrations.tool_calls import as_text, new_id, parsed


@dataclass(frozen=True, slots=True)
class Called:
    """A choice with tool calls."""

    message: Mapping[str, Any]
    """The assistant's message: no thoughts in its text, arguments as text, an id for each call."""
    choice: Mapping[str, Any]
    """The choice without tool calls: they are in its text, as Hermes and Qwen templates write them."""


def called(choice: Mapping[str, Any], profile: Profile, markers: Markers) -> Called | None:
    """The tool calls of a choice; None if there are none.

    Args:
        choice: The choice in a complete reply to a request for a turn.
        profile: The server's.
        markers: The markers around the thoughts of the response.

    Raises:
        RunError: It says that a tool was called but contains no call, or a call has no name.
        ConfigurationError: It calls something other than a function.
    """
    ends = is_call(choice.get("finish_reason"))
    message = choice.get("message") or {}
    calls = [_normalised(call) for call in message.get("tool_calls") or ()]
    if not calls:
        if ends:
            raise RunError(f"the finish reason is {choice['finish_reason']!r}, but the message has no tool_calls")
        return None
    thought, content = told(choice)
    written = Written(profile, markers=markers)
    written.add(choice)
    shown = split(written.text(), markers).answer.strip()
    kept = {name: value for name, value in message.items() if value is not None}
    functions = [call["function"] for call in calls]
    text = as_text(
        content if content.strip() else "",
        [(function["name"], parsed(function["arguments"])) for function in functions],
    )
    as_read = {"content": text, **({FIELDS[0]: thought} if thought else {})}
    return Called(
        {**kept, "role": "assistant", "content": shown or None, "tool_calls": calls},
        {**choice, "message": as_read, **({"finish_reason": "stop"} if ends else {})},
    )


def refuse_text(server: object, asked: Mapping[str, Any]) -> None:
    """Refuse an answer without a call if `tool_choice` required one.

    llama.cpp's server (build 11549) may silently write text although a call is required.

    Raises:
        ConfigurationError: A call was required.
    """
    choice = asked.get("tool_choice", "auto")
    if choice not in ("auto", "none"):
        raise ConfigurationError(
            f"{server} was asked to call a tool (tool_choice={json.dumps(choice)}) but wrote text: it ignores the "
            "field. Remove tool_choice, or use a server that honours it"
        )


def _normalised(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call as in the OpenAI API: some servers send arguments as objects, or omit the id."""
    kind = call.get("type") or "function"
    if kind != "function":
        raise ConfigurationError(f"the model called a tool of the type {kind!r:.40}; only functions can be called")
    function = call["function"]
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(name, str) or not name:
        raise RunError("a tool call names no function")
    text = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
    text = "{}" if text.strip() in ("", "null") else text  # vLLM sends null if its parser finds none
    function = {**function, "name": name, "arguments": text}
    return {**call, "id": call.get("id") or new_id(), "type": kind, "function": function}
