"""The cost of a sandbox for `code:`: `python -m tests.benchmarks.programs --json FILE [--markdown FILE] [--quick]`.

The same programs alternately in each sandbox that works here, and in one bare Python process without isolation: one
test, twenty tests, a thousand calls by one test, and eight programs at once in four places.
"""

from __future__ import annotations

import asyncio
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from rsd_core import ConfigurationError
from rsd_integrations.verifiers import Programs
from tests.benchmarks.command import Command, Size

SIZES = {"n": Size(20, 3, "rounds of each kind")}
PROGRAM = "def add(a, b):\n    return a + b\n"
KINDS = {
    "one": ["assert add(2, 3) == 5"],
    "twenty": [f"assert add({i}, 1) == {i + 1}" for i in range(20)],
    "calls": ["assert all(add(i, 1) == i + 1 for i in range(1000))"],
    "at_once": ["assert add(2, 3) == 5"],
}
AT_ONCE = 8
BARE = "bare process"
WHERE = ("none", "bwrap", "docker", "podman")


async def isolated(programs: Programs, tests: list[str], times: int) -> None:
    """Run a program several times at once, and check that it passes."""
    assert all(map(all, await asyncio.gather(*(programs.run(PROGRAM, tests) for _ in range(times)))))


def bare(tests: list[str], times: int) -> None:
    """The same with one process per program, and the tests inside it."""
    code = "\n".join(f"exec({PROGRAM + test!r}, {{}})" for test in tests)
    started = [subprocess.Popen([sys.executable, "-I", "-S", "-c", code]) for _ in range(times)]
    assert not any(process.wait() for process in started)


def ways() -> dict[str, Callable[[list[str], int], None]]:
    """The places where programs can run on this machine."""
    found: dict[str, Callable[[list[str], int], None]] = {BARE: bare}
    for where in WHERE:
        try:
            programs = Programs({}, sandbox=where, seconds=60)  # type: ignore[arg-type]
        except ConfigurationError as error:
            print(error, file=sys.stderr)
        else:
            found[where] = lambda tests, times, own=programs: asyncio.run(isolated(own, tests, times))  # type: ignore[misc]
    return found


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of each kind, by place: the median of the rounds, in which all places alternate."""
    taken: dict[str, dict[str, list[float]]] = {}
    known = ways()
    for _ in range(rounds):
        for where, run in known.items():
            for kind, tests in KINDS.items():
                started = time.perf_counter()
                run(tests, AT_ONCE if kind == "at_once" else 1)
                taken.setdefault(where, {}).setdefault(kind, []).append(time.perf_counter() - started)
    return {
        where: {kind: round(statistics.median(seconds), 4) for kind, seconds in kinds.items()}
        for where, kinds in taken.items()
    }


def page(data: dict[str, Any]) -> str:
    """The figures as a page."""
    rows = "\n".join(
        f"| {'bare process, for comparison' if where == BARE else f'`sandbox={where}`'} | "
        + " | ".join(f"{seconds[kind]:.3f}" for kind in KINDS)
        + f" | {seconds['one'] / data['seconds']['none']['one']:.1f} |"
        for where, seconds in data["seconds"].items()
    )
    return f"""\
## Programs and their sandbox

Made by `python -m tests.benchmarks.programs` on {data["date"]}, {data["machine"]}. Seconds, each the median of
{data["rounds"]} alternating rounds, including the start of the processes. The bare process runs the tests inside the
program's process, where programs can fake results; the last column is a ratio. Sandboxes that do not work on the
machine are not listed.

| where | one test | twenty tests | 1,000 calls | {AT_ONCE} programs at once | one test, by `none` |
|---|---|---|---|---|---|
{rows}
"""


COMMAND = Command("programs", __doc__, SIZES, page)


def main() -> None:
    """Measure and write."""
    options = COMMAND.parse()
    warnings.filterwarnings("ignore", message="sandbox=none")
    seconds = measure(options.n)
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, load {os.getloadavg()[1]:.0f}"
    date = datetime.now(UTC).date().isoformat()
    COMMAND.write(options, {"date": date, "machine": machine, "rounds": options.n, "seconds": seconds})


if __name__ == "__main__":
    main()
