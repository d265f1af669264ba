"""Requests in flight at an endpoint: as many as the run has, with a notice if it cannot."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rsd_core import TargetOnly
from rsd_core.blocking import wait_for
from rsd_core.queueing import side_by_side
from rsd_integrations.cli import main
from rsd_integrations.openai_compatible import Endpoint, OpenAIGenerator

ENDPOINTS = "rsd_integrations.openai_compatible.endpoint"


class Server:
    """Answers every completion with the end of an answer, and counts how many are inside."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.inside = self.crowd = 0
        self.asked: list[str] = []
        """Prompts in the order in which they arrived."""
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode().lower():
                length = re.search(r"content-length: (\d+)", head)
                body: dict[str, Any] = json.loads(await reader.readexactly(int(length[1]))) if length else {}
                answer = await self.completed(body) if body else {"data": [{"id": "m", "owned_by": self.owner}]}
                text = json.dumps(answer).encode()
                kind = b"application/json"
                if body.get("stream"):
                    text, kind = b"data: " + text + b"\n\ndata: [DONE]\n\n", b"text/event-stream"
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n" % (kind, len(text)))
                writer.write(text)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            writer.close()

    async def completed(self, body: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(body["prompt"])
        self.inside += 1
        self.crowd = max(self.crowd, self.inside)
        await asyncio.sleep(0.05)
        self.inside -= 1
        usage = {"prompt_tokens": 3, "completion_tokens": 3}
        return {
            "choices": [{"text": "It is \\boxed{4}.", "finish_reason": "stop", "stop_reason": None}],
            "usage": usage,
        }


@asynccontextmanager
async def serving(owner: str = "vllm") -> AsyncIterator[Server]:
    server = Server(owner)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, backlog=512)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    try:
        yield server
    finally:
        listening.close()


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == ENDPOINTS]


async def asked(server: Server, prompts: int, concurrency: int, places: int | None = None) -> None:
    """Answer a number of prompts; each takes one request."""
    model = OpenAIGenerator(Endpoint("m", server.url, concurrency=places), mode="completions")
    decoder = TargetOnly(target=model)
    results = await decoder.arun_many([f"Question {i}" for i in range(prompts)], concurrency=concurrency)
    assert [result.answer for result in results] == ["4"] * prompts
    await decoder.arun_many(["Once", "more"], concurrency=concurrency)
    await decoder.aclose()


async def test_a_run_has_as_many_in_flight_as_it_says(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as server:
        await asked(server, 100, 90)
    assert 64 < server.crowd <= 90
    assert not told(caplog)


async def test_calls_of_nobodys_run_keep_to_the_default() -> None:
    async with serving() as server:
        endpoint = Endpoint("m", server.url)
        await asyncio.gather(*(endpoint.post("completions", {"prompt": "q"}) for _ in range(80)))
        assert server.crowd == 64
        with side_by_side(80):
            await asyncio.gather(*(endpoint.post("completions", {"prompt": "q"}) for _ in range(80)))
        assert server.crowd == 80
        await endpoint.aclose()


async def test_fewer_places_by_the_users_word_are_kept_and_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as server:
        await asked(server, 20, 16, places=4)
    assert server.crowd == 4
    assert told(caplog) == [
        f"the run has 16 concurrent requests, but <Endpoint 'm' at {server.url}> processes 4 at once "
        "(as its concurrency=… says): others wait"
    ]


def test_the_command_line_tells_of_it_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('"One"\n"Two"\n"Three"\n')
    running = serving()
    server = wait_for(running.__aenter__())
    target = f"openai,mode=completions,concurrency=2:m@{server.url}"
    words = ["batch", str(prompts), "--out", str(tmp_path / "out.jsonl"), "--method", "target", "--target", target]
    monkeypatch.setattr("sys.argv", ["rsd", *words, "--concurrency", "256"])
    with pytest.raises(SystemExit):
        main()
    wait_for(running.__aexit__(None, None, None))
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "Warning" in line and "processes" in line] == [
        f"Warning: the run has 3 concurrent requests, but <Endpoint 'm' at {server.url}> processes 2 at once "
        "(as its concurrency=… says): others wait"
    ]
    summary, total = lines[-2:]
    assert "3 done" in summary
    assert total.startswith("in total ")
    assert server.crowd == 2


async def test_more_places_than_the_run_needs_cause_no_notice(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as server:
        await asked(server, 20, 16, places=200)
    assert server.crowd == 16
    assert not told(caplog)


async def test_a_server_that_works_on_fewer_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    async with serving("me") as server:  # llama-cpp-python's, which has one lock
        await asked(server, 6, 6)
    assert server.crowd == 1
    (line,) = told(caplog)
    assert line.startswith("the run has 6 concurrent requests, but <Endpoint")
    assert "processes 1 at once (as reported or known for its kind; concurrency=… overrides it)" in line


async def test_a_few_prompts_want_no_more_places_than_they_are(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with serving() as server:
        await asked(server, 4, 64, places=4)
    assert server.crowd == 4
    assert not told(caplog)


async def test_calls_wait_by_the_age_of_their_prompt() -> None:
    async with serving() as server:
        model = OpenAIGenerator(Endpoint("m", server.url, concurrency=1), mode="completions")
        decoder = TargetOnly(target=model)
        await decoder.arun_many([f"Question {i}" for i in range(12)], concurrency=12)
        await decoder.aclose()
    first, *waited = (int(found) for prompt in server.asked for found in re.findall(r"Question (\d+)", prompt))
    assert waited == [i for i in range(12) if i != first]  # the first found a slot free, which any of them may
