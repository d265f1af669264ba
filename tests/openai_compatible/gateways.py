"""Fields that gateways between a server and its clients drop, add and change, each as observed in the wild."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.openai_compatible.server import PLAIN, Gateway

Data = dict[str, Any]


def choices(change: Callable[[Data], None]) -> Gateway:
    """Changes every choice."""

    def reply(data: Data) -> Data:
        for choice in data["choices"]:
            change(choice)
        return data

    return Gateway(reply=reply)


def without(*names: str) -> Gateway:
    """Leaves fields out, of replies and of their choices."""

    def reply(data: Data) -> Data:
        for part in (data, *data["choices"]):
            for name in names:
                part.pop(name, None)
        return data

    return Gateway(reply=reply)


def usage(told: Any) -> Gateway:
    """Has its own counts."""
    return Gateway(reply=lambda data: data | {"usage": told})


def twice(data: Data) -> Data:
    """Counts in every event, as far as it came; those of the server come late."""
    return {"usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, **data}


def _no_last_text(choice: Data) -> None:
    if choice.get("finish_reason") and "text" in choice and not choice["text"]:
        del choice["text"]


def _null(choice: Data) -> None:
    for name in ("text", "delta"):
        if choice.get(name) in ("", {}):
            choice[name] = None


def _trim(choice: Data) -> None:
    if "text" in choice and choice.get("finish_reason"):
        choice["text"] = choice["text"].rstrip()


def reasons(words: dict[str, str | None]) -> Gateway:
    """Has its own finish reasons."""
    return choices(lambda choice: choice.update(finish_reason=words.get(choice.get("finish_reason") or "")))


PLAIN_FIELDS = Gateway(request=lambda body: {name: value for name, value in body.items() if name in PLAIN})
"""Hands on the fields of the OpenAI API alone."""
NO_LAST_TEXT = choices(_no_last_text)
"""Ends a stream as LiteLLM does, with `{"finish_reason": "stop", "index": 0}`."""
NULL_TEXT = choices(_null)
TRIMMED = choices(_trim)
COUNTS_NOTHING = Gateway(reply=twice)
