"""Scripted model servers with faults: `python -m tests.benchmarks.faulty ROLE FAULT RATE PORT`.

Every step names its problem, position and author, so that a mix-up shows in the text. A problem has three steps; the
reward server decides which drafts to reject from the problem and the step alone.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from contextlib import suppress
from pathlib import Path as File
from typing import Any

from tokenizers import Tokenizer

import rsd_integrations

PRM = File(rsd_integrations.__file__).parent / "embedded" / "checkpoints" / "prm"
"""The reward model whose format the reward server uses."""
STEPS = 3
SEPARATOR = "<extra_0>"
LATENCY = 0.003
WRITTEN = re.compile(r"P(\d+) step (\d+) by (\w+)")
"""A step and its author."""


def question(problem: int) -> str:
    """The prompt of a problem."""
    return f"Problem {problem}: count the steps."


def step_text(problem: int, step: int, author: str) -> str:
    """The author's text of a step, counted from 1."""
    return f"P{problem} step {step} by {author}" + (". Done." if step == STEPS else "\n\n")


def rejected(problem: int, step: int) -> bool:
    """Whether the draft of a step gets a low reward."""
    return (7 * problem + 3 * step) % 4 == 0


class Faulty:
    """One server. It draws its faults at the given rate, from its own generator."""

    def __init__(self, role: str, fault: str, rate: float) -> None:
        self.role, self.fault, self.rate = role, fault, rate
        self._random = random.Random(role)
        self._away_until = 0.0
        self._served: Counter[int] = Counter()
        self._faults = 0
        self._tokenizer = Tokenizer.from_file(str(PRM / "tokenizer.json"))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of a connection."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                found = re.search(r"content-length: (\d+)", head)
                body = json.loads(await reader.readexactly(int(found[1]))) if found else {}
                await asyncio.sleep(LATENCY)
                if not await self._answer(head.split(" ", 2)[1], body, reader, writer):
                    break
        writer.close()

    async def _answer(
        self, path: str, body: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Write an answer; return whether to keep the connection."""
        if path == "/v1/models":
            return self._write(writer, {"data": [{"id": self.role, "owned_by": "vllm"}]})
        if path == "/counts":
            return self._write(writer, {"faults": self._faults, "served": self._served})
        if path.startswith("/away/"):
            self._away_until = time.monotonic() + float(path.removeprefix("/away/"))
            return self._write(writer, {})
        if time.monotonic() < self._away_until:
            self._faults += 1
            return self._write(writer, "no server behind this gateway", "502 Bad Gateway")
        fault = self.fault if self._random.random() < self.rate else ""
        self._faults += bool(fault)
        if fault == "hang":
            await reader.read(1)  # until the client disconnects
            return False
        if fault == "http_500":
            return self._write(
                writer, {"error": {"message": "EngineCore encountered an issue."}}, "500 Internal Server Error"
            )
        if fault == "429":
            return self._write(
                writer, {"error": {"message": "slow down"}}, "429 Too Many Requests", "Retry-After: 1\r\n"
            )
        data = self._pooled(body, fault) if self.role == "reward" else self._written(body)
        if body.get("stream"):
            return await self._stream(writer, data["choices"][0]["text"], fault)
        if fault == "aborted":
            data["choices"][0]["finish_reason"] = "abort"
        if fault == "cut":
            writer.write(_head("200 OK", 1000) + json.dumps(data).encode()[:40])
            return False
        if fault in ("no_stop_reason", "stripped") and "choices" in data:
            choice = data["choices"][0]
            ended_by = choice.pop("stop_reason")
            choice["text"] = choice["text"].removesuffix(ended_by or "") if fault == "stripped" else choice["text"]
        self._write(writer, data, cut=fault == "malformed")
        return fault != "hangs_up"

    def _written(self, body: dict[str, Any]) -> dict[str, Any]:
        if not (named := re.findall(r"Problem (\d+)", body["prompt"])):
            return self._tried_out(body)
        problem = int(named[-1])
        self._served[problem] += 1
        step = 1 + len(WRITTEN.findall(body["prompt"]))
        last = step >= STEPS
        text = step_text(problem, step, self.role)
        if body.get("stream"):  # no stop string was sent, so it continues to the end
            text += "".join(step_text(problem, later, self.role) for later in range(step + 1, STEPS + 1))
        choice = {"text": text, "finish_reason": "stop", "stop_reason": None if last else "\n\n"}
        usage = {"prompt_tokens": len(body["prompt"]) // 4, "completion_tokens": 8}
        return {"choices": [choice], "usage": usage}

    @staticmethod
    def _tried_out(body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a probe of the server's abilities: up to the stop string, like any other."""
        text, stop = "One, two, three, four, five.", next(iter(body.get("stop") or []), None)
        ended_by = stop if stop is not None and stop in text else None
        text = text if ended_by is None else text[: text.index(ended_by) + len(ended_by)]
        choice = {"text": text, "finish_reason": "stop", "stop_reason": ended_by}
        return {"choices": [choice], "usage": {"prompt_tokens": len(body["prompt"]) // 4, "completion_tokens": 8}}

    def _pooled(self, body: dict[str, Any], fault: str) -> dict[str, Any]:
        entries, read = [], 0
        for index, ids in enumerate(body["input"]):
            read += len(ids)
            text = self._tokenizer.decode(ids, skip_special_tokens=False)
            problem, step, _ = WRITTEN.findall(text)[-1]
            self._served[int(problem)] += 1
            right = 0.1 if rejected(int(problem), int(step)) else 0.9
            rows = [[1 - right, right]] * text.count(SEPARATOR)
            if fault == "nan_reward":
                rows = [[float("nan"), float("nan")]] * len(rows)
            entries.append({"index": index, "data": [] if fault == "empty_rows" else rows})
        return {"data": entries, "usage": {"prompt_tokens": read}}

    async def _stream(self, writer: asyncio.StreamWriter, text: str, fault: str) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        parts = re.findall(r"\s*\S+\s*", text)
        for number, part in enumerate(parts):
            if fault == "cut" and number == 2:
                return False
            ends = number == len(parts) - 1 and fault != "no_last_text"
            await self._send_event(writer, {"text": part, "finish_reason": "stop" if ends else None})
        if fault == "no_last_text":
            await self._send_event(writer, {"finish_reason": "stop", "index": 0})
        writer.write(b"data: [DONE]\n\n")
        return False

    @staticmethod
    async def _send_event(writer: asyncio.StreamWriter, choice: dict[str, Any]) -> None:
        writer.write(f"data: {json.dumps({'choices': [choice]})}\n\n".encode())
        await writer.drain()

    @staticmethod
    def _write(
        writer: asyncio.StreamWriter, data: object, status: str = "200 OK", headers: str = "", cut: bool = False
    ) -> bool:
        body = json.dumps(data).encode()
        body = body[: len(body) // 2] if cut else body
        writer.write(_head(status, len(body), headers) + body)
        return True


def _head(status: str, length: int, headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{headers}Content-Length: {length}\r\n\r\n".encode()


class Process:
    """A server in a separate process, which can be killed and restarted on its port."""

    module = "tests.benchmarks.faulty"
    """The module that runs it, given its arguments."""

    def __init__(self, role: str, fault: str = "", rate: float = 0.0) -> None:
        self.role = role
        self._arguments = [role, fault, str(rate)]
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        """Start it, on the same port as before."""
        command = [sys.executable, "-m", self.module, *self._arguments, str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def kill(self) -> None:
        """SIGKILL: connections break without notice."""
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()

    def leave(self, seconds: float) -> None:
        """Answer 502 for some time, like a gateway whose server is down."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/away/{seconds}"):
            pass

    def counts(self) -> dict[str, Any]:
        """The running process's faults, and its requests by problem."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/counts") as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def wait_for_requests(self, count: int, seconds: float = 120.0) -> None:
        """Return once it has served this number of requests."""
        end = time.monotonic() + seconds
        while sum(self.counts()["served"].values()) < count and time.monotonic() < end:
            time.sleep(0.02)


async def _run(role: str, fault: str, rate: str, port: str) -> None:
    server = await asyncio.start_server(Faulty(role, fault, float(rate)).serve, "127.0.0.1", int(port), backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_run(*sys.argv[1:]))
