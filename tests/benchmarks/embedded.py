"""The embedded family measured: `python -m tests.benchmarks.embedded --json FILE [--quick]`.

A sweep of thresholds on held-out problems, with the drafter and the target alone for comparison; the threshold to
report is chosen on the development split. Accuracy is computed in two parallel processes, seconds afterwards in one,
with nothing else running, method by method on each problem.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import multiprocessing
import os
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from typing import Any

from rsd_core import Path, RSDConfig, Settings, Step, as_prompt, load
from rsd_integrations.embedded.checker import judge
from rsd_integrations.embedded.rollouts import roll_out
from rsd_integrations.evaluation import evaluate
from tests.benchmarks.command import Command, Size
from tests.benchmarks.reports import named

SIZES = {
    "n": Size(1000, 24, "held-out problems", least=2),
    "dev": Size(250, 12, "problems of the development split"),
    "ranked": Size(500, 24, "solutions whose steps the verifiers rank", least=24),
    "timed": Size(100, 6, "problems for timing"),
}
THRESHOLDS = {"verifier": (0.5, 0.9), "prm": (0.1, 0.3, 0.5, 0.7, 0.9)}
SEED = 1


def one_thread() -> None:
    """Models this small lose time when they share cores."""
    import torch

    torch.set_num_threads(1)


def label(verifier: str, threshold: float) -> str:
    """Name of a row of the sweep."""
    return f"RSD, embedded:{verifier}, δ = {threshold}"


SWEEP = {label(v, t): (v, t) for v, thresholds in THRESHOLDS.items() for t in thresholds}


def run(task: str, rows: tuple[str, ...], n: int) -> dict[str, Any]:
    """Some rows of the table over the problems of a task, in parallel; rows of RSD share one verifier."""
    used = {SWEEP[row][0] for row in rows if row in SWEEP} or {"verifier"}
    # As in the paper, the target does not use rejected drafts; reading them saves time but costs some FLOPs.
    config = RSDConfig(verifier=f"embedded:{used.pop()}", settings=Settings(reuse_rejected=False))
    methods = {f"rsd@binary_step:{SWEEP[row][1]}" if row in SWEEP else row: row for row in rows}
    return named(evaluate(config, task, tuple(methods), n, SEED, concurrency=1), methods)


def merged(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Merge reports of different rows over the same problems."""
    whole = reports[0]
    for report in reports[1:]:
        whole["methods"] |= report["methods"]
        for mine, other in zip(whole["problems"], report["problems"], strict=True):
            mine["methods"] |= other["methods"]
    return whole


def chosen(dev: dict[str, Any], verifier: str) -> str:
    """A verifier's cheapest row that is no less accurate than the target, else its most accurate one."""
    rows, found = [row for row, (used, _) in SWEEP.items() if used == verifier], dev["methods"]
    good = [row for row in rows if found[row]["accuracy"] >= found["target"]["accuracy"]]
    if good:
        return min(good, key=lambda row: found[row]["flops_per_problem"])
    return max(rows, key=lambda row: found[row]["accuracy"])


def lone_seconds(row: str, n: int) -> dict[str, Any]:
    """Figures of the target, the drafter and the chosen row, method by method on each problem."""
    methods = run("embedded", ("target", "draft", row), n)["methods"]
    return {"rsd" if name == row else name: figures for name, figures in methods.items()}


def difference(report: dict[str, Any], method: str) -> dict[str, float]:
    """Accuracy of a method minus the target's over the same problems, with its 95 % interval."""
    pairs = [(p["methods"][method]["correct"], p["methods"]["target"]["correct"]) for p in report["problems"]]
    gaps = [a - b for a, b in pairs]
    mean = sum(gaps) / len(gaps)
    half = 1.96 * math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / (len(gaps) - 1) / len(gaps))
    return {"difference": mean, "low": mean - half, "high": mean + half}


def step_auc(verifier: str, n: int) -> dict[str, float]:
    """How well a verifier ranks correct steps above wrong ones, on the drafter's greedy held-out solutions."""
    from scipy import stats

    one_thread()
    drafter, judge_model = load("embedded:draft"), load(f"embedded:{verifier}")
    tokenizer, batch = drafter.vocabulary.tokenizer, min(n, 128)
    rollouts = roll_out(drafter.model, tokenizer, "test", 777, temperatures=(0.0,), batch=batch)
    right: list[float] = []
    wrong: list[float] = []
    for rollout in itertools.islice(rollouts, n):
        path = Path(as_prompt(rollout.problem.question))
        for text, verdict in zip(rollout.steps, judge(rollout.problem, rollout.steps), strict=False):
            last = text == rollout.steps[-1]
            step = Step(text if last else text + "\n\n", "end" if last else "delimiter")
            (reward,) = asyncio.run(judge_model.score(path, [step])).rewards
            (right if verdict.right else wrong).append(reward)
            path = path.extend(step)
    auc = stats.mannwhitneyu(right, wrong).statistic / (len(right) * len(wrong))
    return {
        "auc": float(auc),
        "steps": len(right) + len(wrong),
        "wrong_steps": len(wrong),
        "right_kept_at_0.7": sum(r >= 0.7 for r in right) / len(right),
        "wrong_caught_at_0.7": sum(r < 0.7 for r in wrong) / len(wrong),
    }


