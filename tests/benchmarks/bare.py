"""Sends prepared requests and does nothing else, so that all the time is the servers'."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Sent:
    """A request."""

    url: str
    body: Mapping[str, Any]


class _Client:
    """Kept connections, by host and port."""

    def __init__(self) -> None:
        self._idle: dict[str, list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]] = {}

    async def post(self, place: str, request: bytes) -> None:
        idle = self._idle.setdefault(place, [])
        while idle:
            kept = idle.pop()
            with suppress(asyncio.IncompleteReadError, ConnectionError):  # the server closed it meanwhile
                return await self._exchange(place, *kept, request)
        host, port = place.split(":")
        return await self._exchange(place, *await asyncio.open_connection(host, int(port)), request)

    async def _exchange(
        self, place: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
    ) -> None:
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert head.startswith(b"http/1.1 200"), head
        await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n", 1)[0]))
        self._idle[place].append((reader, writer))

    def close(self) -> None:
        for _, writer in (pair for idle in self._idle.values() for pair in idle):
            writer.close()


async def send(problems: Sequence[Sequence[Sent]], at_once: int) -> float:
    """Send the requests of each problem one after another, some problems at once; return the seconds."""
    made = iter([[_bytes(request) for request in problem] for problem in problems])
    client, clock = _Client(), asyncio.get_running_loop()

    async def work() -> None:
        for problem in made:
            for place, request in problem:
                await client.post(place, request)

    began = clock.time()
    await asyncio.gather(*(work() for _ in range(at_once)))
    client.close()
    return clock.time() - began


def _bytes(request: Sent) -> tuple[str, bytes]:
    parts, body = urlsplit(request.url), json.dumps(request.body).encode()
    head = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return parts.netloc, head.encode() + body
