"""Batches over a Ray cluster of two nodes: `python -m tests.benchmarks.ray_data --json FILE [--quick]`.

The embedded family samples answers, with Ray Data's `decode` and with the code of `rsd batch --ray`, and one node is
killed when half of them are done. Every answer is compared with that of one process. Then the throughput of two nodes
with one actor each is compared with that of one actor, in alternating rounds, and with the machine's limit: processes
without Ray. Both nodes are on this machine, which needs two cores.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rsd_core import Result, RSDConfig
from rsd_core.blocking import wait_for
from rsd_core.concurrency import run_all
from rsd_integrations.batch import Progress, as_problems, read_results, read_rows, run_journaled
from rsd_integrations.embedded.task import problems
from tests.benchmarks.command import Command, Size

with warnings.catch_warnings():  # Ray 2.60 warns about its own defaults
    warnings.simplefilter("ignore")
    import ray.data
    from ray.cluster_utils import Cluster

from rsd_integrations.ray import Actors, DecoderPool, decode, run_journaled_on_ray

SIZES = {
    "prompts": Size(2000, 150, "prompts whose answers are all compared"),
    "rows": Size(300, 60, "prompts per round of throughput"),
    "rounds": Size(5, 2, "rounds of throughput"),
}
CONFIG = RSDConfig.parse({"settings": {"temperature": 0.8, "seed": 5}})
CPUS = 3
"""A node's logical cores: for its actor, for that of a node that died, and for splitting the dataset."""
GOAL = 1.7
"""Throughput relative to one actor on one core."""
WAYS = {"one actor, one core": (1, 1), "one actor, two cores": (1, 2), "two nodes, an actor and a core each": (2, 1)}
"""Number of actors, and cores of each."""
WITHOUT_RAY = {"one process without Ray, one core": 1, "two processes without Ray, a core each": 2}


@contextmanager
def two_nodes() -> Iterator[tuple[Cluster, Any]]:
    """A cluster, and its node that may be killed."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = Cluster(True, head_node_args={"num_cpus": CPUS, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=CPUS)
        ray.init(cluster.address, logging_level=logging.ERROR, log_to_driver=False)
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel("ERROR")
        yield cluster, second
    finally:
        ray.shutdown()
        cluster.shutdown()


def killed_dataset(prompts: list[str]) -> tuple[list[tuple[str, str]], float]:
    """Names and answers of a dataset, half of which is done when a node dies, and the seconds."""
    rows = []
    with two_nodes() as (cluster, second):
        asked = [
            {"prompt": problem.prompt[0].content, "repeat": problem.repeat, "id": problem.id}
            for problem in as_problems(prompts)
        ]
        dataset = decode(ray.data.from_items(asked), CONFIG, repeat_column="repeat", actors=Actors(count=2))
        started = time.perf_counter()
        for row in dataset.iter_rows():
            rows.append((row["id"], row["text"]))
            if len(rows) == len(prompts) // 2:
                cluster.remove_node(second, allow_graceful=False)
        return rows, time.perf_counter() - started


def killed_batch(prompts: list[str], out: Path) -> tuple[list[tuple[str, str]], float]:
    """The same for the rows of a file that a batch writes."""
    with two_nodes() as (cluster, second):
        half = iter([len(prompts) // 2])
        at = next(half)

        def note(progress: Progress) -> None:
            nonlocal at
            if progress.done == at:
                at = -1
                cluster.remove_node(second, allow_graceful=False)

        started = time.perf_counter()
        run_journaled_on_ray(CONFIG, as_problems(prompts), out, actors=Actors(count=2), progress=note)
        seconds = time.perf_counter() - started
    return [(row["id"], row["result"]["text"]) for row in read_rows(out)[1:]], seconds


def compared(rows: Iterable[tuple[str, str]], seconds: float, expected: dict[str, Result]) -> dict[str, Any]:
    """The number of rows, and their defects."""
    rows = list(rows)
    times = Counter(name for name, _ in rows)
    return {
        "rows": len(rows),
        "twice": sum(count > 1 for count in times.values()),
        "lost": len(expected.keys() - times.keys()),
        "different": sum(text != expected[name].text for name, text in rows),
        "seconds": round(seconds, 1),
    }


async def rate(pool: DecoderPool, prompts: list[str]) -> float:
    """Answers per second."""
    started = time.perf_counter()
    await run_all([pool.arun(prompt) for prompt in prompts])
    return len(prompts) / (time.perf_counter() - started)


async def nodes_of(pool: DecoderPool, count: int) -> int:
    """The number of nodes that have its actors, once all have loaded their models."""
    while sum(seat.actor is not None for seat in pool._seats) < count:  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0.1)
    where = [seat.actor.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id()) for seat in pool._seats]
    return len({await one for one in where})


def throughput(prompts: list[str], rounds: int) -> dict[str, Any]:
    """Answers per second of each set-up: the median of the rounds, and each round."""

    async def measure(count: int, cores: int) -> float:
        async with DecoderPool(CONFIG, Actors(count=count, num_cpus=cores)) as pool:
            if await nodes_of(pool, count) != count:
                raise SystemExit("the actors are on one node")
            await rate(pool, prompts[:16])
            return await rate(pool, prompts)

    each: dict[str, list[float]] = {way: [] for way in (*WITHOUT_RAY, *WAYS)}
    for _ in range(rounds):
        for way, count in WITHOUT_RAY.items():
            each[way].append(round(without_ray(prompts, count), 2))
    with two_nodes():
        for _ in range(rounds):
            for way, (count, cores) in WAYS.items():
                each[way].append(round(wait_for(measure(count, cores)), 2))
    return {"per_second": {way: statistics.median(rates) for way, rates in each.items()}, "rounds": list(each.values())}


PROCESS = """
import json, sys, time
from tests.benchmarks.ray_data import CONFIG
prompts = json.loads(sys.stdin.readline())
with CONFIG.build() as decoder:
    decoder.run_many(prompts[:16])
    print("ready", flush=True)
    sys.stdin.readline()
    started = time.perf_counter()
    decoder.run_many(prompts)
    print(time.perf_counter() - started)
