"""The outermost layer of every request: its id, the key, the body size, the log and the counters."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
import time
import uuid
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rsd_core.control_characters import visible
from rsd_integrations.serve.errors import ApiError, as_api_error, ending, too_long
from rsd_integrations.serve.serving import Serving

logger = logging.getLogger("rsd_integrations.serve.access")
REQUEST_ID: ContextVar[str] = ContextVar("rsd_request_id", default="-")
"""The id of the current request."""
_ID = re.compile(rb"[\w.:-]{1,100}")
ASKED = ("/completions", "/responses")
"""Path suffixes of the routes with a body."""
OPEN = frozenset({"/health", "/metrics", "/openapi.json"})
"""Routes that need no key."""


class Edge:
    """The outermost layer.

    Args:
        app: The inner app.
        serving: The server's state.
        keys: Each grants access to the routes under /v1; without any, access is open.
    """

    def __init__(self, app: ASGIApp, serving: Serving, keys: Sequence[str] = ()) -> None:
        self._app, self._serving = app, serving
        self._keys = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI interface."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        own = given.decode() if _ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"
        token, began, status, started = REQUEST_ID.set(own), time.monotonic(), 500, False

        async def send_on(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                started, status = True, message["status"]
                message = {**message, "headers": [*message["headers"], (b"x-request-id", own.encode())]}
            await send(message)

        try:
            try:
                self._check_key(scope, headers)
                self._check_body(scope, headers)
                await self._app(scope, self._bounded(receive), send_on)
            except Exception as error:
                if started:
                    raise
                await _answer(as_api_error(error), send_on)
            except asyncio.CancelledError:
                if not self._serving.admission.draining:
                    raise
                if not started:  # the server is being killed
                    await _answer(ending(), send_on)
        finally:
            told: dict[str, Any] = scope.get("rsd.told", {})
            route = getattr(scope.get("route"), "path", None) or "other"
            status = told.get("status", status)
            self._serving.metrics.answered(route, status)
            level = logging.DEBUG if scope["path"] in OPEN else logging.INFO
            further = "".join(f", {name}={value}" for name, value in told.items() if name != "status")
            seconds = time.monotonic() - began
            shown = visible(scope["path"])[:100] if route == "other" else route
            logger.log(level, "%s %s %d in %.3f s%s", scope["method"], shown, status, seconds, further)
            REQUEST_ID.reset(token)

    def _check_key(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        """Raise if a key is required but no valid one was given."""
        if not self._keys or scope["path"].removeprefix(scope.get("root_path", "")) in OPEN:
            return
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        digest = _digest(key.strip())
        known = [hmac.compare_digest(digest, one) for one in self._keys]  # compare all, in constant time
        if scheme.lower() != b"bearer" or not any(known):
            raise ApiError(
                401,
                "an API key of this server is required: Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )

    def _check_body(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        """Raise for a body that is declared too long or not JSON; the app checks undeclared ones."""
        most, length = self._serving.config.max_body, headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > most:
            raise too_long(most)
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if scope["method"] == "POST" and scope["path"].endswith(ASKED) and kind != b"application/json":
            raise ApiError(
                415, "send JSON, with the header content-type: application/json", code="unsupported_media_type"
            )

    def _bounded(self, receive: Receive) -> Receive:
        """A channel that cuts off a body that is too long."""
        most, read = self._serving.config.max_body, 0

        async def bounded() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > most:
                raise HTTPException(413)  # FastAPI turns other exceptions raised here into status 400
            return message

        return bounded


def _digest(key: bytes) -> bytes:
    """Digests have equal length, so that comparing them reveals nothing about the keys."""
    return hashlib.sha256(key).digest()


async def _answer(error: ApiError, send: Send) -> None:
    body = error.body
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.encode(), value.encode()) for name, value in error.headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
