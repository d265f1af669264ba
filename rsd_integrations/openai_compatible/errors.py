"""What goes wrong with a server, and its own words on it."""

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
"""How servers call the cap on the tokens of an answer."""


class EndpointError(RunError):
    """A server failed, did not answer in time, or gave what is no answer: a fault of its role."""

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
        """The HTTP status, where the server answered with an error."""
        self.throttled = throttled
        """Whether the server is well and only asked to be called less often."""
        self.retry_after = retry_after
        """Seconds after which it wants to be asked again, where it said so."""
        self.outage = outage
        """Whether nothing was there to answer: a server that is away, or the gateway's word for it."""


class Refused(ConfigurationError):  # noqa: N818
    """A server is well and will not answer this: a wrong name, key, field or value."""

    def __init__(
        self, message: str = "", status: int = 400, reason: str = "", field: str | None = None, value: object = None
    ) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status."""
        self.reason = reason
        """What the server said."""
        self.field = field
        """The field of the request that it named, where it did."""
        self._value = value

    @property
    def overlong(self) -> bool:
        """Whether the prompt is longer than the model's context."""
        return self.status in (400, 413, 422) and any(mark in self.reason.lower() for mark in _OVERLONG)

    @property
    def window(self) -> int | None:
        """The model's context, where the server said how long it is."""
        told = _WINDOW.search(self.reason.lower()) if self.overlong else None
        return None if told is None else int(told[1])

    @property
    def most(self) -> int | None:
        """The most tokens that an answer may have, where more were asked for and the server said so."""
        if self.field not in CAPS or not isinstance(self._value, int):
            return None
        smaller = [int(number) for number in re.findall(r"\d+", self.reason) if 16 <= int(number) < self._value]
        return max(smaller, default=None)


class WrongProfile(ConfigurationError):  # noqa: N818
    """A server is of another kind than its spec says."""

    def __init__(self, message: str = "", use: str | None = None) -> None:
        super().__init__(message)
        self.use = use
        """The spec that works, where one was found."""


def reason_in(body: str) -> str:
    """The human part of an error's body, on one line; the title of a page."""
    with suppress(ValueError):
        data = json.loads(body)
        data = data[0] if isinstance(data, list) and len(data) == 1 else data  # as Google has it
        for key in ("error", "detail", "message"):
            if isinstance(data, dict) and data.get(key):
                data = data[key]
        body = data if isinstance(data, str) else json.dumps(data)
    title = _TITLE.search(body)
    return " ".join((title[1] if title else body).split()) or "no reason given"


def readable(text: str, length: int = 400) -> str:
    """The beginning of a text from outside, control characters written out: a terminal would obey them."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text[:length])
