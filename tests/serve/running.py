"""Servers of the tests: the app on a real socket, in its own thread."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn
from prometheus_client.parser import text_string_to_metric_families

from rsd_core import BinaryStep, Decoder, RewardGuidedDecoder, Settings
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_integrations.serve import ServeConfig, Serving, create_app

QUESTION = "Zoe has 30 pens. Later she wins 14. How many pens does Zoe have now?"


class Running:
    """A server that runs, and a client of it."""

    def __init__(self, url: str, serving: Serving, loop: asyncio.AbstractEventLoop, headers: Mapping[str, str]) -> None:
        self.url, self.serving, self.loop = url, serving, loop
        self.client = httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False)

    def chat(self, content: str = QUESTION, model: str = "rsd", **fields: Any) -> httpx.Response:
        """The answer to a question."""
        body = {"model": model, "messages": [{"role": "user", "content": content}], **fields}
        return self.client.post("/v1/chat/completions", json=body)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels."""
        text = self.client.get("/metrics").text
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        fitting = [one for one in samples if one.name == name and labels.items() <= one.labels.items()]
        return sum(one.value for one in fitting)


@contextmanager
def running(
    config: ServeConfig | None = None,
    decoders: Mapping[str, Decoder] | None = None,
    keys: tuple[str, ...] = (),
    wrap: Callable[[Any], Any] = lambda app: app,
) -> Iterator[Running]:
    """A server with these decoders, until the end of the block."""
    serving = Serving(config or (ServeConfig() if decoders else ServeConfig.embedded()), decoders)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    app = wrap(create_app(keys=keys, serving=serving))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=10))
    loops: list[asyncio.AbstractEventLoop] = []

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        await server.serve([listener])

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    try:
        wait_until(lambda: server.started, 60)
        headers = {"authorization": f"Bearer {keys[0]}"} if keys else {}
        running = Running(f"http://127.0.0.1:{listener.getsockname()[1]}", serving, loops[0], headers)
        with running.client:
            yield running
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def wait_until(true: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def scripted(
    drafts: Any = ("one\n\n", "two\n\n", "three"),
    rewards: Any = (0.9, 0.9, 0.9),
    replacements: Any = ("ONE\n\n", "TWO\n\n", "THREE"),
    *,
    delay: float = 0.0,
    thinking: Any = None,
    **settings: Any,
) -> RewardGuidedDecoder:
    """A decoder whose models play scripts."""
    return RewardGuidedDecoder(
        drafter=ScriptedDrafter(drafts, delay=delay, thinking=thinking),
        verifier=ScriptedVerifier(rewards),
        target=ScriptedTarget(replacements, delay=delay, thinking=thinking),
        policy=BinaryStep(delta=0.7),
        settings=Settings().updated(**settings),
    )


def events(response: httpx.Response) -> list[Any]:
    """The data of server-sent events, in order; `[DONE]` as it is."""
    import json

    told = [line.removeprefix("data: ") for line in response.text.split("\n") if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in told]
