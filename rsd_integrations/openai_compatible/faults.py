"""What can go wrong with a server, when to try again, and when to leave it alone."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from rsd_core import ConfigurationError, RunError

LONGEST_WAIT = 120.0
"""Seconds; a server that asks for more patience than this has failed."""
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 8.0


class EndpointError(RunError):
    """A server failed, did not answer in time, or gave what is no answer: a fault of its role."""

    def __init__(
        self, message: str, *, status: int | None = None, alive: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status, where the server answered with an error."""
        self.alive = alive
        """Whether the server only asked to be spared for a while."""
        self.retry_after = retry_after
        """Seconds after which it wants to be asked again, where it said so."""


class Refused(ConfigurationError):  # noqa: N818
    """A server is well and will not answer this: a wrong name, key, field or value."""

    def __init__(self, message: str, status: int, told: str) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status."""
        self.told = told
        """What the server said."""

    @property
    def overlong(self) -> bool:
        """Whether the prompt is longer than the model's context."""
        return self.status in (400, 413, 422) and any(mark in self.told.lower() for mark in _OVERLONG)


_OVERLONG = ("context length", "context_length_exceeded", "context size", "input_tokens", "prompt is too long")
# In the words of vLLM, llama.cpp (both servers), OpenAI and SGLang.


def backoff(attempt: int) -> float:
    """Seconds before the next attempt, the first one being number 1: doubled each time, with jitter."""
    return float(min(_FIRST_DELAY * 2 ** (attempt - 1), _LONGEST_DELAY)) * random.uniform(0.5, 1.0)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to be spared (RFC 9110, section 10.2.3): a number, or a date."""
    told = headers.get("Retry-After", "")
    try:
        seconds = float(told)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(told).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


class Breaker:
    """Leaves a server that keeps failing alone: after some faults in a row nothing is sent for a while, then one call.

    Its one caller is an event loop, so it needs no lock.
    """

    def __init__(self, faults: int = 5, cooldown: float = 5.0) -> None:
        self.limit, self.cooldown = faults, cooldown
        self.last = ""
        """The last fault."""
        self._faults = 0
        self._until = 0.0

    def closed_for(self) -> float:
        """Seconds until a call may be sent. At 0 the caller sends one, and tells how it went."""
        now = time.monotonic()
        if self._faults < self.limit:
            return 0.0
        if now < self._until:
            return self._until - now
        self._until = now + self.cooldown  # one call tries; the others wait for its outcome
        return 0.0

    def succeeded(self) -> None:
        """The server answered."""
        self._faults = 0

    def failed(self, why: str) -> None:
        """The server failed."""
        self._faults += 1
        self._until = time.monotonic() + self.cooldown
        self.last = why
