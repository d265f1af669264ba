"""What driving three servers costs the client: `python -m tests.benchmarks.client --json FILE [--quick]`.

The servers answer at once, from a process of their own over loopback (`tests.benchmarks.instant`), so processor time
of this process is the client's work: the decoder, the requests, and reading the answers. `--quick` counts fewer of
them; the memory is that of as many at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from rsd_core import BinaryStep, Limits, Path, RewardGuidedDecoder, Scores, Settings, Step, Usage, Verifier
from rsd_core.blocking import wait_for
from rsd_integrations.openai_compatible import Endpoint, load_generator
from tests.benchmarks.command import Command, Size
from tests.benchmarks.instant import instant_server

SIZES = {
    "problems": Size(1000, 200, "problems of a run, of which the best of three counts"),
    "calls": Size(1000, 200, "bare requests by each of the clients"),
}
FLYING = 5000
"""Requests in flight whose memory is measured."""
STEPS = 8
PROMPT = "Mia has 45 apples. On Monday she buys 12 more. On Friday she sells 5. How many apples does Mia have now? ({})"
BODY = {"model": "m", "prompt": PROMPT * 4, "max_tokens": 512, "temperature": 0, "stop": ["\n\n"]}


class Pooled(Verifier):
    """Asks the reward server for each step; every fourth draft is rejected."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.began: Callable[[], None] = lambda: None
        """Called before each request: at the first one, all drafts are still in flight but one."""

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        self.began()
        text = path.text + steps[0].text

        def read(data: dict[str, Any]) -> float:
            return float(data["data"][0]["data"][-1][1])

        reward = await self.endpoint.post("/pooling", {"model": "m", "input": text}, read)
        return Scores((reward if path.depth % 4 else 0.0,), Usage(208, 208))

    async def aclose(self) -> None:
        await self.endpoint.aclose()


def decoder(url: str, concurrency: int) -> RewardGuidedDecoder:
    """RSD with three servers."""

    def generator() -> Any:
        return load_generator(f"m@{url}", mode="completions", concurrency=concurrency)

    return RewardGuidedDecoder(
        drafter=generator(),
        verifier=Pooled(Endpoint("m", url, concurrency=concurrency)),
        target=generator(),
        policy=BinaryStep(delta=0.7),
        settings=Settings(limits=Limits(max_steps=STEPS, max_repeats=None)),
    )


def steps_per_second(url: str, problems: int, concurrency: int = 64) -> dict[str, float]:
    """Steps of finished answers per second of this process's time, and of the clock's."""
    with decoder(url, concurrency) as made:
        made.run_many([PROMPT.format(i) for i in range(concurrency)], concurrency=concurrency)  # connections are open
        cpu, clock = time.process_time(), time.perf_counter()
        results = made.run_many([PROMPT.format(i) for i in range(problems)], concurrency=concurrency)
        cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
    steps = sum(len(result.steps) for result in results)
    assert steps == STEPS * problems
    assert not any(result.degradations for result in results)
    requests = sum(result.ledger.total.calls for result in results)
    return {
        "steps_per_second": steps / cpu,
        "steps_per_second_clock": steps / clock,
        "requests_per_second": requests / cpu,
        "requests_per_step": requests / steps,
    }


def calls_per_second(call: Callable[[], Awaitable[object]], calls: int) -> float:
    """Bare requests per second of this process's time, 32 at once."""

    async def run() -> float:
        await call()
        left = iter(range(calls))

        async def one() -> None:
            for _ in left:
                await call()

        started = time.process_time()
        await asyncio.gather(*(one() for _ in range(32)))
        return calls / (time.process_time() - started)

    return wait_for(run())


def clients(url: str, calls: int) -> dict[str, float]:
    """The same request by this project's endpoint, and by the official client in its two forms."""
    import openai

    endpoint = Endpoint("m", url)
    official = openai.AsyncOpenAI(api_key="none", base_url=url, max_retries=0)
    made = {
        "endpoint": calls_per_second(lambda: endpoint.post("completions", BODY), 4 * calls),
        "openai_typed": calls_per_second(lambda: official.completions.create(**BODY), calls),  # type: ignore[call-overload]
        "openai_raw": calls_per_second(lambda: official.post("completions", cast_to=object, body=BODY), calls),
    }
    wait_for(endpoint.aclose())
    wait_for(official.close())
    return made


def peak_mb(problems: int) -> dict[str, float]:
    """Memory of this process at its peak: while so many requests are in flight, and at the end.

    At the end every problem has had a request in flight to each of three servers, and the connections to the other two
    are kept for its next step.
    """

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    before, flying = peak(), list[float]()
    with instant_server(delay=6.0) as url, decoder(url, concurrency=problems) as made:
        assert isinstance(made.verifier, Pooled)
        made.verifier.began = lambda: flying.append(peak())
        made = made.with_settings(made.settings.updated(max_steps=2))
        results = made.run_many([PROMPT.format(i) for i in range(problems)], concurrency=problems)
    assert all(len(result.steps) == 2 and not result.degradations for result in results)
    return {f"peak_mb_{problems}": flying[0], "with_idle_connections_mb": peak(), "imported_mb": before}


def measured(problems: int, calls: int) -> dict[str, Any]:
    """All figures; the memory's in a process of its own."""
    with instant_server() as url:
        found: dict[str, Any] = max(
            (steps_per_second(url, problems) for _ in range(3)), key=lambda run: run["steps_per_second"]
        )
        found["calls_per_second"] = clients(url, calls)
    command = [sys.executable, "-m", "tests.benchmarks.client", "--peak", str(FLYING)]
    found |= json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


def page(found: dict[str, Any]) -> str:
    """The section of docs/benchmarks.md."""
    calls = found["calls_per_second"]
    return f"""## The client's own work

Measured {found["date"]} with `python -m tests.benchmarks.client`: three servers that answer at once, in a process of
their own on loopback; 64 problems in flight, {found["requests_per_step"]:.2f} requests a step (draft, reward, and the
target for every fourth step). The best of three runs on a machine with two cores.

| | |
|---|---|
| steps per second of one core's time | {found["steps_per_second"]:,.0f} |
| requests per second of one core's time | {found["requests_per_second"]:,.0f} |
| peak memory with 5,000 requests in flight | {found["peak_mb_5000"]:.0f} MB |
| the same with 10,000 idle connections, kept for the next steps | {found["with_idle_connections_mb"]:.0f} MB |
| of which after imports | {found["imported_mb"]:.0f} MB |

Why the client is aiohttp and not the official `openai` package, in bare requests per second of one core's time:

| client | requests per second |
|---|---|
| `Endpoint` | {calls["endpoint"]:,.0f} |
| `openai`, untyped `post` | {calls["openai_raw"]:,.0f} |
| `openai`, `completions.create` | {calls["openai_typed"]:,.0f} |
"""


COMMAND = Command("client", __doc__, SIZES, page)
COMMAND.parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)


def main() -> None:
    """Measure and write."""
    options = COMMAND.parse()
    if options.peak:
        print(json.dumps(peak_mb(options.peak)))
        return
    found = measured(options.problems, options.calls)
    COMMAND.write(options, found | {"date": datetime.now(UTC).date().isoformat()})


if __name__ == "__main__":
    main()
