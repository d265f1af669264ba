"""Waiting for the end of work that was told to stop."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any


async def outlast(work: asyncio.Future[Any]) -> None:
    """Wait for the end of some work, however often the caller is cancelled meanwhile.

    For callers who were cancelled and told the work to stop: nothing of it may outlive them.
    """
    while not work.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([work])
