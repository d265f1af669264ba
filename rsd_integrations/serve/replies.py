"""Sends the answers of a job to the client: in one piece, or as server-sent events, step by step."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import Any, Protocol

import orjson
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from rsd_core.concurrency import settle
from rsd_integrations.serve.answers import Answer, Delta
from rsd_integrations.serve.errors import ApiError, as_api_error
from rsd_integrations.serve.jobs import Job
from rsd_integrations.serve.serving import Serving

logger = logging.getLogger(__name__)
KEEP_ALIVE = b": keep-alive\n\n"
"""A comment, which event readers skip."""
JSON = "application/json"
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would buffer events
]
"""Headers of an event stream."""
GONE = 499
"""Status of requests whose client disconnected, as in nginx."""


class Form(Protocol):
    """How a route formats the outcome of a job."""

    def whole(self, job: Job) -> dict[str, Any]:
        """All answers in one object."""

    def first(self, job: Job) -> Iterable[bytes]:
        """The events before all answers."""

    def step(self, answer: Answer, delta: Delta) -> Iterable[bytes]:
        """The events for a delta; once the result exists, also those that end the answer."""

    def last(self, job: Job) -> Iterable[bytes]:
        """The events after all answers."""

    def failed(self, error: ApiError) -> Iterable[bytes]:
        """The events for an error midway."""


def event(data: object, name: str | None = None) -> bytes:
    """A server-sent event."""
    lead = b"" if name is None else b"event: " + name.encode() + b"\n"
    return lead + b"data: " + orjson.dumps(data) + b"\n\n"


class Reply(Response):
    """Decodes a job while its client is connected. A disconnect ends it, and the work done is charged.

    Args:
        job: The admitted work.
        form: The route's format.
        serving: The server's state.
        stream: Whether each step is sent as it is accepted. The status is sent with the first one, so that errors
            before any step get their own status.
    """

    def __init__(self, job: Job, form: Form, serving: Serving, *, stream: bool) -> None:
        super().__init__()
        self._job, self._form, self._serving, self._stream = job, form, serving, stream
        self._ready: list[bytes] = []
        """Unsent events."""
        self._news = asyncio.Event()
        self._begun = self._started = self._done = self._gone = False
        self._sent = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI interface."""
        self._send = send
        work, watch = asyncio.ensure_future(self._work()), asyncio.ensure_future(self._watch(receive))
        try:
            await self._pass_on()
            failure = await work
        finally:
            await settle([work, watch])
        if self._stream and (failure is None or self._begun):
            self._say(self._form.last(self._job) if failure is None else self._form.failed(failure))
            await self._send_ready(more=False)
        elif failure is None:
            await self._finish(200, orjson.dumps(self._form.whole(self._job)))
        else:
            await self._finish(failure.status, failure.body, failure.headers)
        scope["rsd.told"] = self._told(GONE if self._gone else 200 if failure is None else failure.status)

    async def _work(self) -> ApiError | None:
        """Decode all answers; return the error, if any."""
        try:
            with self._serving.working(self._job):
                await self._job.run(self._serving.admission, self._serving.metrics, self._tell)
        except Exception as error:
            return as_api_error(error)
        finally:
            self._done = True
            self._news.set()
        return None

    async def _pass_on(self) -> None:
        """Send what is ready while the work continues: a slow reader does not occupy a slot."""
        while True:
            await self._news.wait()
            self._news.clear()
            if self._done:  # the rest goes out together with the end of the stream
                return
            await self._send_ready(more=True)

    def _told(self, status: int) -> dict[str, Any]:
        """The log line, without any text of prompts and answers."""
        results = self._job.results
        return {
            "model": self._job.model,
            "status": status,
            "finish": "+".join(dict.fromkeys(result.finish_reason for result in results)) or "-",
            "tokens": sum(step.size for result in results for step in result.steps),
        }

    async def _tell(self, answer: Answer, delta: Delta) -> None:
        if self._stream:
            self._say(self._form.step(answer, delta))

    def _say(self, events: Iterable[bytes]) -> None:
        """Queue events, to be sent in one piece with others from the same event-loop iteration."""
        if not self._begun:
            self._begun = True
            self._ready += self._form.first(self._job)
        self._ready += events
        self._news.set()

    async def _send_ready(self, *, more: bool) -> None:
        body = b"".join(self._ready)
        self._ready.clear()
        if self._gone:
            return
        self._sent = time.monotonic()
        if not self._started:
            self._started = True
            await self._send_on({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await self._send_on({"type": "http.response.body", "body": body, "more_body": more})

    async def _send_on(self, message: Message) -> None:
        """Send a message; some servers raise an error if the client has disconnected."""
        try:
            await self._send(message)
        except OSError:
            self._leave()

    def _leave(self) -> None:
        self._gone = True
        self._job.cancel.cancel()

    async def _finish(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        if self._gone:  # nobody reads it, but outer layers take silence for a fault
            body, status = b"", GONE
        await Response(body, status, headers, JSON)({"type": "http"}, _nothing, self._send_on)

    async def _watch(self, receive: Receive) -> None:
        """Wait for the client to disconnect, and send keep-alive comments meanwhile."""
        every = self._serving.config.keep_alive
        receiving = asyncio.ensure_future(receive())
        try:
            while True:
                quiet = time.monotonic() - self._sent
                done, _ = await asyncio.wait([receiving], timeout=max(0.01, every - quiet) if self._stream else None)
                if done:
                    if receiving.result()["type"] == "http.disconnect":
                        self._leave()
                        return
                    receiving = asyncio.ensure_future(receive())
                elif time.monotonic() - self._sent >= every:
                    self._sent = time.monotonic()
                    self._say([KEEP_ALIVE])
        finally:
            await settle([receiving])


async def _nothing() -> Any:
    """A receive channel for responses that read nothing."""
    raise AssertionError