def markdown(data: dict[str, Any]) -> str:
    """The figures as a page."""
    test, alone = data["test"]["methods"], data["test"]["methods"]["target"]
    lines = [
        "## The embedded family",
        "",
        f"Made by `python -m tests.benchmarks.embedded`, {data['date']}, {data['machine']}. Greedy decoding, "
        f"{data['test']['n']} held-out problems of the embedded task, seed {data['test']['seed']}.",
        "",
        "| method | accuracy | 95 % | target steps | FLOPs, paper's convention | FLOPs, everything charged |",
        "|---|---|---|---|---|---|",
    ]
    for name, m in test.items():
        low, high = m["ci95"]
        ratio = {key: alone[key] / m[key] for key in ("flops_per_problem", "flops_per_problem_paper")}
        mark = " (chosen)" if name in data["chosen"].values() else ""
        lines.append(
            f"| {name}{mark} | {m['accuracy']:.3f} | {low:.3f}–{high:.3f} "
            f"| {m['target_share']:.1%} | {m['flops_per_problem_paper'] / 1e6:,.0f} M "
            f"({ratio['flops_per_problem_paper']:.2f}x fewer) | {m['flops_per_problem'] / 1e6:,.0f} M "
            f"({ratio['flops_per_problem']:.2f}x fewer) |"
        )
    lines += ["", f"Thresholds were chosen on {data['dev']['n']} problems of the development split.", ""]
    for verifier, row in data["chosen"].items():
        gap = data["difference"][verifier]
        lines.append(
            f"- {row}: accuracy minus the target's, same problems, {gap['difference']:+.3f}, 95 % interval "
            f"{gap['low']:+.3f} to {gap['high']:+.3f} (paired)"
        )
    lines += ["", f"Seconds at batch 1, one thread, method by method on each of {data['timed']} problems:", ""]
    lines += ["| method | seconds per problem | times faster than the target |", "|---|---|---|"]
    for verifier, report in data["seconds"].items():
        for name, m in report.items():
            faster = report["target"]["seconds_per_problem"] / m["seconds_per_problem"]
            shown = data["chosen"][verifier] if name == "rsd" else name
            lines.append(f"| {shown} | {m['seconds_per_problem']:.3f} | {faster:.2f} |")
    lines += [
        "",
        "Verifiers, on the drafter's greedy solutions of other held-out problems:",
        "",
        "| verifier | step AUC | right steps kept at 0.7 | wrong steps caught at 0.7 |",
        "|---|---|---|---|",
    ]
    for name, m in data["verifiers"].items():
        lines.append(
            f"| embedded:{name} | {m['auc']:.4f} | {m['right_kept_at_0.7']:.1%} | {m['wrong_caught_at_0.7']:.1%} |"
        )
    return "\n".join(lines) + "\n"


COMMAND = Command("embedded", __doc__, SIZES, markdown)


def main() -> None:
    """Measure and write."""
    options = COMMAND.parse()
    started = time.monotonic()
    rows = ("target", *SWEEP, "draft")
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawn, initializer=one_thread) as pool:
        jobs = {
            task: [pool.submit(run, task, (row,), n) for row in rows]
            for task, n in (("embedded-dev", options.dev), ("embedded", options.n))
        }
        ranks = {name: pool.submit(step_auc, name, options.ranked) for name in ("verifier", "prm")}
        dev, test = (merged([job.result() for job in jobs[task]]) for task in ("embedded-dev", "embedded"))
        verifiers = {name: job.result() for name, job in ranks.items()}
    best = {verifier: chosen(dev, verifier) for verifier in THRESHOLDS}
    one_thread()
    seconds = {verifier: lone_seconds(row, options.timed) for verifier, row in best.items()}
    test["methods"] = {row: test["methods"][row] for row in ("draft", "target", *SWEEP)}
    data = {
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores {platform.machine()}, no GPU, Python {platform.python_version()}",
        "chosen": best,
        "difference": {verifier: difference(test, row) for verifier, row in best.items()},
        "dev": dev,
        "test": test,
        "timed": options.timed,
        "seconds": seconds,
        "verifiers": verifiers,
        "took_seconds": time.monotonic() - started,
    }
    COMMAND.write(options, data)


if __name__ == "__main__":
    main()
