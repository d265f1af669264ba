"""Scripted servers with limited concurrency: `python -m tests.benchmarks.crowded ROLE PLACES 0 PORT`.

They are those of `tests.benchmarks.faulty` without faults, and answers have two to ten steps. Requests without a free
place wait, in the order of their arrival.
"""

from __future__ import annotations

import asyncio
import re
import sys
from typing import Any

from tests.benchmarks import faulty
from tests.benchmarks.faulty import Faulty, rejected

SECONDS = {"draft": 0.02, "reward": 0.1, "target": 0.1}
"""Seconds per request: the reward model is the bottleneck."""


def steps_of(problem: int) -> int:
    """Number of steps in the answer to a problem: six on average."""
    return 2 + 7 * problem % 9


def requests_of(problem: int) -> int:
    """Number of requests: a draft and a score for each step, and the target for those that are rejected."""
    return sum(2 + rejected(problem, step) for step in range(1, steps_of(problem) + 1))


class Crowded(Faulty):
    """One server."""

    def __init__(self, role: str, places: int) -> None:
        super().__init__(role, "", 0.0)
        self._places = asyncio.Semaphore(places)

    async def _answer(
        self, path: str, body: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        if not body:
            return await super()._answer(path, body, reader, writer)
        async with self._places:
            await asyncio.sleep(SECONDS[self.role])
            return await super()._answer(path, body, reader, writer)

    def _written(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt: str = body["prompt"]
        if not (named := re.findall(r"Problem (\d+)", prompt)):
            return self._tried_out(body)
        problem, step = int(named[-1]), 1 + len(faulty.WRITTEN.findall(prompt))
        self._served[problem] += 1
        last = step == steps_of(problem)
        text = f"P{problem} step {step} by {self.role}" + (". Done." if last else "\n\n")
        return {"choices": [{"text": text, "finish_reason": "stop", "stop_reason": None if last else "\n\n"}]}


class Process(faulty.Process):
    """A server in a separate process."""

    module = "tests.benchmarks.crowded"

    def __init__(self, role: str, places: int) -> None:
        super().__init__(role, str(places))


async def _run(role: str, places: str, _: str, port: str) -> None:
    server = await asyncio.start_server(Crowded(role, int(places)).serve, "127.0.0.1", int(port), backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_run(*sys.argv[1:]))
