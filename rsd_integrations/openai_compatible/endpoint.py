"""A model behind a URL: one place for keys, timeouts, retries, back-pressure and faults.

The requests are those of the OpenAI API, and the client is aiohttp: a step is two or three small requests, and the
official client would spend more on each than many a small model (`python -m tests.benchmarks.client` compares them).
"""

from __future__ import annotations

import asyncio
import json
import os
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Protocol, TypeVar, overload
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from pydantic import SecretStr
from yarl import URL

from rsd_core import ConfigurationError, RunError
from rsd_core.blocking import background_loop
from rsd_integrations.openai_compatible.faults import (
    LONGEST_WAIT,
    Breaker,
    EndpointError,
    Refused,
    backoff,
    retry_after,
)

T = TypeVar("T")
OPENAI = "https://api.openai.com/v1"
LONGEST_LINE = 2**23
"""Bytes: streams that tell ids begin with those of the whole prompt."""
_SPARED = (408, 409, 425, 429)
"""Statuses that ask to come again; like all from 500 on, they are no refusal."""


class Reader(Protocol):
    """What takes the events of one streamed answer."""

    def take(self, event: Mapping[str, Any]) -> bool:
        """Take an event; True when no more is wanted, and the server may stop."""

    @property
    def complete(self) -> bool:
        """Whether the answer is whole, so that the stream may end here."""


R = TypeVar("R", bound=Reader)


