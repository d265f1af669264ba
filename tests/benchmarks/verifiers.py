"""Cheaper reward models and weights: `python -m tests.benchmarks.verifiers --json FILE [--quick]`.

Early exit of reward models (`tests/benchmarks/exits.py`), and weights in int8 and bf16
(`tests/benchmarks/reduced_precision.py`). Everything that is compared is timed in one run, alternately.
"""

from __future__ import annotations

import os
import platform
import time
from datetime import date
from typing import Any

from tests.benchmarks import exits, reduced_precision
from tests.benchmarks.command import Command

GOALS = {
    "exit_agreement": (0.97, True),
    "exit_seconds_ratio": (0.8, False),
    "int8_batch1_ratio": (2.0, True),
    "int8_batch32_ratio": (0.9, True),
    "bf16_kl_ratio": (1.0, False),
}
"""A figure's bound, and whether it is a minimum (true) or a maximum (false)."""


def markdown(data: dict[str, Any]) -> str:
    """The figures as a section of a page."""
    rows = []
    for name in (
        "exit_layers",
        "exit_agreement",
        "exit_seconds_ratio",
        "int8_batch1_ratio",
        "int8_batch32_ratio",
        "int8_greedy_agreement",
        "bf16_kl_ratio",
    ):
        goal, met = "", ""
        if name in GOALS:
            bound, least = GOALS[name]
            goal = f"{'≥' if least else '≤'} {bound}"
            met = "met" if (data[name] >= bound if least else data[name] <= bound) else "missed"
        rows.append(f"| `{name}` | {data[name]:.3f} | {goal} | {met} |")
    return f"""
## Cheaper reward models and weights

Made by `python -m tests.benchmarks.verifiers`, {data["date"]}, {data["machine"]}.

| figure | measured | goal | |
|---|---|---|---|
{chr(10).join(rows)}

{_exits(data)}
"""


def _exits(data: dict[str, Any]) -> str:
    """Savings and effects of early exit, in sentences."""
    low, high = data["exit_accuracy_difference_ci95"]
    first, second = data["exit_agreement_ci95"]
    heads = ", ".join(map(str, data["exit_heads"]))
    return (
        f"Early exit on the embedded family, {data['exit_problems']:,} problems and {data['exit_steps']:,} judged "
        f"steps: the heads are above {heads} of its layers, the margin is {data['exit_margin']:.2f} in log odds. The "
        f"verdict is the full model's for {data['exit_agreement']:.1%} of the steps (95 %: {first:.1%} to "
        f"{second:.1%}), for {data['exit_rejections_kept']:.1%} of those that it rejects. Accuracy of RSD with exits "
        f"is {data['exit_accuracy']:.3f}, with the full model {data['full_accuracy']:.3f}: a difference of "
        f"{data['exit_accuracy_difference']:+.3f} (95 %: {low:+.3f} to {high:+.3f}, paired). The verifier's FLOPs are "
        f"{data['exit_verifier_flops_ratio']:.2f} of the full model's. On the shape of {data['exit_shape']} with the "
        f"depths replayed, {data['exit_answers']} answers of {data['exit_steps_per_answer']:.1f} judged steps: "
        f"{data['exit_seconds']:.2f} against {data['full_seconds']:.2f} seconds of scoring an answer, at "
        f"{data['exit_layers_replayed']:.2f} of the layers."
    )


COMMAND = Command("verifiers", __doc__, {}, markdown, sample="fewer problems, layers and words")


def main() -> None:
    """Measure and write."""
    options = COMMAND.parse()
    started = time.monotonic()
    data: dict[str, Any] = {
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores {platform.machine()}",
        **exits.measure(options.quick),
        **reduced_precision.measure(options.quick),
    }
    COMMAND.write(options, data | {"took_seconds": time.monotonic() - started})


if __name__ == "__main__":
    main()
