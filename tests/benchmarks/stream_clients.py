"""Many concurrent clients, in a process that only reads: `python -m tests.benchmarks.stream_clients PLAN`.

Each opens a connection, says `ready` together with the others, and asks its question once a line arrives on standard
input. Answers are kept unchanged and only parsed when all have ended, so that clients do not disturb each other.
"""

from __future__ import annotations

import asyncio
import bisect
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

_EVENT = re.compile(rb"data: (.*)\n\n")
_RETRY = re.compile(rb"\r\nretry-after: (\d+)\r\n", re.IGNORECASE)


@dataclass(slots=True)
class Heard:
    """The answer to one client."""

    question: str
    asked: float = 0.0
    """When its request was sent, on the clock that all processes share."""
    status: int = 0
    """0 if no answer arrived."""
    retry_after: int | None = None
    text: str = ""
    arrivals: list[float] = field(default_factory=list)
    """When each step of the text arrived."""
    finish_reason: str | None = None
    whole: bool = False
    """Whether the stream was complete."""
    tokens: int | None = None
    """Tokens of the answer, from the usage at the end of the stream."""


class _Client(asyncio.Protocol):
    """Asks one question.

    Args:
        question: The question.
        leave_after: Steps after which it hangs up; 0 stays.
    """

    def __init__(self, question: str, leave_after: int) -> None:
        self.question, self._leave_after = question, leave_after
        self.asked = 0.0
        self.ended = asyncio.get_running_loop().create_future()
        self._pieces: list[bytes] = []
        self._times: list[float] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def ask(self) -> None:
        body = {"model": "rsd", "messages": [{"role": "user", "content": self.question}], "stream": True}
        data = json.dumps(body | {"stream_options": {"include_usage": True}}).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: load\r\nContent-Type: application/json\r\n"
        self._transport.write(f"{head}Connection: close\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
        self.asked = time.monotonic()

    def data_received(self, data: bytes) -> None:
        self._times.append(time.monotonic())
        self._pieces.append(data)
        if self._leave_after and len(self._pieces) > self._leave_after:
            self._transport.abort()

    def connection_lost(self, _: Exception | None) -> None:
        self.ended.set_result(None)

    def heard(self) -> Heard:
        """The answer, once it has ended."""
        heard = Heard(self.question, self.asked)
        data = b"".join(self._pieces)
        if not data:
            return heard
        heard.status = int(data[9:12])
        if found := _RETRY.search(data):
            heard.retry_after = int(found[1])
        ends, so_far = [], 0
        for piece in self._pieces:
            so_far += len(piece)
            ends.append(so_far)
        for event in _EVENT.finditer(data):
            if event[1] == b"[DONE]":
                heard.whole = True
                continue
            chunk: dict[str, Any] = json.loads(event[1])
            for choice in chunk.get("choices", ()):
                if content := choice["delta"].get("content"):
                    heard.text += content
                    heard.arrivals.append(self._times[bisect.bisect_right(ends, event.start())])
                heard.finish_reason = choice["finish_reason"] or heard.finish_reason
            if chunk.get("usage"):
                heard.tokens = chunk["usage"]["completion_tokens"]
        return heard


class Clients:
    """A process of connected clients.

    Args:
        port: Port of the server on this machine.
        questions: One per client.
        gap: Seconds between their requests.
        leave_after: Pieces of an answer after which clients hang up.
        leaves: One client in this number hangs up; 0 is none.
    """

    def __init__(
        self, port: int, questions: Sequence[str], *, gap: float = 0.0, leaves: int = 0, leave_after: int = 0
    ) -> None:
        plan = {"port": port, "questions": questions, "gap": gap, "leaves": leaves, "leave_after": leave_after}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.stream_clients"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._write(json.dumps(plan))
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:  # closes its pipes
            self._process.kill()

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def ask(self) -> None:
        """Let all of them ask."""
        self._write("go")

    def heard(self) -> list[Heard]:
        """Their answers, once all have ended."""
        assert self._process.stdout is not None
        return [Heard(**told) for told in json.loads(self._process.stdout.readline())]


async def _run() -> None:
    plan = json.loads(sys.stdin.readline())
    loop = asyncio.get_running_loop()
    clients: list[_Client] = []
    for i, question in enumerate(plan["questions"]):
        leaves = plan["leaves"] and i % plan["leaves"] == 0
        client = _Client(question, plan["leave_after"] if leaves else 0)
        await loop.create_connection(lambda client=client: client, "127.0.0.1", plan["port"])  # type: ignore[misc]
        clients.append(client)
    print("ready", flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    for client in clients:
        client.ask()
        if plan["gap"]:
            await asyncio.sleep(plan["gap"])
    await asyncio.wait([client.ended for client in clients])
    print(json.dumps([asdict(client.heard()) for client in clients]), flush=True)


if __name__ == "__main__":
    asyncio.run(_run())
