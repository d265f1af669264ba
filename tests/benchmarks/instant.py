"""A server that answers at once, so that a request's time is the client's own work.

It runs in a separate process, so that none of its time counts as the client's, and uses HTTP over loopback, so that the
client does everything that it does with a real server. Its answers have the size and shape of vLLM's.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

TEXT = "The sum of the two is 41 + 12 = 53, and from it the five that were sold are taken.\n\n"


class Instant(asyncio.Protocol):
    """Keeps connections open and answers each request after the same delay."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._left = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._left += data
        while (head := self._left.find(b"\r\n\r\n")) >= 0:
            headers = self._left[:head].lower()
            at = headers.find(b"content-length:")
            length = int(headers[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._left) < head + 4 + length:
                return
            tried = self._left.find(b'"stop":[" "]', head, head + 4 + length) >= 0
            reply = _TRIED if tried else _REPLIES[self._left[:head].split(b" ", 2)[1]]
            self._left = self._left[head + 4 + length :]
            if self._delay:
                asyncio.get_running_loop().call_later(self._delay, self._write, reply)
            else:
                self._write(reply)

    def _write(self, reply: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(reply)


def _reply(data: object) -> bytes:
    body = json.dumps(data).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body


_USAGE = {
    "prompt_tokens": 180,
    "completion_tokens": 28,
    "total_tokens": 208,
    "prompt_tokens_details": {"cached_tokens": 150},
}
_CHOICE = {"index": 0, "text": TEXT, "logprobs": None, "finish_reason": "stop", "stop_reason": "\n\n"}
_REPLIES = {
    b"/v1/models": _reply({"object": "list", "data": [{"id": "m", "owned_by": "vllm", "max_model_len": 4096}]}),
    b"/v1/completions": _reply(
        {"id": "cmpl-1", "object": "text_completion", "model": "m", "choices": [_CHOICE], "usage": _USAGE}
    ),
    b"/pooling": _reply(
        {"id": "pooling-1", "data": [{"index": 0, "data": [[0.1, 0.9]]}], "usage": {"prompt_tokens": 208}}
    ),
}

_TRIED = _reply({"choices": [{**_CHOICE, "text": "The ", "stop_reason": " "}], "usage": _USAGE})
"""The reply to the test of a stop string, at first use."""


async def _serve(delay: float) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Instant(delay), "127.0.0.1", 0, backlog=8192)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def instant_server(delay: float = 0.0) -> Iterator[str]:
    """A server in a separate process with a delay in seconds for each answer; yields its base URL."""
    command = [sys.executable, "-m", "tests.benchmarks.instant", str(delay)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
        finally:
            process.kill()


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1])))
