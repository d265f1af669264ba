"""When to resend a failed request: back-off, and what servers ask for."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

LONGEST_DELAY = 8.0
"""Maximum seconds before a retry."""
_FIRST_DELAY = 0.5
AWAY = (502, 503, 504, 520, 521, 522, 523, 524, 530)
"""Gateway statuses for an unavailable server; from 520 on Cloudflare's."""
BUSY = (429, 498, 529)
"""Statuses of a healthy but overloaded server; 498 is that of Groq's flexible tier, 529 Anthropic's."""
_RETRIED = (408, 409, 425, 429, 498)


def is_retried(status: int) -> bool:
    """Whether a retry makes sense after an HTTP status; others below 500 are refusals, which would recur."""
    return status in _RETRIED or status >= 500


def backoff(attempt: int) -> float:
    """Seconds before the next attempt, counting from 1: doubled each time, with jitter."""
    return float(min(_FIRST_DELAY * 2 ** (attempt - 1), LONGEST_DELAY)) * random.uniform(0.5, 1.0)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The back-off in seconds that a server requests (RFC 9110, section 10.2.3): a number, or a date."""
    value = headers.get("Retry-After", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
