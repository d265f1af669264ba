"""Errors of servers, and their own messages."""

from __future__ import annotations

import json
import re
from contextlib import suppress

from rsd_core import ConfigurationError, RunError

_OVERLONG = (
    "context length",
    "context_length_exceeded",
    "context size",
    "input_tokens",
    "prompt is too long",
    "token count exceeds",
    "reduce the length",
)
# In the words of vLLM, llama.cpp (both servers), OpenAI, SGLang, Anthropic, Google and Groq.
_WINDOW = re.compile(r"context (?:length|size)[^0-9]{0,24}(\d+)")
_TITLE = re.compile(r"<title>\s*(\S.*?)</title>", re.IGNORECASE | re.DOTALL)
CAPS = ("max_tokens", "max_completion_tokens")
"""Names of the cap on an answer's tokens."""


class EndpointError(RunError):
    """A server failed, timed out, or returned something other than an answer: a fault of its role."""

    def __init__(
        self,
        message: str = "",
        *,
        status: int | None = None,
        throttled: bool = False,
        retry_after: float | None = None,
        outage: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status, if the server answered with an error."""
        self.throttled = throttled
        """Whether the server is healthy and only asked for fewer requests."""
        self.retry_after = retry_after
        """Seconds after which it asked to retry, if it did."""
        self.outage = outage
        """Whether the server was unavailable, directly or according to a gateway."""


class Refused(ConfigurationError):  # noqa: N818
    """A healthy server rejects the request: a wrong name, key, field or value."""

    def __init__(
        self, message: str = "", status: int = 400, reason: str = "", field: str | None = None, value: object = None
    ) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status."""
        self.reason = reason
        """The server's message."""
        self.field = field
        """The request field it named, if any."""
        self._value = value

    @property
    def overlong(self) -> bool:
        """Whether the prompt is longer than the model's context."""
        return self.status in (400, 413, 422) and any(mark in self.reason.lower() for mark in _OVERLONG)

    @property
    def window(self) -> int | None:
        """The model's context, if the server reported its length."""
        told = _WINDOW.search(self.reason.lower()) if self.overlong else None
        return None if told is None else int(told[1])

    @property
    def most(self) -> int | None:
        """Maximum tokens of an answer, if more were requested and the server said so."""
        if self.field not in CAPS or not isinstance(self._value, int):
            return None
        smaller = [int(number) for number in re.findall(r"\d+", self.reason) if 16 <= int(number) < self._value]
        return max(smaller, default=None)


class WrongProfile(ConfigurationError):  # noqa: N818
    """A server's kind differs from its spec."""

    def __init__(self, message: str = "", use: str | None = None) -> None:
        super().__init__(message)
        self.use = use
        """A spec that works, if one was found."""


def reason_in(body: str) -> str:
    """The readable part of an error's body, on one line; for a web page, its title."""
    with suppress(ValueError):
        data = json.loads(body)
        data = data[0] if isinstance(data, list) and len(data) == 1 else data  # Google's format
        for key in ("error", "detail", "message"):
            if isinstance(data, dict) and data.get(key):
                data = data[key]
        body = data if isinstance(data, str) else json.dumps(data)
    title = _TITLE.search(body)
    return " ".join((title[1] if title else body).split()) or "no reason given"


def code_in(body: str) -> str | None:
    """The code in an error's body, in OpenAI's format."""
    with suppress(ValueError, LookupError, TypeError):
        code = json.loads(body)["error"]["code"]
        return code if isinstance(code, str) else None
    return None


def readable(text: str, length: int = 400) -> str:
    """The beginning of an untrusted text, with control characters written out, since a terminal would obey them."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text[:length])
