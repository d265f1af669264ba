"""RSD against everything else: `python -m tests.benchmarks.quality --json FILE [--quick]`.

On the embedded task: thresholds and budgets are chosen on the development split, then all methods answer the same
held-out problems. Three parts: RSD and the baselines, with paired intervals and tests; voting and best of N at RSD's
FLOPs; the paper's five weighting functions at matched cost (its Figure 6). With a journal next to the JSON file, an
interrupted run resumes.
"""

from __future__ import annotations

import math
import os
import platform
import re
import time
from dataclasses import asdict
from datetime import date
from typing import Any

from rsd_core import BinaryStep, Clipping, Constant, Logistic, RSDConfig, Settings, Sigmoid, WeightingPolicy
from rsd_core.methods import RSDMethod
from rsd_integrations.evaluation import Calibration, Report, calibrate, evaluate, find_task, markdown
from rsd_integrations.evaluation.calibration import plot as plot_calibration
from rsd_integrations.evaluation.plots import accuracy_against_cost
from tests.benchmarks.command import Command, Size
from tests.benchmarks.reports import named

SIZES = {"n": Size(1000, 8, "held-out problems"), "dev": Size(500, 16, "problems of the development split")}
SEED = 3
VERIFIERS = ("verifier", "prm")
BASELINES = ("target", "draft", "speculative", "backtracking:0.5", "beam:8,width=2", "gsi:2")
STEEPNESS = 20.0


def name_of(policy: WeightingPolicy) -> str:
    """The kind of a policy."""
    return text(policy).split(":")[0]


def text(policy: WeightingPolicy) -> str:
    """A policy, as written in methods."""
    data = policy.model_dump()
    kind = data.pop("kind")
    return f"{kind}:" + ",".join(f"{value:.6g}" for value in data.values()) if data else kind


def matched(found: Calibration, policy: WeightingPolicy) -> list[WeightingPolicy]:
    """The weighting functions with a parameter, at the target share expected of a policy."""
    share = found.share(policy)

    def search(make: Any) -> WeightingPolicy:
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if found.share(make(middle)) < share else (low, middle)
        made: WeightingPolicy = make(round((low + high) / 2, 6))
        return made

    return [
        search(lambda x: Constant(p=1 - x)),
        search(lambda x: BinaryStep(delta=x)),
        search(lambda x: Logistic(alpha=STEEPNESS, delta=x)),
        policy,
    ]


def at_equal_flops(report: Report, rsd: str, found: Calibration) -> list[str]:
    """Voting and best of N with enough answers to cost no less than RSD, by the paper's convention."""
    mine, draft, scored = report.methods[rsd].flops_paper, report.methods["draft"].flops_paper, found.row(0).flops_paper
    assert mine
    assert draft
    assert scored
    votes, scores = math.ceil(mine / draft), math.ceil(mine / report.n / scored)
    return [
        f"majority:{votes}",
        *(f"best_of_n:{max(2, scores)},aggregate={kind}" for kind in ("last", "min", "product")),
    ]


