"""Refused requests: which field the server named, and which of our options fixes it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from rsd_integrations.chat_fields import EFFORT, TEMPLATE, TURN_FIELDS
from rsd_integrations.openai_compatible.errors import CAPS

_THOUGHTS = ("reasoning_content", "reasoning")
_CONTINUES = ("continue_final_message", "add_generation_prompt", "prefix")
_NO_IDS = "Unmapped prompt format"
NO_MONEY = "the account has no credit left, or has reached its limit: see its plan and billing at the provider"
FILTERED = frozenset({"content_filter", "content_policy_violation", "data_inspection_failed", "invalid_prompt"})
"""Error codes with which a filter rejects a prompt: those of Azure, OpenAI and Alibaba."""
_NO_PARSER = "--tool-call-parser"


def remedy_of_fault(reason: str) -> str | None:
    """The remedy if a server reports as its own fault (HTTP 500) what it never accepts; None for real faults."""
    if _NO_IDS in reason:  # LiteLLM's
        return (
            "this route of the gateway accepts no token ids. LiteLLM's provider text-completion-openai does; or "
            "remove profile=…, so that text is sent"
        )
    return None


def remedy_of_size(reason: str) -> str | None:
    """The remedy if OpenAI answers HTTP 429 to a request that alone exceeds a minute's tokens; else None."""
    if reason.startswith("Request too large"):
        return "request fewer tokens (settings.max_step_tokens, a shorter prompt), or have the account's limit raised"
    return None


def is_full(reason: str) -> bool:
    """Whether a server ran out of room for its concurrent requests, and may have some later."""
    return "Context size has been exceeded" in reason  # llama-server, whose slots may share one window


def named_field(text: str, sent: Mapping[str, Any]) -> str | None:
    """The request field named in an error's body, if it was sent.

    Args:
        text: The body of the error.
        sent: The body of the request.
    """
    fields = {*sent, *_fields_of(sent.get("messages") or ())}
    cap = next((name for name in CAPS if name in sent), None)
    other = next((name for name in CAPS if name not in sent), "")
    if cap is not None and cap not in text and re.search(rf"\b{other}\b", text):
        return cap  # OpenAI names one even if the other was sent
    with suppress(ValueError):
        for place in _places(json.loads(text)):
            named = [part for part in place if part in fields]
            if named:
                return str(named[-1])
    quoted = re.findall(r"[`'\"\\]+([A-Za-z_.\[\]0-9]+?)[`'\"\\]+|\b(\w+):", text)
    plain = re.findall(r"\b\w*_\w+\b", text)
    for name in [*(one or other for one, other in quoted), *plain]:
        last = str(name).rpartition(".")[2]
        if last in fields and last not in ("model", "messages", "prompt"):
            return last
    return None


def remedy(field: str | None, reason: str, sent: Mapping[str, Any]) -> str:
    """The advice to the user.

    Args:
        field: The field that the server named.
        reason: Its message.
        sent: The body of the request.
    """
    if _NO_PARSER in reason:
        return (
            "start the server with --enable-auto-tool-choice and --tool-call-parser=NAME, the format of the model's "
            "calls"
        )
    if "credit balance" in reason:  # Anthropic's
        return NO_MONEY
    if field == "max_tokens" and "max_completion_tokens" in reason:
        return "give profile=openai_reasoning, whose requests use max_completion_tokens instead"
    if field == "max_completion_tokens" and "max_tokens" in reason.replace("max_completion_tokens", ""):
        return "give a profile=… whose requests use max_tokens instead, such as generic"
    if field in CAPS:
        return (
            "request fewer tokens: settings.limits.max_tokens, or settings.max_step_tokens for steps; context=N "
            "sets the length of the model's window"
        )
    if field == "stop":
        return "give a profile=… that sends no stop strings, such as generic: steps are then cut here"
    if field in _CONTINUES:
        return (
            "the server does not continue a begun answer: give tokenizer=FOLDER_OR_ID, so that the exact text is "
            "continued, or granularity='turn'"
        )
    if field in (EFFORT, "tools", *TURN_FIELDS):
        return f"this server does not accept {field}: remove it from the request, or from body.NAME=…"
    if field == TEMPLATE:
        return "remove template.NAME=…, or set this server's own field for it with body.NAME=VALUE"
    if field in _THOUGHTS and field not in sent:
        return "give omit=reasoning_content, so that earlier thoughts are not sent back"
    if field is not None:
        together = "+".join(name for name in ("temperature", "top_p", "top_k", "seed") if name in sent)
        every = f" (or all of its kind: omit={together})" if field in together.split("+") and "+" in together else ""
        return (
            f"give omit={field} to leave it out{every}, or body.{field}=VALUE for another value. `rsd doctor` finds "
            "all fields that a server refuses"
        )
    return "the server does not accept this request; try a profile=… made for it, body.NAME=… or omit=NAME"


def _fields_of(messages: Any) -> set[str]:
    return {name for message in messages if isinstance(message, Mapping) for name in message} - {"role", "content"}


def _places(data: Any) -> Iterator[list[str]]:
    """Field names where errors put them: `param` (OpenAI), `loc` (FastAPI, Mistral)."""
    if isinstance(data, list):
        for item in data:
            yield from _places(item)
    elif isinstance(data, Mapping):
        for key in ("param", "loc"):
            where = data.get(key)
            if isinstance(where, str):
                yield re.findall(r"\w+", where)
            elif isinstance(where, list):
                yield [str(part) for part in where]
        for value in data.values():
            yield from _places(value)
