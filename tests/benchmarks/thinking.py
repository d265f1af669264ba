"""Who thinks and who answers: `python -m tests.benchmarks.thinking --json FILE [--quick]`.

The recipes for thinking models with the embedded thinkers, on the same held-out problems, paired with the target alone:
accuracy, FLOPs, and seconds of a lone request. GlimpRouter's threshold is the one that sends about half of the steps to
the target, on the development split. With a journal next to the JSON file, an interrupted run resumes.
"""

from __future__ import annotations

import os
import platform
import time
from dataclasses import asdict
from datetime import date
from typing import Any

from rsd_core import RSDConfig
from rsd_integrations.evaluation import Report, evaluate, markdown
from tests.benchmarks.command import Command, Size
from tests.benchmarks.reports import named

SIZES = {
    "n": Size(500, 16, "held-out problems"),
    "dev": Size(100, 16, "problems of the development split"),
    "timed": Size(40, 16, "problems for timing"),
}
SEED = 3
CONFIG = RSDConfig(drafter="embedded:thinking-draft", target="embedded:thinking-target")
THRESHOLDS = (0.001, 0.003, 0.01, 0.03, 0.1)
"""Thresholds of the router, in nats."""
RECIPES = ("draft", "rsd@binary_step:0.5", "specreason:7", "first_steps:2", "drafter_thinks", "target_thinks")


def router(n: int) -> str:
    """The router's recipe with the threshold that sends about half of the steps to the target."""
    methods = [f"glimprouter:{threshold}" for threshold in THRESHOLDS]
    report = evaluate(CONFIG, "embedded-dev", methods, n, SEED, concurrency=32)
    shares = {name: report.methods[name].by_target / report.methods[name].steps for name in methods}
    return min(methods, key=lambda name: abs(shares[name] - 0.5))


def lone_seconds(methods: list[str], n: int) -> dict[str, float]:
    """Seconds per problem of requests one after the other; the methods alternate every few problems."""
    rounds = [evaluate(CONFIG, "embedded", methods, 4, SEED + i, concurrency=1) for i in range(1, 1 + max(1, n // 4))]
    totals = {name: [report.methods[name] for report in rounds] for name in methods}
    return {name: sum(one.seconds for one in part) / sum(one.n for one in part) for name, part in totals.items()}


def against_target(report: Report, seconds: dict[str, float]) -> list[dict[str, Any]]:
    """Each recipe against the target alone, problem by problem."""
    return [
        {
            "method": name,
            **asdict(report.compare(name, "target")),
            "seconds": seconds[name],
            "times_faster": seconds["target"] / seconds[name],
        }
        for name in report.methods
        if name != "target"
    ]


def page(data: dict[str, Any]) -> str:
    """The figures as a section of a page."""
    lines = [
        "## Recipes for thinking models",
        "",
        f"Made by `python -m tests.benchmarks.thinking`, {data['date']}, {data['machine']}, load {data['load']}: "
        f"`embedded:thinking-draft` and `embedded:thinking-target`, greedy, {data['n']} held-out problems; seconds of "
        f"requests one after the other, {data['timed']} problems, with alternating methods. The router's threshold "
        f"is the one that sends about half of the steps to the target, on {data['dev']} problems of the "
        "development split.",
        "",
        data["table"],
        "",
        "The embedded target was not trained to judge by a prompt, so SpecReason shows its cost here, not its quality: "
        "a reply without a digit is a fault of the verifier, and the target writes the step.",
        "",
        "Against the target alone, paired:",
        "",
        "| method | difference in accuracy | 95 % | p | times fewer FLOPs, paper's convention | everything charged "
        "| seconds per problem | times faster |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in data["comparisons"]:
        low, high = row["ci95"]
        lines.append(
            f"| {row['method']} | {row['difference']:+.3f} | {low:+.3f} to {high:+.3f} | {row['p_value']:.2g} "
            f"| {row['fewer_flops_paper']:.2f} | {row['fewer_flops']:.2f} | {row['seconds']:.3f} "
            f"| {row['times_faster']:.2f} |"
        )
    return "\n".join(lines)


COMMAND = Command("thinking", __doc__, SIZES, page)


def main() -> None:
    """Measure and write."""
    options = COMMAND.parse()
    import torch

    torch.set_num_threads(1)
    started, load = time.monotonic(), os.getloadavg()[0]
    routed = router(options.dev)
    methods = ["target", *RECIPES, routed]
    report = evaluate(CONFIG, "embedded", methods, options.n, SEED, concurrency=32, journal=COMMAND.journal(options))
    data = {
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores {platform.machine()}, no GPU, Python {platform.python_version()}",
        "load": f"{load:.1f}",
        "n": options.n,
        "dev": options.dev,
        "timed": options.timed,
        "comparisons": against_target(report, lone_seconds(methods, options.timed)),
        "methods": named(report, {routed: "glimprouter"}),
        "table": markdown(report),
        "took_seconds": time.monotonic() - started,
    }
    COMMAND.write(options, data)


if __name__ == "__main__":
    main()
