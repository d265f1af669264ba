"""One HTTP/1.1 connection: a request, its answer, and the next request."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping
from typing import Protocol

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpResponseParser

LARGEST_HEAD = 2**16
LARGEST_BODY = 2**28
LONGEST_LINE = 2**23
"""In bytes. Large, since streams with ids begin with those of the whole prompt."""


class MalformedError(ValueError):
    """The response is not valid HTTP, or too large."""


class StaleError(ConnectionError):
    """A reused connection was closed before the first byte of a response arrived."""


class Pool(Protocol):
    """The owner of connections."""

    def kept(self, connection: HttpConnection) -> None:
        """Note that one is free for the next request."""

    def closing(self, connection: HttpConnection) -> None:
        """Note that one can no longer be used."""

    def closed(self, connection: HttpConnection) -> None:
        """Note that one is closed."""

    async def news(self, connection: HttpConnection, response: Response) -> None:
        """Wait for more of a response, within the deadline."""


class Response:
    """The response to a request, as it arrives.

    Args:
        loop: The loop.
        connection: Its connection.
        streamed: Whether it is read while still incomplete.
        lasts: Whether its timeout limits silence.
    """

    __slots__ = (
        "_connection",
        "_decoder",
        "_loop",
        "_parts",
        "_rest",
        "_size",
        "_waiter",
        "begun",
        "ended",
        "error",
        "fields",
        "keeps",
        "lasts",
        "status",
        "streamed",
        "until_closed",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, connection: HttpConnection, streamed: bool, lasts: bool
    ) -> None:
        self._loop = loop
        self._connection, self.streamed, self.lasts = connection, streamed, lasts
        self.status = 0
        """HTTP status; 0 until the headers are complete."""
        self.fields: list[tuple[bytes, bytes]] = []
        """The headers as received."""
        self.begun = self.ended = self.keeps = self.until_closed = False
        self.error: Exception | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._rest = b""
        self._decoder: zlib._Decompress | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, with names like `Retry-After`."""
        return {name.decode("latin-1").title(): value.decode("latin-1") for name, value in self.fields}

    def news(self) -> asyncio.Future[None]:
        """A future that is done when the response has ended or failed or, if streamed, when more has arrived."""
        self._waiter = self._loop.create_future()
        if self.ended or self.error is not None:
            self._waiter.set_result(None)
        return self._waiter

    async def read(self) -> bytes:
        """The rest of the body."""
        while not self.ended:
            await self._more()
        return b"".join(self._parts)

    async def lines(self) -> list[bytes]:
        """The lines received since; empty at the end."""
        while True:
            if self._parts:
                *lines, self._rest = b"".join((self._rest, *self._parts)).split(b"\n")
                self._parts.clear()
                self._size = len(self._rest)
                if lines:
                    return lines
            if self.ended:
                last, self._rest = self._rest, b""
                return [last] if last else []
            await self._more()

    async def _more(self) -> None:
        await self._connection.news(self)
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """Release it: the connection is kept if nothing more will arrive, else closed."""
        self._connection.release(self)

    def begin(self, status: int, keeps: bool) -> None:
        """Note that the headers are complete.

        Raises:
            MalformedError: The body has an encoding that was not requested.
        """
        self.status, self.keeps = status, keeps
        if not keeps:  # also if only the end of the connection marks that of the body
            names = {name.lower() for name, _ in self.fields}
            self.until_closed = b"content-length" not in names and b"transfer-encoding" not in names
        for name, value in self.fields:
            if len(name) == 16 and name.lower() == b"content-encoding" and value.lower() != b"identity":
                if value.lower() not in (b"gzip", b"x-gzip", b"deflate"):
                    raise MalformedError(f"the answer's encoding is {value.decode('latin-1')}, which was not requested")
                self._decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or zlib
        if self.streamed:
            self.wake()

    def add(self, data: bytes) -> None:
        """Take the next part of the body.

        Raises:
            MalformedError: It cannot be decompressed, or is too large.
        """
        most = LONGEST_LINE if self.streamed and self.status == 200 else LARGEST_BODY
        if self._decoder is not None:
            try:
                data = self._decoder.decompress(data, most + 1)
            except zlib.error as error:
                raise MalformedError(f"the response cannot be decompressed: {error}") from None
        self._size += len(data)
        if self._size > most:
            raise MalformedError(f"the response has more than {most} bytes at once")
        self._parts.append(data)
        if self.streamed:
            self.wake()

    def end(self) -> None:
        """Note that it is complete."""
        if self._decoder is not None and not self._decoder.eof and self._size:
            self.fail(ConnectionError("Response payload is not completed: the compressed data ends too early"))
            return
        self.ended = True
        self.wake()

    def fail(self, error: Exception) -> None:
        """Note that it failed."""
        if not self.ended and self.error is None:
            self.error = error
            self.wake()

    def lost(self, error: Exception | None, reused: bool) -> None:
        """Note that the connection is closed."""
        if self.until_closed and error is None:
            self.end()
        elif self.status:
            self.fail(ConnectionError(f"Response payload is not completed: it broke off after {self._size} bytes"))
        elif reused and not self.begun:
            self.fail(StaleError("Server disconnected"))
        else:
            self.fail(ConnectionError(f"Server disconnected{f' [{error}]' if error else ''}"))

    def wake(self) -> None:
        """Wake the waiter."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


class HttpConnection(asyncio.Protocol):
    """A connection of a pool, serving one request at a time.

    Args:
        loop: The loop.
        pool: Its owner.
    """

    __slots__ = ("_head", "_loop", "_parser", "_pool", "_response", "_reused", "transport")

    def __init__(self, loop: asyncio.AbstractEventLoop, pool: Pool) -> None:
        self._loop, self._pool = loop, pool
        self._response: Response | None = None
        self._reused = False
        self._head = 0
        self._parser: HttpResponseParser | None = None
        self.transport: asyncio.Transport | None = None
        """None once it is closed."""

    def send(self, message: bytes, streamed: bool, lasts: bool) -> tuple[Response, asyncio.Future[None]]:
        """Send a request; return the response, and a future done when it, or a streamed one's headers, has arrived."""
        assert self.transport is not None
        response = self._response = Response(self._loop, self, streamed, lasts)
        self._head = 0
        self.transport.write(message)
        return response, response.news()

    async def news(self, response: Response) -> None:
        """Wait for more of a response."""
        await self._pool.news(self, response)

    def release(self, response: Response) -> None:
        """Free it for the next request, or close it if more of the response may arrive."""
        self._reused = True
        if response.ended and response.keeps and self.transport is not None and not self.transport.is_closing():
            self._pool.kept(self)
        else:
            self.close()

    def fail(self, error: Exception) -> None:
        """Make the current request fail, and close."""
        response, self._response = self._response, None
        if response is not None:
            response.fail(error)
        self.close()

    def close(self) -> None:
        """Close at once, which a writing server notices."""
        self._pool.closing(self)
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._parser = HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        response = self._response
        if response is None:  # unrequested: a server that says why it closes
            self.close()
            return
        assert self._parser is not None
        response.begun = True
        try:
            self._parser.feed_data(data)
        except HttpParserCallbackError as error:
            cause = error.__context__
            self.fail(cause if isinstance(cause, MalformedError) else MalformedError(str(error)))
        except (HttpParserError, HttpParserUpgrade) as error:
            self.fail(MalformedError(f"the response is not HTTP: {error}"))
        if not response.status:
            self._head += len(data)
            if self._head > LARGEST_HEAD:
                self.fail(MalformedError(f"the response's headers have more than {LARGEST_HEAD} bytes"))

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self._parser = None  # breaks a reference cycle
        response, self._response = self._response, None
        if response is not None:
            response.lost(error, self._reused)
        self._pool.closed(self)

    def on_message_begin(self) -> None:
        """Begin a response."""
        if self._response is None:
            raise MalformedError("an unrequested response arrived")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Process a header or trailer."""
        assert self._response is not None
        self._response.fields.append((name, value))

    def on_headers_complete(self) -> None:
        """Note status and headers, unless they are provisional."""
        assert self._response is not None and self._parser is not None  # noqa: PT018
        status = self._parser.get_status_code()
        if status >= 200:
            self._response.begin(status, self._parser.should_keep_alive())

    def on_body(self, data: bytes) -> None:
        """Process a part of the body."""
        assert self._response is not None
        self._response.add(data)

    def on_message_complete(self) -> None:
        """End a response; a provisional one is discarded."""
        response = self._response
        assert response is not None
        if response.status:
            self._response = None
            response.end()
        else:
            response.fields.clear()
