"""The workloads of `tests.benchmarks.client` for one build, in a separate process that only imports what it measures.

`python -P client_workloads.py WHAT URL NUMBER` prints JSON. The server is `tests.benchmarks.instant`.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import rsd_core
from rsd_core import BinaryStep, Limits, Path, RewardGuidedDecoder, Scores, Settings, Step, Usage, Verifier
from rsd_core.blocking import wait_for
from rsd_integrations.openai_compatible import Endpoint, load_generator

STEPS = 8
PROMPT = "Mia has 45 apples. On Monday she buys 12 more. On Friday she sells 5. How many apples does Mia have now? ({})"
PATIENCE = 300.0
"""Seconds: thousands of connections at once may overload a server that shares its cores with others."""
BODY = {"model": "m", "prompt": PROMPT * 4, "max_tokens": 512, "temperature": 0, "stop": ["\n\n"]}


class Pooled(Verifier):
    """Asks the reward server for each step; every fourth draft is rejected."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.began: Callable[[], None] = lambda: None
        """Called before each request: at the first one, all drafts but one are still in flight."""

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
        return load_generator(f"m@{url}", mode="completions", concurrency=concurrency, patience=PATIENCE)

    return RewardGuidedDecoder(
        drafter=generator(),
        verifier=Pooled(Endpoint("m", url, concurrency=concurrency, patience=PATIENCE)),
        target=generator(),
        policy=BinaryStep(delta=0.7),
        settings=Settings(limits=Limits(max_steps=STEPS, max_repeats=None)),
    )


def steps(url: str, problems: int, concurrency: int = 64) -> dict[str, float]:
    """Steps of finished answers per second of this process's CPU time, and per second of wall-clock time."""
    with decoder(url, concurrency) as made:
        made.run_many([PROMPT.format(i) for i in range(concurrency)], concurrency=concurrency)  # connections are open
        cpu, clock = time.process_time(), time.perf_counter()
        results = made.run_many([PROMPT.format(i) for i in range(problems)], concurrency=concurrency)
        cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
    count = sum(len(result.steps) for result in results)
    assert count == STEPS * problems
    assert not any(result.degradations for result in results)
    requests = sum(result.ledger.total.calls for result in results)
    return {
        "steps_per_second": count / cpu,
        "steps_per_second_clock": count / clock,
        "requests_per_second": requests / cpu,
        "requests_per_step": requests / count,
    }


def calls(url: str, count: int) -> dict[str, float]:
    """Send the same request many times with this project's endpoint."""
    endpoint = Endpoint("m", url)
    made = {"endpoint": _calls_per_second(lambda: endpoint.post("completions", BODY), 4 * count)}
    wait_for(endpoint.aclose())
    return made


def official(url: str, count: int) -> dict[str, float]:
    """Send the same request with the official client in its two forms."""
    import openai

    client = openai.AsyncOpenAI(api_key="none", base_url=url, max_retries=0)
    made = {
        "openai_typed": _calls_per_second(lambda: client.completions.create(**BODY), count),  # type: ignore[call-overload]
        "openai_raw": _calls_per_second(lambda: client.post("completions", cast_to=object, body=BODY), count),
    }
    wait_for(client.close())
    return made


def memory(url: str, problems: int) -> dict[str, float]:
    """Peak memory of this process: with this number of requests in flight, and at the end.

    By then, every problem has had a request in flight to each of three servers, and the connections to the other two
    are kept for its next step.
    """

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    before, flying = peak(), list[float]()
    with decoder(url, concurrency=problems) as made:
        assert isinstance(made.verifier, Pooled)
        made.verifier.began = lambda: flying.append(peak())
        made = made.with_settings(made.settings.updated(max_steps=2))
        results = made.run_many([PROMPT.format(i) for i in range(problems)], concurrency=problems)
    assert all(len(result.steps) == 2 and not result.degradations for result in results)
    return {"peak_mb": flying[0], "with_idle_connections_mb": peak(), "imported_mb": before}


def _calls_per_second(call: Callable[[], Awaitable[object]], count: int) -> float:
    """Bare requests per second of this process's time, 32 at once."""

    async def run() -> float:
        await call()
        left = iter(range(count))

        async def one() -> None:
            for _ in left:
                await call()

        started = time.process_time()
        await asyncio.gather(*(one() for _ in range(32)))
        return count / (time.process_time() - started)

    return wait_for(run())


if __name__ == "__main__":
    what, url, number = sys.argv[1:]
    kinds: dict[str, Callable[[str, int], dict[str, float]]] = {
        "steps": steps,
        "calls": calls,
        "official": official,
        "memory": memory,
    }
    found = kinds[what](url, int(number))
    print(json.dumps({"file": rsd_core.__file__, "found": found}))