"""
"""Waits for its prompts and a signal to begin, and prints the seconds that it took."""


def without_ray(prompts: list[str], count: int) -> float:
    """Answers per second of parallel processes, with one core for the models of each."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", PROCESS]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes: list[Any] = [subprocess.Popen(words, env=environment, **pipes) for _ in range(count)]
    for at, process in enumerate(processes):
        process.stdin.write(json.dumps(prompts[at::count]) + "\n")
        process.stdin.flush()
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    return len(prompts) / max(float(process.communicate()[0]) for process in processes)


def markdown(data: dict[str, Any]) -> str:
    """The figures as a section of a page."""
    lines = [
        "## Over a Ray cluster",
        "",
        f"Made by `python -m tests.benchmarks.ray_data` in {data['took_seconds'] / 60:.0f} minutes, {data['date']}, "
        f"{data['machine']}, no GPU, load average {data['load']:.1f} before it: Ray {data['ray']}, two nodes on this "
        f"machine, the embedded family at temperature 0.8. One of the nodes is killed when half of {data['prompts']:,} "
        "answers are done.",
        "",
        "| | rows | twice | lost | different from one process | seconds |",
        "|---|---|---|---|---|---|",
        f"| one process | {data['prompts']} | 0 | 0 | | {data['alone_seconds']:.0f} |",
    ]
    for name, told in data["killed"].items():
        figures = (told["rows"], told["twice"], told["lost"], told["different"], f"{told['seconds']:.0f}")
        lines.append(f"| {name} | {' | '.join(map(str, figures))} |")
    lines += [
        "",
        "| throughput, without the start | answers per second, median | minimum–maximum of the rounds | times |",
        "|---|---|---|---|",
    ]
    rates, rounds = data["per_second"], dict(zip(data["per_second"], data["rounds"], strict=True))
    for ways in (WITHOUT_RAY, WAYS):
        one = rates[next(iter(ways))]
        for way in ways:
            spread = f"{min(rounds[way]):.1f}–{max(rounds[way]):.1f}"
            lines.append(f"| {way} | {rates[way]:.1f} | {spread} | {rates[way] / one:.2f} |")
    return "\n".join(lines) + "\n"


COMMAND = Command("ray_data", __doc__, SIZES, markdown)


def main() -> None:
    """Measure and write."""
    options = COMMAND.parse()
    started, load = time.perf_counter(), os.getloadavg()[0]
    drawn = [problem.question for problem in itertools.islice(problems("test", 7), max(options.prompts, options.rows))]
    asked = [*drawn[: options.prompts - options.prompts // 10], *drawn[: options.prompts // 10]]  # some of them twice
    with TemporaryDirectory() as folder:
        alone, out = Path(folder) / "alone.jsonl", Path(folder) / "out.jsonl"
        began = time.perf_counter()
        run_journaled(CONFIG, as_problems(asked), alone)
        alone_seconds, expected = time.perf_counter() - began, read_results(alone)
        killed = {
            "`decode`, a node killed": compared(*killed_dataset(asked), expected),
            "`rsd batch --ray`, a node killed": compared(*killed_batch(asked, out), expected),
        }
    data = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores {platform.machine()}",
        "ray": ray.__version__,
        "load": load,
        "prompts": options.prompts,
        "alone_seconds": round(alone_seconds, 1),
        "killed": killed,
        **throughput(drawn[: options.rows], options.rounds),
    }
    rates = list(data["per_second"].values())
    data |= {"times": round(rates[4] / rates[2], 2), "goal": GOAL, "bound": round(rates[1] / rates[0], 2)}
    data["took_seconds"] = round(time.perf_counter() - started)
    COMMAND.write(options, data)


if __name__ == "__main__":
    main()
