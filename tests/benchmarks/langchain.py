"""ChatRSD measured: `python -m tests.benchmarks.langchain --json FILE [--markdown FILE] [--quick]`.

Concurrent calls of `ainvoke`, and the same calls one after another, on one `ChatRSD` of the embedded family. This build
and 9862848 alternate, each in a separate process; ratios are medians over rounds.
"""

from __future__ import annotations

import itertools
import os
import platform
import statistics
from collections import defaultdict
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rsd_integrations.embedded.task import problems
from tests.benchmarks.command import Command, Size
from tests.benchmarks.core import BASE, ROOT, Build, checkout
from tests.benchmarks.worker import Worker

SIZES = {
    "n": Size(64, 16, "calls", 2),
    "alone": Size(16, 4, "calls one after another"),
    "repeats": Size(5, 1, "rounds in which both builds alternate"),
}
WARM_UP = 11
"""Rounds before those that count: the models' passes are compiled after some hundreds of them, as in a service."""
GOAL = 1.2
"""Throughput of concurrent calls over that of the earlier build."""


def measure(n: int, alone: int, repeats: int) -> dict[str, Any]:
    """Seconds of both builds and both orders, alternating, and whether the answers agree."""
    questions = [problem.question for problem in itertools.islice(problems("test", 3), max(n, alone))]
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    cpu: defaultdict[str, list[float]] = defaultdict(list)
    texts: defaultdict[str, list[str]] = defaultdict(list)
    ways = {"concurrent": (questions[:n], True), "sequential": (questions[:alone], False)}
    with TemporaryDirectory() as scratch, ExitStack() as stack:
        builds = {"new": Build("this", ROOT), "base": checkout(BASE, Path(scratch))}
        for build in builds.values():
            build.check()
        workers = {
            name: stack.enter_context(Worker(build, "langchain_worker.py", threads=None))
            for name, build in builds.items()
        }
        for turn in range(WARM_UP + repeats):
            for way, (asked, together) in ways.items():
                for name in sorted(workers, reverse=bool(turn % 2)):
                    done = workers[name]("ask", asked, together)
                    texts[f"{way}_{name}"] = done["texts"]
                    if turn >= WARM_UP:
                        seconds[f"{way}_{name}"].append(done["seconds"])
                        cpu[f"{way}_{name}"].append(done["cpu"])
    agree = all(texts[f"{way}_new"] == texts[f"{way}_base"] for way in ways)

    def over(a: str, b: str) -> float:
        return statistics.median(x / y for x, y in zip(seconds[a], seconds[b], strict=True))

    per_call = {name: statistics.median(seconds[f"sequential_{name}"]) / alone for name in ("new", "base")}
    return {
        "calls": n,
        "calls_alone": alone,
        "rounds": repeats,
        "base": BASE,
        "seconds": dict(seconds),
        "cpu_seconds": dict(cpu),
        "throughput_over_base": over("concurrent_base", "concurrent_new"),
        "throughput_goal": GOAL,
        "alone_over_base": over("sequential_new", "sequential_base"),
        "seconds_alone": per_call,
        "concurrent_over_sequential": per_call["new"] * n / statistics.median(seconds["concurrent_new"]),
        "same_answers": agree,
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU used",
    }


def page(figures: Any) -> str:
    """The section of docs/benchmarks.md."""
    return f"""
| `ChatRSD` on the embedded family | this build over 9862848 |
|---|---|
| throughput of {figures["calls"]} calls of `ainvoke` at once | {figures["throughput_over_base"]:.2f}x (goal {GOAL}x) |
| seconds of a call alone | {figures["alone_over_base"]:.2f}x |

Calls at once have {figures["concurrent_over_sequential"]:.1f} times the throughput of calls one after another here. \
Medians over {figures["rounds"]} rounds in which both builds alternate; the answers \
{"are the same" if figures["same_answers"] else "differ"}. {figures["date"]}, {figures["machine"]}.
"""


COMMAND = Command("langchain", __doc__, SIZES, page)


def main() -> None:
    """Measure and write."""
    options = COMMAND.parse()
    COMMAND.write(options, measure(options.n, options.alone, options.repeats))


if __name__ == "__main__":
    main()
