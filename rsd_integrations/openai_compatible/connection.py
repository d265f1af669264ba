"""The connections to one server, and the places for requests in flight."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from contextlib import suppress

import aiohttp

from rsd_core.queueing import Slots


class Connection:
    """A pool of connections that belongs to one event loop.

    Args:
        loop: The loop.
        timeout: Seconds of one attempt, or of silence in a stream that lasts.
        concurrency: Requests in flight at once.
        proxy: The proxy's URL, where there is one.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout: float, concurrency: int, proxy: str | None) -> None:
        self.loop = loop
        self.slots = Slots(concurrency)
        self.whole = aiohttp.ClientTimeout(total=timeout, sock_connect=min(10.0, timeout))
        """The timeouts of a request."""
        self.silence = aiohttp.ClientTimeout(sock_read=timeout, sock_connect=min(10.0, timeout))
        """Those of a stream that lasts."""
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # the slots bound them
            proxy=proxy,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
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
        await self.session.close()

    def close(self) -> None:
        """Close it from any thread, at the latest when the interpreter ends."""
        if self.session.closed or not self.loop.is_running():
            return
        done: Future[None] = asyncio.run_coroutine_threadsafe(self.aclose(), self.loop)
        with suppress(TimeoutError):
            done.result(0 if asyncio._get_running_loop() is self.loop else 1)
