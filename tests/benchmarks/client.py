"""The client's cost of driving three servers: `python -m tests.benchmarks.client --json FILE [--quick]`.

The servers answer at once, from a separate process over loopback (`tests.benchmarks.instant`), so CPU time of the
measured process is the client's work: the decoder, the requests, and reading the answers. This build and 9862848
alternate under one interpreter; the older one is taken from this repository's history, or from the folder of `--base`.
`--quick` counts fewer requests, but measures the memory of just as many at once.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path as File
from typing import Any

from tests.benchmarks.command import Command, Size
from tests.benchmarks.core import BASE, ROOT, Build, checkout
from tests.benchmarks.instant import instant_server

SIZES = {
    "rounds": Size(3, 2, "rounds in which both builds alternate; the best one counts"),
    "problems": Size(1000, 200, "problems of a round"),
    "calls": Size(1000, 200, "bare requests by each client"),
}
FLYING = 5000
"""Requests in flight whose memory is measured."""
DELAY = 6.0
"""Seconds that each of them takes."""


def workload(build: Build, what: str, url: str, number: int) -> dict[str, float]:
    """The figures of `client_workloads.py` for a build."""
    command = build.python(str(File(__file__).with_name("client_workloads.py")), what, url, str(number))
    environment = {**build.environment, "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    data = json.loads(done.stdout)
    assert File(data["file"]).is_relative_to(build.tree)
    found: dict[str, float] = data["found"]
    return found


def measured(builds: Sequence[Build], rounds: int, problems: int, calls: int) -> dict[str, dict[str, float]]:
    """The best figures of each build."""
    found: dict[str, dict[str, float]] = {build.name: {} for build in builds}
    with instant_server() as url:
        for i in range(rounds):
            for build in builds if i % 2 else reversed(builds):
                steps = workload(build, "steps", url, problems)
                endpoint = workload(build, "calls", url, calls)
                for name, value in {**steps, "endpoint_calls_per_second": endpoint["endpoint"]}.items():
                    found[build.name][name] = max(value, found[build.name].get(name, 0.0))
    with instant_server(DELAY) as url:
        for build in builds:
            memory = workload(build, "memory", url, FLYING)
            found[build.name] |= {f"peak_mb_{FLYING}": memory.pop("peak_mb"), **memory}
    return found


def compared(new: dict[str, float], old: dict[str, float]) -> dict[str, float]:
    """This build's speed and memory relative to the older one's."""
    return {f"{name}_ratio": new[name] / old[name] for name in new if name != "requests_per_step"}


def page(found: dict[str, Any]) -> str:
    """The section of docs/benchmarks.md."""
    new, old = found["builds"]["present"], found["builds"]["base"]

    def row(what: str, name: str, unit: str = "") -> str:
        return f"| {what} | {old[name]:,.0f}{unit} | {new[name]:,.0f}{unit} | {found[f'{name}_ratio']:.2f} |"

    official = found["official_calls_per_second"]
    return f"""## The client's own work

Measured {found["date"]} with `python -m tests.benchmarks.client` ({found["machine"]}, load average
{found["load"][0]:.1f}): three servers that answer immediately, in a separate process on loopback; 64 problems in
flight, {new["requests_per_step"]:.2f} requests a step (draft, reward, and the target for every fourth step). This build
and {found["base"]} take turns; the best of {found["rounds"]} rounds of each.

| | {found["base"]} | this build | ratio |
|---|---|---|---|
{row("steps per second of one core's time", "steps_per_second")}
{row("steps per second of wall-clock time, next to the servers", "steps_per_second_clock")}
{row("requests per second of one core's time, within steps", "requests_per_second")}
{row("bare requests per second of one core's time", "endpoint_calls_per_second")}
{row("peak memory with 5,000 requests in flight", "peak_mb_5000", " MB")}
{row("the same with 10,000 idle connections, kept for the next steps", "with_idle_connections_mb", " MB")}
{row("of which after imports", "imported_mb", " MB")}

Why the client is not the official `openai` package: it makes {official["openai_raw"]:,.0f} bare requests per second of
one core's time by its untyped `post`, and {official["openai_typed"]:,.0f} by `completions.create`.
"""


COMMAND = Command("client", __doc__, SIZES, page)
COMMAND.parser.add_argument("--base", type=File, metavar="FOLDER", help=f"a checkout of a build other than {BASE}")


def main() -> None:
    """Measure and write."""
    options = COMMAND.parse()
    with tempfile.TemporaryDirectory() as folder:
        base = checkout(BASE, File(folder)) if options.base is None else Build("", options.base.resolve())
        builds = [Build("base", base.tree), Build("present", ROOT)]
        for build in builds:
            build.check()
        found = measured(builds, options.rounds, options.problems, options.calls)
    with instant_server() as url:
        official = workload(builds[-1], "official", url, options.calls)
    data = {
        **compared(found["present"], found["base"]),
        "builds": found,
        "official_calls_per_second": official,
        "base": base.name or options.base.name,
        "rounds": options.rounds,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores {platform.machine()}, Python {platform.python_version()}",
        "load": os.getloadavg(),
    }
    COMMAND.write(options, data)


if __name__ == "__main__":
    main()
