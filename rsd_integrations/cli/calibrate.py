"""`rsd calibrate`: a threshold or a budget, from rewards recorded once."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from rsd_core import BinaryStep, RSDConfig, RSDError, WeightingPolicy
from rsd_core.methods import RSDMethod
from rsd_integrations.cli.eval_tables import add_columns, table_of, with_interval
from rsd_integrations.cli.evaluate import TASK, JsonFile, PlotFile, draw
from rsd_integrations.cli.options import (
    Concurrency,
    ConfigFile,
    Draft,
    TargetSpec,
    Temperature,
    VerifierSpec,
    check_outputs,
    configured,
    count_of,
    read_mapping,
)
from rsd_integrations.cli.terminal import Terminal, plain, resumable, written
from rsd_integrations.display.reading import amount, counted, digits, unit_of
from rsd_integrations.evaluation import Calibration, calibrate, find_task
from rsd_integrations.evaluation.calibration import Row, write_policy
from rsd_integrations.evaluation.calibration import plot as plot_calibration
from rsd_integrations.evaluation.described import described
from rsd_integrations.evaluation.plots import check_format
from rsd_integrations.output_files import write_output


def calibrate_(
    task: Annotated[str, TASK] = "embedded-dev",
    n: Annotated[int | None, typer.Option("--n", "-n", min=1, help="Number of problems; 200 by default.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All problems of the task.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the problems and the random numbers.")] = 0,
    draft: Draft = None,
    target: TargetSpec = None,
    verifier: VerifierSpec = None,
    temperature: Temperature = None,
    config: ConfigFile = None,
    target_share: Annotated[
        float | None, typer.Option(min=0, max=1, help="Write a budget: this share of steps, for rewards like these.")
    ] = None,
    accuracy: Annotated[
        float | None,
        typer.Option(help="The share of the target's accuracy to keep, in (0, 1], by the cheapest threshold."),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Write the policy there.")] = None,
    concurrency: Concurrency = 16,
    json_file: JsonFile = None,
    plot: PlotFile = None,
) -> None:
    """Find a threshold, or start a budget, from rewards recorded once.

    Prints the expected cost and accuracy of each threshold, with 95 % intervals, and writes a policy file for
    `--policy` and every adapter: a budget if `--target-share` asks for one, else the cheapest threshold that is
    expected to be no less accurate than the target. If answers are unknown or no threshold is that good, it is the one
    that sends about a fifth of the steps to the target. With `--accuracy 0.98`, it is the cheapest threshold that keeps
    98 % of the target's accuracy with 95 % confidence; if none does, no policy is written.

    Example: `rsd calibrate --n 200 --out policy.json --plot calibration.png && rsd eval --policy policy.json`
    """
    _refuse_for_calibration(out, target_share, accuracy)
    check_outputs(out=out, json=json_file, plot=plot)
    if plot is not None:
        check_format(plot)
    words = (draft, target, verifier, None, temperature, seed)
    rsd_config = configured(read_mapping(config, "--config"), *words, source=f"--config {config}")
    if not isinstance(rsd_config.method, RSDMethod):
        raise RSDError("rsd calibrate finds a threshold for RSD; remove the method from the configuration")
    items = find_task(task).draw(count_of(n, every, 200), seed)
    if accuracy is not None and all(item.reference is None for item in items):
        raise RSDError("--accuracy needs problems with known answers; name their field in the task: …,answer=FIELD")
    done = 0

    def note(now: int) -> None:
        nonlocal done
        done = now
        status.update(f"recording: {done} of {len(items)} problems")

    def resume() -> str:
        fewer = f", or with --n {done}" if done else ""
        return f"The records of {done} problems are lost, and nothing is written; run again{fewer}"

    with (
        resumable(resume),
        rsd_config.method.build(rsd_config.setup()) as decoder,
        Terminal(stderr=True).status("recording") as status,
    ):
        calibration = calibrate(decoder, items, concurrency=concurrency, progress=note)
    with _recorded(calibration, rsd_config, json_file):
        chosen, label = _chosen(calibration, target_share, accuracy)
    if out is not None:
        write_policy(chosen, out)
    _write_calibration(calibration, rsd_config, json_file, chosen, label)
    if plot is not None:
        draw(plot, partial(plot_calibration, calibration))
    written(out, json_file, plot)


def _refuse_for_calibration(out: Path | None, target_share: float | None, accuracy: float | None) -> None:
    """Refuse options that no calibration could satisfy."""
    if out is not None and out.suffix != ".json":
        raise RSDError(f"--out {out}: the name of a policy file must end with .json, unlike other policies")
    if accuracy is not None and not 0 < accuracy <= 1:
        raise RSDError(f"--accuracy {accuracy}: must be a share of the target's accuracy, in (0, 1], such as 0.98")
    if accuracy is not None and target_share is not None:
        raise RSDError("--accuracy asks for a threshold and --target-share for a budget; give one of them")


@contextlib.contextmanager
def _recorded(calibration: Calibration, config: RSDConfig, json_file: Path | None) -> Iterator[None]:
    """Write the records even if no policy is found."""
    try:
        yield
    except RSDError:
        _write_calibration(calibration, config, json_file, None, "none")
        raise


def _write_calibration(
    calibration: Calibration, config: RSDConfig, json_file: Path | None, chosen: WeightingPolicy | None, label: str
) -> None:
    if json_file is not None:
        policy = None if chosen is None else chosen.model_dump(mode="json")
        write_output(json_file, json.dumps({"policy": policy, **calibration.to_dict()}, indent=1) + "\n")
    Terminal().print(_calibration_table(calibration, config, chosen))
    Terminal().print(plain(f"policy: {label}"), soft_wrap=True)


def _chosen(
    calibration: Calibration, target_share: float | None, accuracy: float | None
) -> tuple[WeightingPolicy, str]:
    """The requested policy, and its label."""
    if target_share is not None:
        return calibration.budget(target_share), f"budget of {target_share:.0%}"
    if accuracy is None:
        policy = calibration.cheapest()
        return policy, f"δ = {policy.delta:.6g}{_instead(calibration, policy)}"
    held = calibration.holding(accuracy)
    keeps = f"{held.expected:.1%} of the target's accuracy, at least {held.at_least:.1%} with 95 % confidence"
    return BinaryStep(delta=held.delta), f"δ = {held.delta:.6g}, which keeps {keeps}"


def _instead(calibration: Calibration, policy: BinaryStep) -> str:
    """Why a threshold is not one that is as accurate as the target; empty if it is."""
    if calibration.as_accurate:
        return ""
    known = any(problem.target_right is not None for problem in calibration.problems)
    why = "no threshold is expected to be as accurate as the target" if known else "no answer is known"
    share = calibration.row(policy.delta).target_share
    return f", the closest to a fifth of the steps by the target ({share:.0%}): {why}"


def _calibration_table(calibration: Calibration, config: RSDConfig, chosen: WeightingPolicy | None) -> Table:
    """The drafter alone, thresholds from low to high with the chosen one among them, and the target alone."""
    setup = described(config)
    names = ", ".join(f"{role} {setup[role]}" for role in ("drafter", "verifier", "target"))
    table = table_of(
        f"{counted(len(calibration.problems), 'problem')}\n{names}",
        "estimates per problem with 95 % intervals (bootstrap); the drafter alone is without a verifier",
    )
    add_columns(table, ("δ", "target", "paper's\nFLOPs", "all\nFLOPs", "accuracy"))
    delta = chosen.delta if isinstance(chosen, BinaryStep) else None
    shown = calibration.curve[:: max(1, len(calibration.curve) // 14)]
    if delta is not None and all(row.delta != delta for row in shown):
        shown = sorted([*shown, calibration.row(delta)], key=lambda row: row.delta or 0.0)
    table.add_row(*_cells("drafter", calibration.alone("drafter")))
    for row in shown:
        is_chosen = delta is not None and row.delta == delta
        table.add_row(*_cells(f"{'→ ' * is_chosen}{row.delta:.6f}", row), style="bold" if is_chosen else None)
    table.add_row(*_cells("target", calibration.alone("target")))
    return table


def _cells(label: str, row: Row) -> tuple[str, ...]:
    low, high = row.target_share_ci95
    return (
        label,
        f"{row.target_share:.0%}" + f" ({low:.0%}–{high:.0%})".replace("%", "") * (row.delta is not None),
        amount(row.flops_paper),
        _flops(row.flops, row.flops_ci95),
        "unknown"
        if row.accuracy is None or row.accuracy_ci95 is None
        else with_interval(row.accuracy, row.accuracy_ci95),
    )


def _flops(value: float | None, ci95: tuple[float, float] | None) -> str:
    """FLOPs with their interval in one unit: `12.3 (10.1–14.9) M`."""
    if value is None or ci95 is None:
        return "unknown"
    size, prefix = unit_of(value)
    low, high = (digits(end / size) for end in ci95)
    return f"{digits(value / size)} ({low}–{high}) {prefix}"
