"""An HTTP/1.1 client for one server: many small concurrent requests, at little cost each."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
from collections.abc import Callable, Mapping
from urllib.parse import SplitResult, quote, unquote, urlsplit

from aiohappyeyeballs import start_connection

from rsd_core import ConfigurationError
from rsd_integrations.openai_compatible.http_connection import HttpConnection, Response, StaleError

KEPT = 15.0
"""Seconds to keep an idle connection; servers close theirs after 5 (uvicorn) to 75 (nginx)."""
CONNECTING = 10.0
"""Connection timeout in seconds."""
AT_ONCE = 128
"""Connections opened concurrently: a server's accept queue is short, and silently drops the rest."""
_LOOKED_UP = 10.0
"""Seconds to cache a lookup of the server's name."""
_STAGGER = 0.25
"""Seconds before the next address of a server is tried in parallel (RFC 8305, section 5)."""


class HttpClient:
    """The connections to one server. It belongs to one event loop.

    It sends requests and returns responses as they are: no redirects, no cookies, and only one kind of retry. The
    server may close an idle connection just as the next request is on its way; if no byte of a response has arrived,
    the request is sent again at once on a new connection.

    Args:
        loop: The loop.
        url: URL of the server; its path is not used.
        headers: Sent with every request.
        timeout: Seconds from a request to the end of its response, or of silence in a long-lived one.
        proxy: The URL of an HTTP proxy, if any.

    Raises:
        ConfigurationError: The proxy is of an unsupported kind.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        url: str,
        headers: Mapping[str, str],
        timeout: float,
        proxy: str | None = None,
    ) -> None:
        self._loop, self._timeout = loop, timeout
        self._server = urlsplit(url)
        self._proxy = None if proxy is None else _checked_proxy(proxy)
        self._secure = self._server.scheme == "https"
        self._tls: ssl.SSLContext | None = None
        fields = {"Host": _authority(self._server), "Accept": "*/*", "Accept-Encoding": "identity", **headers}
        self._prefix = ""
        if self._proxy is not None and not self._secure:
            self._prefix = f"http://{_authority(self._server)}"
            fields |= _credentials(self._proxy)
        self._fields = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self._heads: dict[tuple[str, str], bytes] = {}
        self._open: set[HttpConnection] = set()
        self._busy = Lapses(loop, timeout, lambda connection: connection.fail(TimeoutError()))
        self._idle = Lapses(loop, KEPT, HttpConnection.close)
        self._addresses: list[tuple[int, int, int, str, tuple[object, ...]]] = []
        self._look_up_at, self._looking_up = 0.0, asyncio.Lock()
        self._connecting = asyncio.Semaphore(AT_ONCE)
        self.is_closed = False
        """Whether it is closed permanently."""

    async def send(
        self, method: str, path: str, body: bytes | None = None, *, streamed: bool = False, lasts: bool = False
    ) -> Response:
        """Send a request and wait for its response. Call `Response.close` when done.

        Args:
            method: The method.
            path: The path on the server.
            body: JSON; None sends none.
            streamed: Return after the headers, rather than after the whole response.
            lasts: Whether the timeout limits silence.

        Raises:
            TimeoutError: No response arrived in time.
            ConnectionError: The server cannot be reached, or the connection broke.
            ValueError: The server's certificate is invalid, or the response is malformed.
        """
        head = self._heads.get((method, path)) or self._head(method, path)
        message = head + (b"\r\n" if body is None else b"Content-Length: %d\r\n\r\n" % len(body) + body)
        started = self._loop.time()
        if (connection := self._idle.latest()) is not None:
            try:
                return await self._answer(connection, message, started, streamed, lasts)
            except StaleError:
                pass
        async with self._connecting:
            started = self._loop.time()
            connection = await self._connect()
        return await self._answer(connection, message, started, streamed, lasts)

    async def aclose(self) -> None:
        """Close all connections, and wait until they are closed."""
        self.is_closed = True
        for connection in tuple(self._open):
            connection.fail(ConnectionError("Connection closed"))
        while self._open:  # noqa: ASYNC110 - it takes a turn of the loop or two
            await asyncio.sleep(0)
        self._busy.stop()
        self._idle.stop()

    def kept(self, connection: HttpConnection) -> None:
        """Note that a connection is free for the next request."""
        self._busy.discard(connection)
        self._idle.add(connection)

    def closing(self, connection: HttpConnection) -> None:
        """Note that a connection can no longer be used."""
        self._busy.discard(connection)
        self._idle.discard(connection)

    def closed(self, connection: HttpConnection) -> None:
        """Note that a connection is closed."""
        self.closing(connection)
        self._open.discard(connection)

    async def news(self, connection: HttpConnection, response: Response) -> None:
        """Wait for more of a response, with a new deadline if it is long-lived."""
        if response.lasts and not response.ended:
            self._busy.add(connection)
        await response.news()

    async def _answer(
        self, connection: HttpConnection, message: bytes, started: float, streamed: bool, lasts: bool
    ) -> Response:
        response, waiter = connection.send(message, streamed, lasts)
        self._busy.add(connection, None if lasts else started)
        try:
            await waiter
        except BaseException:
            connection.close()
            raise
        if response.error is not None:
            connection.close()
            raise response.error
        return response

    def _head(self, method: str, path: str) -> bytes:
        target = quote(path, safe="/%:@!$&'()*+,;=~-._")
        head = f"{method} {self._prefix}{target} HTTP/1.1\r\n{self._fields}"
        return self._heads.setdefault((method, path), head.encode("latin-1"))

    async def _connect(self) -> HttpConnection:
        """A new connection, through the proxy if there is one."""
        limit = min(CONNECTING, self._timeout)
        place = _authority(self._proxy or self._server, with_port=True)
        try:
            async with asyncio.timeout(limit):
                connection = await self._connect_to(self._proxy or self._server)
                if self._proxy is not None and self._secure:
                    place = _authority(self._server, with_port=True)
                    connection = await self._through(connection, self._proxy)
        except TimeoutError:
            raise ConnectionError(f"Cannot connect to host {place}: no answer within {limit:g} s") from None
        except ssl.SSLError as error:
            raise ValueError(f"Cannot connect to host {place} [{error}]") from None
        except OSError as error:
            raise ConnectionError(f"Cannot connect to host {place} [{error}]") from None
        if self.is_closed:
            connection.close()
            raise ConnectionError("Connection closed")
        self._open.add(connection)
        return connection

    async def _connect_to(self, place: SplitResult) -> HttpConnection:
        """A connection to the server or the proxy."""
        async with self._looking_up:  # one lookup for all
            if self._loop.time() >= self._look_up_at:
                self._addresses = await self._loop.getaddrinfo(place.hostname, _port(place), type=socket.SOCK_STREAM)  # type: ignore[assignment]
                self._look_up_at = self._loop.time() + _LOOKED_UP
        made = await start_connection(self._addresses, happy_eyeballs_delay=_STAGGER, interleave=1)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # middleboxes drop silent connections
        trust, name = (self._trust(), place.hostname) if place.scheme == "https" else (None, None)
        try:
            _, connection = await self._loop.create_connection(
                lambda: HttpConnection(self._loop, self), sock=made, ssl=trust, server_hostname=name
            )
        except BaseException:
            made.close()
            raise
        if connection.transport is None:
            raise ConnectionError("Server disconnected")
        return connection

    async def _through(self, connection: HttpConnection, proxy: SplitResult) -> HttpConnection:
        """A connection to the server through one to the proxy."""
        place = _authority(self._server, with_port=True)
        fields = "".join(f"{name}: {value}\r\n" for name, value in ({"Host": place} | _credentials(proxy)).items())
        try:
            response, waiter = connection.send(
                f"CONNECT {place} HTTP/1.1\r\n{fields}\r\n".encode("latin-1"), True, False
            )
            await waiter
            if response.error is not None:
                raise response.error
            if response.status != 200:
                kind = ConnectionError if response.status >= 500 else ValueError
                raise kind(f"the proxy {_authority(proxy)} answered HTTP {response.status}")
            plain, secure = connection.transport, HttpConnection(self._loop, self)
            assert plain is not None
            made = await self._loop.start_tls(plain, secure, self._trust(), server_hostname=self._server.hostname)
        except BaseException:
            connection.close()
            raise
        assert made is not None
        if made.is_closing():
            raise ConnectionError("Server disconnected")
        secure.connection_made(made)
        return secure

    def _trust(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls


class Lapses:
    """Deadlines of equal length sharing one timer, which is cheaper than a timer each.

    Args:
        loop: The loop.
        seconds: The length.
        lapsed: Called with each connection that reached its deadline.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, lapsed: Callable[[HttpConnection], None]
    ) -> None:
        self._loop, self._seconds, self._lapsed = loop, seconds, lapsed
        self._ends: dict[HttpConnection, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next = 0.0

    def add(self, connection: HttpConnection, since: float | None = None) -> None:
        """Start or restart a deadline, now or at a time of the loop's clock."""
        end = (self._loop.time() if since is None else since) + self._seconds
        self._ends[connection] = end
        if self._timer is None or end < self._next:
            self._set(end)

    def discard(self, connection: HttpConnection) -> None:
        """Forget a connection."""
        self._ends.pop(connection, None)

    def latest(self) -> HttpConnection | None:
        """Remove the latest one."""
        return self._ends.popitem()[0] if self._ends else None

    def stop(self) -> None:
        """Stop setting deadlines."""
        if self._timer is not None:
            self._timer.cancel()
        self._ends.clear()

    def _set(self, end: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next, self._timer = end, self._loop.call_at(end, self._look)

    def _look(self) -> None:
        self._timer, now = None, self._loop.time()
        for connection in [connection for connection, end in self._ends.items() if end <= now]:
            del self._ends[connection]
            self._lapsed(connection)
        if self._ends:
            self._set(min(self._ends.values()))


def _checked_proxy(url: str) -> SplitResult:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(
            f"the proxy in the environment is of the unsupported kind {parts.scheme!r}; it must look like "
            "http://HOST:PORT"
        )
    return parts


def _credentials(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


def _port(place: SplitResult) -> int:
    return place.port or (443 if place.scheme == "https" else 80)


def _authority(place: SplitResult, with_port: bool = False) -> str:
    """Host and port as in HTTP: the default port is omitted."""
    host = (place.hostname or "").encode("idna").decode() if not (place.hostname or "").isascii() else place.hostname
    host = f"[{host}]" if host and ":" in host else host or ""
    return (
        f"{host}:{_port(place)}"
        if with_port or place.port not in (None, 443 if place.scheme == "https" else 80)
        else host
    )