class Endpoint:
    """A model behind a URL.

    All requests of a process are sent from its one background loop, whatever loop or thread asks: so one bound holds
    for all, and connections outlive the callers' loops. A cancelled call closes its connection, which is how servers
    learn to stop.

    Args:
        model: The model's name in requests.
        base_url: Where the API is, such as `http://127.0.0.1:8000/v1`; `/v1` is added to a URL without a path. By
            default OPENAI_BASE_URL, or OpenAI's own.
        key_env: The environment variable that holds the API key. By default OPENAI_API_KEY, which is sent to OpenAI,
            to OPENAI_BASE_URL and to this machine, and nowhere else.
        timeout: Seconds that one attempt may take; of a stream that lasts, that it may be silent.
        retries: Attempts after a failed one, with jittered back-off; `Retry-After` is honoured.
        patience: Seconds that a call goes on trying beyond its retries and while the breaker is open. 0 suits
            drafters and verifiers, which the target stands in for; a target that may be restarted deserves a minute.
        concurrency: Requests in flight at once; others wait for their turn. By default 64, or what suits the server.

    Raises:
        ConfigurationError: A value is out of its range, or the key is missing.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        *,
        key_env: str | None = None,
        timeout: float = 120.0,
        retries: int = 2,
        patience: float = 0.0,
        concurrency: int | None = None,
    ) -> None:
        for name, value, least in (("retries", retries, 0), ("patience", patience, 0), ("concurrency", concurrency, 1)):
            if value is not None and not value >= least:
                raise ConfigurationError(f"{name}={value} is out of range; it is at least {least}")
        if not timeout > 0:
            raise ConfigurationError(f"timeout={timeout} is out of range; it is a number of seconds above 0")
        self.model = model
        self.base_url = _checked_url(base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI)
        self.timeout, self.retries, self.patience = timeout, retries, patience
        self.concurrency = concurrency or 64
        self._suggestible = concurrency is None
        self.breaker = Breaker()
        self._key = _find_key(self.base_url, key_env)
        self._channel: _Channel | None = None
        self._urls: dict[str, URL] = {}

    def __repr__(self) -> str:
        return f"<Endpoint {self.model!r} at {self.base_url}>"

    @property
    def root(self) -> str:
        """The URL without the version, where routes beyond the OpenAI API are: `/tokenize`, `/pooling`, `/health`."""
        return self.base_url.removesuffix("/v1")

    async def get(self, path: str, read: Callable[[dict[str, Any]], T]) -> T:
        """What is read of the answer to a GET request; arguments and errors as in `post`."""
        return await self.run(self._answer("GET", path, None, read))

    @overload
    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]: ...
    @overload
    async def post(self, path: str, body: Mapping[str, Any], read: Callable[[dict[str, Any]], T]) -> T: ...
    async def post(
        self, path: str, body: Mapping[str, Any], read: Callable[[dict[str, Any]], Any] | None = None
    ) -> Any:
        """Send JSON and read the JSON that comes back.

        Args:
            path: Below the base URL (`completions`), or below the server's root where it begins with a slash
                (`/pooling`).
            body: What to send.
            read: Makes the result of the answer; by default the answer itself. What it raises on a wrong shape
                (`KeyError`, `IndexError`, `TypeError`, `ValueError` or a `RunError`) is a fault of the server, and
                tried again like others.

        Raises:
            EndpointError: The server failed, after all retries.
            Refused: The server is well and does not take the request.
        """
        return await self.run(self._answer("POST", path, body, read or _as_it_is))

    async def stream(
        self, path: str, body: Mapping[str, Any], make: Callable[[], R], again: Callable[[], bool] | None = None
    ) -> R:
        """Send JSON and read server-sent events until the reader has enough; the connection is then closed.

        Args:
            path: As in `post`.
            body: What to send; `stream` is added.
            make: Makes a reader for each attempt. It runs on the background loop.
            again: Whether to begin anew after a fault. Given for streams that last: the timeout is one of silence then.

        Returns:
            The reader that got a whole answer.

        Raises:
            EndpointError: The server failed, after all retries; a stream that ends too early is a failure.
            Refused: The server is well and does not take the request.
        """

        async def read(response: aiohttp.ClientResponse) -> R:
            reader, heard = make(), False
            async for line in response.content:
                data = line.strip().removeprefix(b"data:").strip() if line.startswith(b"data:") else b""
                if data == b"[DONE]":
                    break
                if not data:
                    continue
                enough = self._read(reader.take, self._parsed(data))
                if not heard:
                    heard = True
                    self.breaker.succeeded()  # a stream may last, or be left before its end
                if enough:
                    return reader
            if not reader.complete:
                raise EndpointError(f"{self} cut its stream short: it ended without a finish reason")
            return reader

        return await self.run(self._send("POST", path, {**body, "stream": True}, read, again))

    def suggest(self, concurrency: int) -> None:
        """Work with so many requests at once from now on, unless the user has said how many."""
        if self._suggestible and concurrency != self.concurrency:
            self.concurrency = concurrency
            if self._channel is not None:
                self._channel.slots = asyncio.Semaphore(concurrency)

    async def aclose(self) -> None:
        """Close all connections; the next call opens new ones."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await self.run(channel.aclose())

    async def _answer(
        self, method: str, path: str, body: Mapping[str, Any] | None, read: Callable[[dict[str, Any]], T]
    ) -> T:
        async def take(response: aiohttp.ClientResponse) -> T:
            return self._read(read, self._parsed(await response.read()))

        return await self._send(method, path, body, take)

    async def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        take: Callable[[aiohttp.ClientResponse], Awaitable[T]],
        again: Callable[[], bool] | None = None,
    ) -> T:
        """Send until it works, or until neither retries nor patience are left."""
        url = self._urls.get(path) or self._urls.setdefault(path, self._url(path))
        data = None if body is None else _encode(body).encode()
        channel = self._open()
        end, attempt = time.monotonic() + self.patience, 0
        while True:
            async with channel.slots:
                left_alone = delay = self.breaker.closed_for()
                if left_alone:
                    fault = EndpointError(
                        f"{self} is left alone for {delay:.1f} s after {self.breaker.limit} faults in a row, "
                        f"the last one: {self.breaker.last}"
                    )
                else:
                    try:
                        made = await self._attempt(channel, method, url, data, take, again is not None)
                    except EndpointError as error:
                        fault = error
                    else:
                        self.breaker.succeeded()
                        return made
                    attempt += 1
                    if not fault.alive:
                        self.breaker.failed(str(fault))
                    delay = backoff(attempt) if fault.retry_after is None else fault.retry_after
            retried = attempt <= self.retries and not left_alone  # while the breaker is open, patience alone waits
            if delay > LONGEST_WAIT or (not retried and time.monotonic() + delay > end) or (again and not again()):
                raise fault
            await asyncio.sleep(delay)

    def _url(self, path: str) -> URL:
        return URL(f"{self.root}{path}" if path.startswith("/") else f"{self.base_url}/{path}")

    async def _attempt(
        self,
        channel: _Channel,
        method: str,
        url: URL,
        data: bytes | None,
        take: Callable[[aiohttp.ClientResponse], Awaitable[T]],
        lasts: bool,
    ) -> T:
        try:
            async with channel.session.request(
                method,
                url,
                data=data,
                headers=self._headers(),
                allow_redirects=False,
                timeout=channel.silence if lasts else channel.whole,
                read_bufsize=LONGEST_LINE if lasts else None,
            ) as response:
                if response.status == 200:
                    return await take(response)
                self._refuse(response.status, response.headers, await response.text(errors="replace"))
        except ConfigurationError:  # is a ValueError as well
            raise
        except TimeoutError:
            why = f"no answer within {self.timeout:g} s; a longer timeout=… may help, or a server that works"
        except (
            aiohttp.ClientError,
            OSError,
            ValueError,
            HttpProcessingError,
        ) as error:  # the last two: too long a line
            why = f"{self._clean(str(error) or type(error).__name__)}; is the server up? `rsd doctor` tells more"
        raise EndpointError(f"{self}: {why}") from None  # causes hold requests, and those hold the key

    def _refuse(self, status: int, headers: Mapping[str, str], text: str) -> None:
        told = self._clean(_message(text))
        if status in _SPARED or status >= 500:
            wait = retry_after(headers)
            spared = status == 429 or wait is not None
            raise EndpointError(f"{self} answered HTTP {status}: {told}", status=status, alive=spared, retry_after=wait)
        remedy = {
            401: "check the API key; key_env=NAME names the variable that holds it",
            403: "check the API key; key_env=NAME names the variable that holds it",
            404: "check the model's name and the base URL, which ends in /v1 with most servers",
        }
        hint = remedy.get(status, "the server does not take this request; a profile=… made for it may help")
        raise Refused(f"{self} answered HTTP {status}: {told}. Remedy: {hint}.", status, told)

    def _parsed(self, data: bytes) -> dict[str, Any]:
        try:
            found = json.loads(data.decode())
        except ValueError:
            raise EndpointError(f"{self} gave what is no JSON: {self._clean(repr(data[:80]))}") from None
        if not isinstance(found, dict):
            raise EndpointError(f"{self} gave {type(found).__name__} where an object was due: {data[:80]!r}")
        if "error" in found and "choices" not in found:
            # Errors in streams, and of servers that answer 200 to everything.
            raise EndpointError(f"{self} gave an error: {self._clean(_message(json.dumps(found)))}")
        return found

    def _read(self, read: Callable[[dict[str, Any]], T], data: dict[str, Any]) -> T:
        try:
            return read(data)
        except EndpointError:
            raise
        except ConfigurationError:
            raise
        except RunError as error:
            raise EndpointError(f"{self}: {error}") from None
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            shown = self._clean(json.dumps(data)[:160])
            raise EndpointError(f"{self} gave an answer of an unknown shape ({error!r}): {shown}") from None

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key.get_secret_value()}"
        return headers

    def _clean(self, text: str) -> str:
        """A text without the key; some servers show it to those who sent it."""
        secret = "" if self._key is None else self._key.get_secret_value()
        return text.replace(secret, "…") if secret else text

    def _open(self) -> _Channel:
        loop = asyncio.get_running_loop()
        if self._channel is None or self._channel.loop is not loop:  # the loop is another one after a fork
            self._channel = _Channel(loop, self.timeout, self.concurrency, _proxy(self.base_url))
            weakref.finalize(self, self._channel.close)
        return self._channel

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run work on the loop that all requests are sent from, whatever loop asks."""
        loop = background_loop()
        if asyncio.get_running_loop() is loop:
            return await work
        begun: list[asyncio.Task[T]] = []
        done: Future[asyncio.Task[T]] = Future()

        def begin() -> None:
            begun.append(loop.create_task(work))
            begun[0].add_done_callback(done.set_result)

        loop.call_soon_threadsafe(begin)
        try:
            await asyncio.shield(asyncio.wrap_future(done))
        except asyncio.CancelledError:
            loop.call_soon_threadsafe(lambda: begun[0].cancel())
            await asyncio.shield(asyncio.wrap_future(done))  # it may tell what it had done by then
            if not begun[0].cancelled():
                begun[0].exception()
                raise
        return done.result().result()


class _Channel:
    """The connections of an endpoint, and the places for requests."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout: float, concurrency: int, proxy: str | None) -> None:
        self.loop = loop
        self.slots = asyncio.Semaphore(concurrency)
        self.whole = aiohttp.ClientTimeout(total=timeout, sock_connect=min(10.0, timeout))
        self.silence = aiohttp.ClientTimeout(sock_read=timeout, sock_connect=min(10.0, timeout))
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # the places bound them
            proxy=proxy,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def aclose(self) -> None:
        await self.session.close()

    def close(self) -> None:
        """Close from any thread, at the latest when the interpreter ends."""
        if self.session.closed or not self.loop.is_running():
            return
        done: Future[None] = asyncio.run_coroutine_threadsafe(self.aclose(), self.loop)
        with suppress(TimeoutError):
            done.result(0 if asyncio._get_running_loop() is self.loop else 1)


