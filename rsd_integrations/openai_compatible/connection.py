"""The connections to one server, and its concurrency slots."""

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
        client: The HTTP client.
        concurrency: Maximum number of concurrent requests.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, client: HttpClient, concurrency: int) -> None:
        self.loop, self.client = loop, client
        self.slots = Slots(concurrency)
        self._closed = asyncio.Event()

    @property
    def closed(self) -> bool:
        """Whether nothing more can be sent."""
        return self._closed.is_set()

    async def pause(self, seconds: float) -> None:
        """Wait at most as long as the connection is open."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closed.wait(), seconds)

    async def aclose(self) -> None:
        """Close it; requests in flight fail."""
        self._closed.set()
        await self.client.aclose()

    def close(self) -> None:
        """Close it from any thread, at interpreter exit at the latest."""
        if self.client.is_closed or not self.loop.is_running():
            return
        done: Future[None] = asyncio.run_coroutine_threadsafe(self.aclose(), self.loop)
        with suppress(TimeoutError):
            done.result(0 if asyncio._get_running_loop() is self.loop else 1)
