"""The connections to one server, and the places for requests in flight."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from contextlib import suppress

from rsd_core.queueing import Slots
from rsd_integrations.openai_compatible.http_client import HttpClient


class Connection:
    """A pool of connections that belongs to one event loop.

    Args:
        loop: The loop.
        client: What sends.
        concurrency: Requests in flight at once.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, client: HttpClient, concurrency: int) -> None:
        self.loop, self.client = loop, client
        self.slots = Slots(concurrency)
        self._closed = asyncio.Event()

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._closed.is_set()

    async def pause(self, seconds: float) -> None:
        """Wait, but no longer than the connection is open."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closed.wait(), seconds)

    async def aclose(self) -> None:
        """Close it; requests in flight fail."""
        self._closed.set()
        await self.client.aclose()

    def close(self) -> None:
        """Close it from any thread, at the latest when the interpreter ends."""
        if self.client.is_closed or not self.loop.is_running():
            return
        done: Future[None] = asyncio.run_coroutine_threadsafe(self.aclose(), self.loop)
        with suppress(TimeoutError):
            done.result(0 if asyncio._get_running_loop() is self.loop else 1)
