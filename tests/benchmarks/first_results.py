"""What a batch that is killed has in its file: `python -m tests.benchmarks.first_results --json FILE [--quick]`.

`rsd batch` over three scripted servers, killed with SIGKILL after a quarter of its requests, by this build and by
9862848, which is taken from this repository's history. The servers work on 64 requests at once, and the specs say so;
or they work on as many as the run has in flight.
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
from tests.benchmarks.crowded import SECONDS, Process, requests_of
from tests.benchmarks.faulty import PRM, question

SIZES = {
    "prompts": Size(2000, 400, "prompts of the batch"),
    "concurrency": Size(256, 64, "`rsd batch --concurrency`"),
    "places": Size(64, 16, "requests that a server works on at once, where it does not take all"),
}
GOAL = 0.15


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
    """A batch that is killed after a quarter of its requests: the share of all answers that its file holds.

    Args:
        build: Whose `rsd batch`.
        prompts: How many.
        concurrency: Of the command.
        places: Requests that each server works on at once.
        told: Whether the specs say so.
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
        began = None
        while client.poll() is None and (served := _served(processes)) < work / 4:
            began = time.monotonic() if began is None and served else began
            time.sleep(0.05)
        os.killpg(client.pid, signal.SIGKILL)
        client.wait()
        served = _served(processes)
        rows = out.read_text().splitlines()[1:] if out.exists() else []
    seconds = time.monotonic() - (began or time.monotonic())
    return {"share": len(rows) / prompts, "of_the_work": served / work, "seconds": round(seconds, 1)}


def _served(processes: Sequence[Process]) -> int:
    return sum(sum(process.counts()["served"].values()) for process in processes)


def measured(prompts: int, concurrency: int, places: int) -> dict[str, Any]:
    """Both builds against both kinds of servers."""
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
    rows = "\n".join(
        f"| {what} | {found[kind]['new']['share']:.1%} | {found[kind]['base']['share']:.1%} |"
        for kind, what in names.items()
    )
    command = f"rsd batch --concurrency {found['concurrency']}"
    return f"""## First results

Measured {found["date"]} with `python -m tests.benchmarks.first_results`: `{command}` with {found["prompts"]:,} prompts
whose answers have two to ten steps, over scripted servers that take {SECONDS * 1000:.0f} ms for a request. After a
quarter of all requests it is killed with SIGKILL. The goal is {GOAL:.0%} of all answers in the file.

| servers work | answers in the file | by build {BASE} |
|---|---|---|
{rows}
"""


COMMAND = Command("first_results", __doc__, SIZES, page)


def main() -> None:
    """Measure and write."""
    options = COMMAND.parse()
    sizes = {name: getattr(options, name) for name in SIZES}
    COMMAND.write(options, {"date": datetime.now(UTC).date().isoformat(), **sizes, **measured(**sizes)})


if __name__ == "__main__":
    main()
