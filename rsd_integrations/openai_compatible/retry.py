"""When a failed request is sent again: back-off, and what servers ask for."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

LONGEST_DELAY = 8.0
"""Seconds that a retry waits at most."""
_FIRST_DELAY = 0.5
AWAY = (502, 503, 504, 520, 521, 522, 523, 524, 530)
"""What gateways say of a server that is away; from 520 on in Cloudflare's words."""
BUSY = (429, 529)
"""What a server says that is well and has too much to do; the latter is Anthropic's."""
_RETRIED = (408, 409, 425, 429)


def is_retried(status: int) -> bool:
    """Whether an HTTP status asks to come again; others below 500 are refusals, which would come again as well."""
    return status in _RETRIED or status >= 500


def backoff(attempt: int) -> float:
    """Seconds before the next attempt, the first one being number 1: doubled each time, with jitter."""
    return float(min(_FIRST_DELAY * 2 ** (attempt - 1), LONGEST_DELAY)) * random.uniform(0.5, 1.0)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to be spared (RFC 9110, section 10.2.3): a number, or a date."""
    value = headers.get("Retry-After", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
