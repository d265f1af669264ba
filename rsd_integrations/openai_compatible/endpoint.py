"""A model behind a URL: one place for keys, timeouts, retries, back-pressure and faults.

The requests follow the OpenAI API, but the client is our own: a step is two or three small requests, and the official
client would spend more time on each than many a small model (`python -m tests.benchmarks.client` compares them).
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, overload
from urllib.parse import urlsplit

from rsd_core import ConfigurationError
from rsd_core.queueing import current_caller
from rsd_integrations import waiting
from rsd_integrations.openai_compatible.api_key import find_key
from rsd_integrations.openai_compatible.background import on_background_loop
from rsd_integrations.openai_compatible.base_url import OPENAI, checked_url, proxy_of
from rsd_integrations.openai_compatible.breaker import Breaker
from rsd_integrations.openai_compatible.connection import Connection
from rsd_integrations.openai_compatible.errors import EndpointError
from rsd_integrations.openai_compatible.http_client import HttpClient
from rsd_integrations.openai_compatible.http_connection import Response
from rsd_integrations.openai_compatible.json_data import encoded
from rsd_integrations.openai_compatible.profiles import hosted_at
from rsd_integrations.openai_compatible.replies import Replies
from rsd_integrations.openai_compatible.sending import Persistence, Sender

logger = logging.getLogger(__name__)
T = TypeVar("T")
AT_ONCE = 64
"""Concurrent requests if neither the run, the user nor the server determines the number."""


class Reader(Protocol):
    """Consumes the events of one streamed answer."""

    def take(self, event: Mapping[str, Any]) -> bool:
        """Process an event; True when no more is needed and the server may stop."""

    @property
    def complete(self) -> bool:
        """Whether the answer is complete, so that the stream may end here."""

    def end(self) -> None:
        """Note the end of the stream; raises like `take` if the answer is incomplete."""


R = TypeVar("R", bound=Reader)


class Endpoint:
    """A model behind a URL.

    All requests of a process are sent from its single background loop, whatever loop or thread calls: so one
    concurrency limit covers all, and connections outlive the callers' loops. A cancelled call closes its connection,
    which tells the server to stop.

    Args:
        model: The model's name in requests.
        base_url: URL of the API, such as `http://127.0.0.1:8000/v1`; `/v1` is added to a URL without a path. By default
            OPENAI_BASE_URL, or OpenAI's own.
        key_env: The environment variable that holds the API key. By default OPENAI_API_KEY, which is sent only to
            OpenAI, OPENAI_BASE_URL and this machine.
        timeout: Seconds that one attempt may take, or that a long-lived stream may be silent.
        retries: Further attempts after a fault, with jittered back-off.
        patience: Seconds that calls wait, beyond their retries, for a server that is unavailable or asks for back-off,
            counted from the beginning of an outage; 0 for none. By default 600 in runs of many requests, and 30
            otherwise, once the server has answered at all.
        concurrency: Maximum number of concurrent requests; others wait, those of older prompts first. By default as
            many as the server processes if that is known to be few, else as many as the run has, but at least 64.

    Raises:
        ConfigurationError: A value is out of range, or the key is missing.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        *,
        key_env: str | None = None,
        timeout: float = 120.0,
        retries: int = 2,
        patience: float | None = None,
        concurrency: int | None = None,
    ) -> None:
        for name, value, least in (("retries", retries, 0), ("patience", patience, 0), ("concurrency", concurrency, 1)):
            if value is not None and not value >= least:
                raise ConfigurationError(f"{name}={value} is out of range; it must be at least {least}")
        if not timeout > 0:
            raise ConfigurationError(f"timeout={timeout} is out of range; it must be a number of seconds above 0")
        self.model = model
        self.base_url = checked_url(base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI)
        self._base_path, self._root_path = urlsplit(self.base_url).path, urlsplit(self.root).path
        self.timeout, self.retries, self.patience = timeout, retries, patience
        self.concurrency = concurrency or AT_ONCE
        self._named = concurrency is not None
        self._most = concurrency
        """Upper bound from the user or the server; None if runs decide."""
        self._conflict_told = False
        self._sender = Sender(repr(self))
        self.key_env = key_env
        self._key = find_key(self.base_url, key_env)
        profile = hosted_at(self.base_url, model)
        self._replies = Replies(repr(self), self._key, () if profile is None else profile.spent)
        self._connection: Connection | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None
        waiting.register(self)

    def __repr__(self) -> str:
        return f"<Endpoint {self.model!r} at {self.base_url}>"

    @property
    def root(self) -> str:
        """The URL without the version, for routes beyond the OpenAI API: `/tokenize`, `/pooling`, `/health`."""
        return self.base_url.removesuffix("/v1")

    @property
    def breaker(self) -> Breaker:
        """Holds calls back while the server is unavailable."""
        return self._sender.breaker

    @property
    def waiting_since(self) -> float | None:
        """When calls began to wait for the server to return, by the monotonic clock; None if none waits."""
        return self._sender.waiting_since

    @property
    def waiting(self) -> int:
        """Number of requests waiting for a concurrency slot."""
        return 0 if self._connection is None else self._connection.slots.waiting

    async def get(self, path: str, read: Callable[[dict[str, Any]], T]) -> T:
        """Send a GET request; arguments and errors as in `post`."""
        return await on_background_loop(self._request("GET", path, None, read, _free))

    @overload
    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]: ...
    @overload
    async def post(
        self,
        path: str,
        body: Mapping[str, Any],
        read: Callable[[dict[str, Any]], T],
        charge: Callable[[dict[str, Any], T | None, float], None] = ...,
    ) -> T: ...
    async def post(
        self,
        path: str,
        body: Mapping[str, Any],
        read: Callable[[dict[str, Any]], Any] | None = None,
        charge: Callable[[dict[str, Any], Any, float], None] | None = None,
    ) -> Any:
        """Send JSON and read the JSON reply.

        Args:
            path: Relative to the base URL (`completions`), or to the server's root if it begins with a slash
                (`/pooling`).
            body: What to send.
            read: Converts the answer to the result; by default the answer itself. What it raises for a wrong shape
                (`KeyError`, `IndexError`, `TypeError`, `ValueError` or a `RunError`) is a fault of the server, retried
                like others.
            charge: Records the work of every answer received, given the answer, its result (None if it was refused) and
                the seconds it took.

        Raises:
            EndpointError: The server failed after all retries, or was unavailable for longer than the patience.
            Refused: The server is healthy but rejects the request.
        """
        return await on_background_loop(self._request("POST", path, body, read or _unread, charge or _free))

    async def stream(
        self,
        path: str,
        body: Mapping[str, Any],
        make: Callable[[], R],
        again: Callable[[], bool] | None = None,
        charge: Callable[[R, float], None] | None = None,
    ) -> R:
        """Send JSON and read server-sent events until the reader has enough; then the connection is closed.

        Args:
            path: As in `post`.
            body: What to send; `stream` is added.
            make: Creates a reader for each attempt, which runs on the background loop.
            again: Whether to start over after a fault. Given for long-lived streams: the timeout then limits silence.
            charge: Records the work of an attempt, given its reader and the seconds it took: called if events were
                received, even if the attempt failed or was cancelled midway.

        Returns:
            The reader with the complete answer.

        Raises:
            EndpointError: The server failed after all retries; a stream that ends early is a failure.
            Refused: The server is healthy but rejects the request.
        """

        async def receive(response: Response, started: float) -> R:
            reader, received = make(), False

            def take(data: bytes) -> bool:
                nonlocal received
                if data == b"[DONE]":
                    self._replies.result(lambda _: reader.end(), {})
                    return True
                event = self._replies.parsed(data)
                if not received:
                    received = True
                    self._sender.answered(started)  # a stream may be long, or abandoned before its end
                return self._replies.result(reader.take, event)

            try:
                enough = await read_events(response, take, self._replies.refuse_page)
            finally:
                if received and charge is not None:
                    charge(reader, time.monotonic() - started)
            if not (enough or reader.complete):
                raise EndpointError(f"{self} cut its stream short: it ended without a finish reason", outage=True)
            return reader

        return await on_background_loop(self._send("POST", path, {**body, "stream": True}, receive, again))

    def suggest(self, concurrency: int | None) -> None:
        """Limit concurrent requests from now on, unless the user has set a limit; None lets runs decide."""
        if not self._named and concurrency != self._most:
            self._most = concurrency
            self._resize(concurrency or AT_ONCE)

    def _make_room(self, wanted: int) -> None:
        """Provide a slot for each concurrent request of a run, or log once why that is impossible."""
        if self._most is None:
            self._resize(wanted)
        elif not self._conflict_told:
            self._conflict_told = True
            why = (
                "as its concurrency=… says"
                if self._named
                else "as reported or known for its kind; concurrency=… overrides it"
            )
            logger.warning(
                "the run has %d concurrent requests, but %s processes %d at once (%s): others wait",
                wanted,
                self,
                self._most,
                why,
            )

    def _resize(self, concurrency: int) -> None:
        self.concurrency = concurrency
        if self._connection is not None:
            self._connection.slots.resize(concurrency)

    @contextmanager
    def impatient(self) -> Iterator[None]:
        """Do not wait for an unavailable server: an examination is about its current state."""
        patience, self.patience = self.patience, 0.0
        try:
            yield
        finally:
            self.patience = patience

    async def aclose(self) -> None:
        """Close all connections: requests in flight fail, and the next call opens new ones."""
        await on_background_loop(self._close())

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and connection.loop is asyncio.get_running_loop():
            if self._finalizer is not None:
                self._finalizer.detach()
            await connection.aclose()
            self.breaker.wake()

    async def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        read: Callable[[dict[str, Any]], T],
        charge: Callable[[dict[str, Any], T | None, float], None],
    ) -> T:
        async def receive(response: Response, started: float) -> T:
            data = self._replies.parsed(await response.read())

            def read_and_charge(data: dict[str, Any]) -> T:
                result = None
                try:
                    result = read(data)
                finally:
                    charge(data, result, time.monotonic() - started)
                return result

            return self._replies.result(read_and_charge, data)

        return await self._send(method, path, body, receive)

    async def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        receive: Callable[[Response, float], Awaitable[T]],
        again: Callable[[], bool] | None = None,
    ) -> T:
        """Send until it works, or until neither retries nor patience are left."""
        url = self._url(path)
        data = None if body is None else encoded(body)
        connection = self._open()

        def attempt() -> Awaitable[T]:
            return self._exchange(connection, method, url, data, body or {}, receive, again is not None)

        persistence = Persistence(self.retries, self.patience)
        return await self._sender.send(attempt, f"{method} {path}", connection, persistence, again)

    def _url(self, path: str) -> str:
        """The path on the server."""
        return f"{self._root_path}{path}" if path.startswith("/") else f"{self._base_path}/{path}"

    async def _exchange(
        self,
        connection: Connection,
        method: str,
        url: str,
        data: bytes | None,
        sent: Mapping[str, Any],
        receive: Callable[[Response, float], Awaitable[T]],
        lasts: bool,
    ) -> T:
        started, outage = time.monotonic(), False
        try:
            response = await connection.client.send(method, url, data, streamed=bool(sent.get("stream")), lasts=lasts)
            try:
                if response.status == 200:
                    return await receive(response, started)
                text = (await response.read()).decode(errors="replace")
                self._replies.refuse(response.status, response.headers, text, sent)
            finally:
                response.close()
        except ConfigurationError:  # also a ValueError
            raise
        except TimeoutError:
            reason = f"no answer within {self.timeout:g} s; try a longer timeout=…, and check the server"
        except (OSError, ValueError) as error:
            outage = isinstance(error, OSError)
            reason = f"{self._replies.shown(str(error) or type(error).__name__)}; is the server up, is this its URL?"
        # Causes contain requests, which contain the key.
        raise EndpointError(f"{self}: {reason}", outage=outage) from None

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key.get_secret_value()}"
        return headers

    def _open(self) -> Connection:
        wanted = current_caller().concurrency
        if wanted is not None and wanted > self.concurrency:
            self._make_room(wanted)
        loop = asyncio.get_running_loop()
        if self._connection is None or self._connection.loop is not loop:  # the loop is different after a fork
            if self._connection is not None:
                self._sender.forget()
            client = HttpClient(loop, self.base_url, self._headers(), self.timeout, proxy_of(self.base_url))
            self._connection = Connection(loop, client, self.concurrency)
            self._finalizer = weakref.finalize(self, self._connection.close)
        return self._connection


async def read_events(response: Response, take: Callable[[bytes], bool], refuse_page: Callable[[bytes], None]) -> bool:
    """Read server-sent events until the reader has enough; False if they ended before that."""
    begun = False
    while lines := await response.lines():
        for line in lines:
            data = line[5:].strip() if line.startswith(b"data:") else b""
            if data:
                begun = True
                if take(data):
                    return True
            elif not begun and line.lstrip().startswith(b"<"):
                refuse_page(line)
    return False


def _unread(data: dict[str, Any]) -> dict[str, Any]:
    return data


def _free(data: dict[str, Any], result: object, seconds: float) -> None:
    """Charges nothing."""
