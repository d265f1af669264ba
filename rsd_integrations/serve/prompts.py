"""OpenAI messages as the core's prompts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rsd_core import Message, Prompt, as_prompt
from rsd_integrations.serve.errors import invalid, unsupported

_ROLES = {"developer": "system"}
_TEXT = frozenset({"text", "input_text", "output_text"})


def prompt_of(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None) -> Prompt:
    """The prompt for messages.

    Args:
        messages: Messages from clients; contents are texts, or lists of texts.
        tools: Definitions of what the models may call.

    Raises:
        ApiError: A message contains something other than text, or has no role.
        PromptError: There is nothing to answer.
    """
    told = [_message(message, f"messages[{i}]") for i, message in enumerate(messages)]
    defined = [Message("tools", json.dumps(list(tools), ensure_ascii=False))] if tools else []
    return as_prompt([*defined, *as_prompt(told)])


def _message(message: Mapping[str, Any], place: str) -> dict[str, Any]:
    role = message.get("role")
    if not isinstance(role, str):
        raise invalid(f"{place} has no role", place)
    role = _ROLES.get(role, role)
    if role not in ("system", "user", "assistant", "tool"):
        raise invalid(f"{place}: role {role!r:.40}; it must be system, developer, user, assistant or tool", place)
    told = {**message, "role": role, "content": text_of(message.get("content"), f"{place}.content")}
    if message.get("tool_calls"):
        told["tool_calls"] = _calls(message["tool_calls"], f"{place}.tool_calls")
    return told


def _calls(calls: Any, place: str) -> list[dict[str, Any]]:
    """A message's calls with arguments as data, as chat templates expect."""
    read = []
    try:
        for call in calls:
            function = call["function"]
            arguments = function.get("arguments") or "{}"
            arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
            json.dumps(arguments, ensure_ascii=False).encode()  # lone surrogates may have been escaped
            read.append({**call, "function": {**function, "name": str(function["name"]), "arguments": arguments}})
    except (TypeError, KeyError, AttributeError, ValueError, RecursionError) as error:
        raise invalid(f"{place} must be function calls with JSON arguments: {error}", place) from None
    return read


def text_of(content: Any, place: str) -> str:
    """The text of a message's content, with its parts concatenated.

    Raises:
        ApiError: It is neither a text nor a list of texts.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise invalid(f"{place} is {type(content).__name__}; it must be a text or a list of parts", place)
    texts = []
    for i, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "refusal":
            texts.append(str(part.get("refusal", "")))
        elif isinstance(kind, str) and kind in _TEXT and isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            raise unsupported(f"{place}[{i}]", f"the models read only text, but this part is {kind or part!r:.40}")
    return "".join(texts)