def compared(report: Report, pairs: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """Paired comparisons for the page."""
    return [{"method": a, "other": b, **asdict(report.compare(a, b))} for a, b in pairs]


def page(data: dict[str, Any]) -> str:
    """The figures as a page."""
    lines = [
        "## RSD, searches and speculation",
        "",
        f"Made by `python -m tests.benchmarks.quality`, {data['date']}, {data['machine']}. Thresholds chosen on "
        f"{data['dev']} problems of the development split.",
        "",
        data["tables"]["methods"],
        "",
        "![Accuracy against cost](plots/methods.png)",
        "",
        "SpecReason is not among them: the embedded target writes solutions of its task and cannot judge by a prompt.",
        "",
        "Chosen thresholds, and voting and best of N at (at least) the FLOPs of RSD:",
        "",
        "| method | against | difference in accuracy | 95 % | p | times fewer FLOPs, paper's convention | 95 % |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in data["comparisons"]:
        low, high = row["ci95"]
        least, most = row["fewer_flops_paper_ci95"]
        lines.append(
            f"| {row['method']} | {row['other']} | {row['difference']:+.3f} | {low:+.3f} to {high:+.3f} "
            f"| {row['p_value']:.2g} | {row['fewer_flops_paper']:.2f} | {least:.2f}–{most:.2f} |"
        )
    lines += ["", "Five weighting functions at matched shares of the target (the paper's Figure 6):", ""]
    lines += [data["tables"]["weights"], "![The five weighting functions](plots/weights.png)", ""]
    lines += ["The expectations of `rsd calibrate` for the two verifiers on the development split:", ""]
    lines += [f"![Calibration of embedded:{name}](plots/calibration-{name}.png)" for name in VERIFIERS]
    return "\n".join(lines)


COMMAND = Command("quality", __doc__, SIZES, page)
COMMAND.parser.add_argument("--concurrency", type=int, default=32)


def main() -> None:
    """Measure and write; plots go into plots/ next to the page."""
    options = COMMAND.parse()
    import torch

    torch.set_num_threads(1)
    started = time.monotonic()
    dev = find_task("embedded-dev").draw(options.dev, SEED)
    found: dict[str, Calibration] = {}
    for name in VERIFIERS:
        with RSDMethod().build(RSDConfig(verifier=f"embedded:{name}").setup()) as decoder:
            found[name] = calibrate(decoder, dev, concurrency=options.concurrency)
    chosen = {name: found[name].cheapest() for name in VERIFIERS}
    rsd = {name: f"rsd:verifier=embedded:{name}@{text(policy)}" for name, policy in chosen.items()}

    def run(methods: list[str]) -> Report:
        return evaluate(
            RSDConfig(settings=Settings(reuse_rejected=False)),  # as in the paper
            "embedded",
            list(dict.fromkeys(methods)),
            options.n,
            SEED,
            concurrency=options.concurrency,
            journal=COMMAND.journal(options),
        )

    share = found["verifier"].row(chosen["verifier"].delta).target_share
    budgets = [f"rsd@budget_aware:{rate:.3g}" for rate in (share / 2, share, 0.2)]
    others = [
        f"rsd@retry:2/{text(chosen['verifier'])}",
        f"rsd@advantage_aware:{share:.3g}",
        "rsd@request_budget:calls=1",
    ]
    first = run([*BASELINES, *rsd.values(), *budgets, *others])
    sampled = at_equal_flops(first, rsd["verifier"], found["verifier"])
    report = run([*BASELINES, *rsd.values(), *budgets, *others, *sampled])
    weights = {
        f"rsd:verifier=embedded:prm@{text(policy)}": f"{name_of(policy)} at the share of {name_of(fixed)}"
        for fixed in (Clipping(), Sigmoid())
        for policy in matched(found["prm"], fixed)
    }
    five = run(["target", "draft", *weights])
    names = {method: f"rsd, {name}" for name, method in rsd.items()}
    names |= zip(budgets, ("budget_aware, half", "budget_aware, whole", "budget_aware:0.2"), strict=True)
    names |= {method: re.split("[:/]", method.removeprefix("rsd@"))[0] for method in others}
    names |= {method: re.sub(r":\d+,?", " ", method).strip() for method in sampled}
    pairs = [(method, "target") for method in (*rsd.values(), *budgets, *others)]
    pairs += [(rsd["verifier"], method) for method in (*sampled, "speculative", "backtracking:0.5")]
    data = {
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores {platform.machine()}, no GPU, Python {platform.python_version()}",
        "dev": options.dev,
        "chosen": {name: policy.model_dump() for name, policy in chosen.items()},
        "comparisons": compared(report, pairs),
        "methods": named(report, names),
        "weights": named(five, weights),
        "calibration": {name: [asdict(row) for row in made.curve] for name, made in found.items()},
        "tables": {"methods": markdown(report), "weights": markdown(five)},
        "took_seconds": time.monotonic() - started,
    }
    COMMAND.write(options, data)
    if options.markdown:
        plots = options.markdown.parent / "plots"
        plots.mkdir(exist_ok=True)
        accuracy_against_cost(report, plots / "methods.png")
        accuracy_against_cost(five, plots / "weights.png")
        for name, made in found.items():
            plot_calibration(made, plots / f"calibration-{name}.png")


if __name__ == "__main__":
    main()