_encode = json.JSONEncoder(separators=(",", ":")).encode


def _as_it_is(data: dict[str, Any]) -> dict[str, Any]:
    return data


def _message(text: str) -> str:
    """The human part of an error's body."""
    with suppress(ValueError):
        data = json.loads(text)
        for key in ("error", "detail", "message"):
            if isinstance(data, dict) and data.get(key):
                data = data[key]
        text = data if isinstance(data, str) else json.dumps(data)
    return " ".join(text.split())[:400] or "no reason given"


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(f"{url!r} is no base URL; it looks like http://127.0.0.1:8000/v1")
    if parts.username is not None or parts.password is not None or parts.query:
        raise ConfigurationError(
            f"the base URL of {parts.hostname} must hold no password and no query; name the key's variable by key_env=…"
        )
    return url.rstrip("/") if parts.path.strip("/") else f"{parts.scheme}://{parts.netloc}/v1"


def _is_local(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def _proxy(url: str) -> str | None:
    """The proxy that the environment names. aiohttp's own way of finding it would also send what is in .netrc."""
    parts = urlsplit(url)
    if _is_local(url) or proxy_bypass(parts.netloc):
        return None
    return getproxies().get(parts.scheme)


def _find_key(url: str, variable: str | None) -> SecretStr | None:
    own = [urlsplit(one).hostname for one in (OPENAI, os.environ.get("OPENAI_BASE_URL") or OPENAI)]
    if variable is None and not _is_local(url) and urlsplit(url).hostname not in own:
        return None
    found = os.environ.get(variable or "OPENAI_API_KEY", "")
    if not found and (variable is not None or url.startswith(OPENAI)):
        name = variable or "OPENAI_API_KEY"
        raise ConfigurationError(f"{url} needs a key, and the environment variable {name} is empty. Set it first.")
    return SecretStr(found) if found else None
