"""A server on the caller's own event loop that answers each request as a test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Reply:
    """What is sent back."""

    status: int = 200
    body: Any = None
    """JSON, or a text as it is; by default a completion."""
    headers: str = ""
    """Further header lines."""
    hang_up: bool = False
    """Whether the connection is closed in place of an answer."""

    def raw(self) -> bytes:
        """The bytes of it."""
        choice = {"text": "done", "finish_reason": "stop", "stop_reason": None}
        body = {"choices": [choice]} if self.body is None else self.body
        text = body if isinstance(body, str) else json.dumps(body)
        head = f"HTTP/1.1 {self.status} x\r\n{self.headers}Content-Length: {len(text.encode())}\r\n\r\n"
        return (head + text).encode()


Answer = Callable[["Scripted", dict[str, Any]], Awaitable[Reply] | Reply]


class Scripted:
    """The server, on a port that it keeps while it is away."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        """When each of them came, by the loop's clock."""
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def start(self) -> None:
        """Listen, at the same port as before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]

    async def kill(self) -> None:
        """Be gone: the port refuses, and connections are reset."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.split("content-length: ")[1].split("\r\n")[0]) if "content-length" in head else 0
                body = json.loads(await reader.readexactly(length)) if length else {}
                self.requests.append(body)
                self.times.append(asyncio.get_running_loop().time())
                reply = self.answer(self, body)
                reply = reply if isinstance(reply, Reply) else await reply
                if reply.hang_up:
                    break
                writer.write(reply.raw())
                await writer.drain()
        self._writers.discard(writer)
        writer.close()


@asynccontextmanager
async def scripted(answer: Answer) -> AsyncIterator[Scripted]:
    """A server that answers so."""
    server = Scripted(answer)
    await server.start()
    try:
        yield server
    finally:
        await server.kill()
