"""Converts requests to /v1/responses into chat requests.

Form: OpenAI's API reference, "Create a model response". Conversations must be sent whole, as items, since nothing is
stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rsd_integrations.serve.errors import ApiError, invalid, unsupported
from rsd_integrations.serve.prompts import text_of
from rsd_integrations.serve.requests import ChatRequest, ResponsesRequest

_FUNCTION = ("name", "description", "parameters", "strict")
_LOGPROBS = "message.output_text.logprobs"


def as_chat(asked: ResponsesRequest) -> ChatRequest:
    """The equivalent chat request.

    Raises:
        ApiError: It contains something that cannot be honoured, or an invalid item.
    """
    reasoning = _only(asked.reasoning, "reasoning", ("effort", "summary", "generate_summary"))
    text = _only(asked.text, "text", ("format", "verbosity"))
    if asked.truncation == "auto":
        raise unsupported("truncation", "conversations are not truncated; use disabled")
    if _LOGPROBS in (asked.include or ()):
        raise unsupported("include", f"{_LOGPROBS}: an answer is a mixture of two models' steps, which has none")
    return ChatRequest(
        model=asked.model,
        messages=_messages(asked.instructions, asked.input),
        max_completion_tokens=asked.max_output_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        top_k=asked.top_k,
        seed=asked.seed,
        stream=asked.stream,
        tools=[_tool(tool, f"tools[{i}]") for i, tool in enumerate(asked.tools or ())] or None,
        tool_choice=_choice(asked.tool_choice),
        parallel_tool_calls=asked.parallel_tool_calls,
        response_format=_format(text.get("format")),
        reasoning_effort=reasoning.get("effort") or asked.reasoning_effort,
        chat_template_kwargs=asked.chat_template_kwargs,
        rsd=asked.rsd,
    )


def _only(given: Mapping[str, Any] | None, place: str, known: Sequence[str]) -> Mapping[str, Any]:
    for name, value in (given or {}).items():
        if name not in known and value is not None:
            raise unsupported(f"{place}.{name}", f"in {place}, only {' and '.join(known[:2])} are accepted")
    return given or {}


def _messages(instructions: str | None, given: str | Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = [{"role": "system", "content": instructions}] if instructions else []
    if isinstance(given, str):
        return [*told, {"role": "user", "content": given}]
    for i, item in enumerate(given):
        _add(told, item, f"input[{i}]")
    if not told:
        raise invalid("input contains no message", "input")
    return told


def _add(told: list[dict[str, Any]], item: Mapping[str, Any], place: str) -> None:
    """Add an item; an assistant's consecutive thoughts, texts and calls form one message."""
    kind = item.get("type") or "message"
    if kind == "message" and item.get("role") == "assistant":
        _assistant(told, "content", "tool_calls")["content"] = text_of(item.get("content"), f"{place}.content")
    elif kind == "message":
        if item.get("role") not in ("user", "system", "developer"):
            raise invalid(
                f"{place}: role {item.get('role')!r:.40}; it is one of user, assistant, system, developer", place
            )
        told.append({"role": item["role"], "content": text_of(item.get("content"), f"{place}.content")})
    elif kind == "reasoning":
        if thought := _thought(item, place):
            _assistant(told, "content", "tool_calls", "reasoning_content")["reasoning_content"] = thought
    elif kind == "function_call":
        function = {"name": _named(item, "name", place), "arguments": item.get("arguments") or "{}"}
        call = {"id": _named(item, "call_id", place), "type": "function", "function": function}
        _assistant(told).setdefault("tool_calls", []).append(call)
    elif kind == "function_call_output":
        output = text_of(item.get("output"), f"{place}.output")
        told.append({"role": "tool", "tool_call_id": _named(item, "call_id", place), "content": output})
    else:
        raise _unknown(kind, place)


def _assistant(told: list[dict[str, Any]], *without: str) -> dict[str, Any]:
    """The assistant message being assembled; a new one if it already has this part."""
    if not told or told[-1]["role"] != "assistant" or any(told[-1].get(name) for name in without):
        told.append({"role": "assistant", "content": ""})
    return told[-1]


def _thought(item: Mapping[str, Any], place: str) -> str:
    parts = item.get("content") or item.get("summary") or ()
    try:
        return "\n\n".join(part["text"] for part in parts)
    except (TypeError, KeyError):
        raise invalid(f"{place}: the parts of a thought must be texts", place) from None


def _named(item: Mapping[str, Any], name: str, place: str) -> str:
    value = item.get(name)
    if not isinstance(value, str) or not value:
        raise invalid(f"{place}.{name} is missing", f"{place}.{name}")
    return value


def _unknown(kind: object, place: str) -> ApiError:
    if kind == "item_reference":
        return unsupported(place, "this server stores nothing to refer to; send the item itself")
    return unsupported(place, f"the models read messages and function calls, but this item is {kind!r:.60}")


def _tool(tool: Mapping[str, Any], place: str) -> dict[str, Any]:
    if tool.get("type") != "function":
        raise unsupported(place, f"only functions, which the client runs, can be called, not {tool.get('type')!r:.60}")
    _named(tool, "name", place)
    return {"type": "function", "function": {name: tool[name] for name in _FUNCTION if tool.get(name) is not None}}


def _choice(choice: str | Mapping[str, Any] | None) -> str | dict[str, Any] | None:
    if choice is None or isinstance(choice, str):
        return choice
    if choice.get("type") != "function":
        raise unsupported("tool_choice", "it must be auto, none, required, or one function by name")
    return {"type": "function", "function": {"name": _named(choice, "name", "tool_choice")}}


def _format(asked: Any) -> dict[str, Any] | None:
    if asked is None:
        return None
    if not isinstance(asked, Mapping):
        raise invalid("text.format must be an object", "text.format")
    if asked.get("type") != "json_schema":
        return dict(asked)
    return {"type": "json_schema", "json_schema": {name: value for name, value in asked.items() if name != "type"}}
