"""The results in the file of a killed batch: `python -m tests.benchmarks.first_results --json FILE [--quick]`.

`rsd batch` over three scripted servers, killed with SIGKILL after a quarter of its requests, by this build and by
9862848, which is taken from this repository's history. The servers process 64 requests at once, as stated in the specs,
or as many as the run has in flight.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path as File
from tempfile import TemporaryDirectory
from typing import Any

from tests.benchmarks.command import Command, Size
from tests.benchmarks.core import BASE, ROOT, Build, checkout
from tests.benchmarks.crowded import Process, requests_of
from tests.benchmarks.faulty import PRM, question

SIZES = {
    "prompts": Size(2000, 400, "prompts of the batch"),
    "concurrency": Size(256, 64, "`rsd batch --concurrency`"),
    "places": Size(64, 16, "requests that a limited server processes at once"),
}
EARLY, LATE = 1 / 16, 1 / 4
"""The share of its requests after which the answers are counted, and the batch is killed."""
GOAL = 0.15
"""Share of all answers, at the end."""


@contextmanager
def serving(places: int) -> Iterator[Sequence[Process]]:
    """Drafter, verifier and target."""
    processes = [Process(role, places) for role in ("draft", "reward", "target")]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()


def killed(build: Build, prompts: int, concurrency: int, places: int, *, told: bool) -> dict[str, float]:
    """Kill a batch after a quarter of its requests; return the share of all answers in its file then and earlier.

    Args:
        build: The build whose `rsd batch` runs.
        prompts: Number of prompts.
        concurrency: The command's concurrency.
        places: Requests that each server processes at once.
        told: Whether the specs state this number.
    """
    work = sum(map(requests_of, range(prompts)))
    option = f",concurrency={places}" if told else ""
    with serving(places) as processes, TemporaryDirectory() as folder:
        draft, reward, target = (f"{process.role}@{process.url}" for process in processes)
        asked, out = File(folder) / "prompts.jsonl", File(folder) / "results.jsonl"
        asked.write_text("".join(json.dumps({"id": str(i), "prompt": question(i)}) + "\n" for i in range(prompts)))
        client = subprocess.Popen(
            [
                *build.python("-m", "rsd_integrations.cli", "batch", str(asked), "--out", str(out)),
                *("--concurrency", str(concurrency), "--policy", "binary_step:0.7"),
                *("--draft", f"openai,mode=completions,profile=vllm{option}:{draft}"),
                *("--verifier", f"pooling,tokenizer={PRM}{option}:{reward}"),
                *("--target", f"openai,mode=completions,profile=vllm{option}:{target}"),
            ],
            env=build.environment,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        early: int | None = None
        while client.poll() is None and (served := _served(processes)) < work * LATE:
            if early is None and served >= work * EARLY:
                early = _rows(out)
            time.sleep(0.05)
        os.killpg(client.pid, signal.SIGKILL)
        client.wait()
        found = {"early": (early or 0) / prompts, "late": _rows(out) / prompts}
        return found | {"of_the_work": _served(processes) / work}


def _rows(out: File) -> int:
    """Number of answers in a file, after its first line."""
    return max(0, out.read_text().count("\n") - 1) if out.exists() else 0


def _served(processes: Sequence[Process]) -> int:
    return sum(sum(process.counts()["served"].values()) for process in processes)


def measured(prompts: int, concurrency: int, places: int) -> dict[str, Any]:
    """Both builds with both kinds of servers."""
    with TemporaryDirectory() as scratch:
        builds = {"new": Build("this", ROOT), "base": checkout(BASE, File(scratch))}
        for build in builds.values():
            build.check()
        return {
            kind: {name: killed(build, prompts, concurrency, at_once, told=told) for name, build in builds.items()}
            for kind, at_once, told in (("limited", places, True), ("all_at_once", concurrency, False))
        }


def page(found: dict[str, Any]) -> str:
    """The section of docs/benchmarks.md."""
    names = {
        "limited": f"on {found['places']} at once, as the specs say (`concurrency={found['places']}`)",
        "all_at_once": f"on all {found['concurrency']} at once",
    }
    rows = ""
    for kind, what in names.items():
        shares = [found[kind][name][when] for when in ("early", "late") for name in ("new", "base")]
        rows += f"| {what} | {' | '.join(f'{share:.1%}' for share in shares)} |\n"
    command = f"rsd batch --concurrency {found['concurrency']}"
    return f"""## First results

Measured {found["date"]} with `python -m tests.benchmarks.first_results`: `{command}` with {found["prompts"]:,} prompts
whose answers have two to ten steps, over scripted servers that take 20 ms for a draft and 100 ms for a reward or a step
of the target. After a quarter of all requests it is killed with SIGKILL. The share of all answers in the file:

| servers work | after 1/16 of the requests | by build {BASE} | after 1/4 | by build {BASE} |
|---|---|---|---|---|
{rows}
The goal was {GOAL:.0%} after a quarter; the maximum is 25% minus what is in flight.
"""


COMMAND = Command("first_results", __doc__, SIZES, page)


def main() -> None:
    """Measure and write."""
    options = COMMAND.parse()
    sizes = {name: getattr(options, name) for name in SIZES}
    COMMAND.write(options, {"date": datetime.now(UTC).date().isoformat(), **sizes, **measured(**sizes)})


if __name__ == "__main__":
    main()
