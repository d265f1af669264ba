"""The commands that measure: `rsd eval` and `rsd calibrate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from rsd_core import BudgetAware, RSDConfig, RSDError, WeightingPolicy
from rsd_core.methods import RSDMethod
from rsd_integrations.cli.options import (
    Concurrency,
    ConfigFile,
    Draft,
    Hedge,
    Lookahead,
    PolicyText,
    TargetSpec,
    Temperature,
    VerifierSpec,
    configured,
    read_mapping,
    writable,
)
from rsd_integrations.cli.score import processbench
from rsd_integrations.cli.show import eval_progress, eval_tables
from rsd_integrations.evaluation import Calibration, calibrate, evaluate, find_task, markdown, plots
from rsd_integrations.evaluation.calibration import plot as plot_calibration
from rsd_integrations.evaluation.calibration import write_policy
from rsd_integrations.evaluation.recipes import find_recipe, recipe_names
from rsd_integrations.evaluation.tasks import TASKS

TaskName = Annotated[
    str,
    typer.Option(
        help=f"One of {', '.join(TASKS)}, processbench (eval only); the path of a JSONL, CSV or Parquet file; or "
        "`dataset:ORG/NAME,split=test,question=problem,answer=answer`."
    ),
]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all figures there.")]
PlotFile = Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Draw them there (PNG, SVG, PDF).")]


def eval_(
    task: TaskName | None = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Separated by `;` or spaces: rsd, rsd@POLICY, target, draft, majority:16, best_of_n:16,aggregate=min, "
            "beam:16,width=4, backtracking, specreason, gsi, speculative. Plain names also by commas."
        ),
    ] = None,
    n: Annotated[int | None, typer.Option("--n", "-n", min=1, help="Number of problems; 100 by default.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All problems of the task.")] = False,
    seed: Annotated[int, typer.Option(help="Draws the problems and the random numbers.")] = 1,
    draft: Draft = None,
    target: TargetSpec = None,
    verifier: VerifierSpec = None,
    policy: PolicyText = None,
    temperature: Temperature = None,
    lookahead: Lookahead = None,
    hedge: Hedge = None,
    config: ConfigFile = None,
    recipe: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"A whole evaluation: {', '.join(recipe_names())}, or a YAML file."),
    ] = None,
    concurrency: Concurrency = 16,
    journal: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Note every finished problem there; a run that finds the file goes on."),
    ] = None,
    json_file: JsonFile = None,
    markdown_file: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Write the tables there.")
    ] = None,
    plot: PlotFile = None,
    data: Annotated[Path | None, typer.Option(metavar="FILE", help="processbench: its files, or one of them.")] = None,
    threshold: Annotated[
        str, typer.Option(help="processbench: a step below it counts as wrong; `auto` chooses the best on gsm8k.")
    ] = "0.5",
) -> None:
    """Compare methods over the same problems: accuracy, FLOPs, seconds, share of the target.

    Example: `rsd eval --n 200 --methods "rsd@binary_step:0.5;rsd@budget_aware:0.1;target;draft" --plot figure.png`

    Words on the command line stand above a recipe's own: `rsd eval --recipe paper-math-7b --draft embedded:draft …`
    """
    made: dict[str, Any] = {} if recipe is None else find_recipe(recipe)
    own = read_mapping(config, "--config") if config is not None else made.get("config", {})
    settings = configured(own, draft, target, verifier, policy, temperature, seed, lookahead=lookahead, hedge=hedge)
    wanted = split_methods(methods) if methods is not None else made.get("methods", ["rsd", "target", "draft"])
    tasks = made.get("tasks", ["embedded"]) if task is None else [task]
    count = None if every else n or made.get("n", 100)
    writable(json=json_file, markdown=markdown_file, plot=plot, journal=journal)
    if task == "processbench":
        _refuse_for_processbench(methods=methods, markdown=markdown_file, plot=plot, journal=journal, recipe=recipe)
        processbench(data, settings.verifier, _threshold(threshold), n, json_file)
        return
    console, told, tables = Console(), [], []
    for i, one in enumerate(tasks):
        with eval_progress(Console(stderr=True), len(wanted)) as progress:
            report = evaluate(
                settings, one, wanted, count, seed, progress, concurrency=concurrency, journal=_numbered(journal, i)
            )
        console.print(*eval_tables(report), sep="\n")
        told.append(report.to_dict())
        tables.append(markdown(report))
        if plot is not None:
            plots.accuracy_against_cost(report, _numbered(plot, i) or plot)
    if json_file is not None:
        json_file.write_text(json.dumps(told[0] if len(told) == 1 else told, indent=1) + "\n")
    if markdown_file is not None:
        markdown_file.write_text("\n".join(tables))
    for file in filter(None, (json_file, markdown_file, plot)):
        console.print(f"written to {file}")


def _refuse_for_processbench(**options: object) -> None:
    """What compares methods has no meaning where one verifier is measured."""
    if given := [f"--{name}" for name, value in options.items() if value is not None]:
        raise RSDError(
            f"processbench measures a verifier; {', '.join(given)} {'is' if len(given) == 1 else 'are'} for the other "
            "tasks. It takes --data, --verifier, --threshold, --n and --json"
        )


def _threshold(text: str) -> float | None:
    """The threshold of ProcessBench; None where it is to be chosen."""
    try:
        return None if text == "auto" else float(text)
    except ValueError as error:
        raise RSDError(f"--threshold {text!r} is neither a number nor `auto`") from error


def _numbered(file: Path | None, i: int) -> Path | None:
    """A file for each task; the first keeps the name."""
    return file if file is None or i == 0 else file.with_stem(f"{file.stem}-{i + 1}")


def split_methods(methods: str) -> list[str]:
    """Method names; a comma separates plain ones only, since parameters have commas of their own."""
    parts = methods.replace(";", " ").split()
    return [name for part in parts for name in ([part] if "@" in part or ":" in part else part.split(",")) if name]


def calibrate_(
    task: TaskName = "embedded-dev",
    n: Annotated[int | None, typer.Option("--n", "-n", min=1, help="Number of problems; 200 by default.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All problems of the task.")] = False,
    seed: Annotated[int, typer.Option(help="Draws the problems and the random numbers.")] = 0,
    draft: Draft = None,
    target: TargetSpec = None,
    verifier: VerifierSpec = None,
    temperature: Temperature = None,
    config: ConfigFile = None,
    target_share: Annotated[
        float | None, typer.Option(min=0, max=1, help="Write a budget: this share of the steps, by rewards like these.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Write the policy there.")] = None,
    concurrency: Concurrency = 16,
    json_file: JsonFile = None,
    plot: PlotFile = None,
) -> None:
    """Find a threshold, or start a budget, from rewards recorded once.

    Prints what each threshold is expected to cost and to bring, with 95 % intervals, and writes a policy file that
    `--policy` and every adapter reads: a budget where `--target-share` asks for one, else the cheapest threshold that
    is expected to be no less accurate than the target (a fifth of the steps, where answers are not known).

    Example: `rsd calibrate --n 200 --out policy.json --plot calibration.png && rsd eval --policy policy.json`
    """
    if out is not None and out.suffix != ".json":
        raise RSDError(f"--out {out}: the name of a policy file ends with .json, which tells it from other policies")
    writable(out=out, json=json_file, plot=plot)
    made = configured(
        read_mapping(config, "--config") if config else {}, draft, target, verifier, None, temperature, seed
    )
    items = find_task(task).draw(None if every else n or 200, seed)
    console = Console()
    if not isinstance(made.method, RSDMethod):
        raise RSDError("rsd calibrate finds a threshold of RSD; leave the method out of the configuration")
    with made.method.build(made.setup()) as decoder, Console(stderr=True).status("recording") as status:
        found = calibrate(
            decoder,
            items,
            concurrency=concurrency,
            progress=lambda done: status.update(f"recording: {done} of {len(items)} problems"),
        )
    chosen: WeightingPolicy = found.cheapest() if target_share is None else found.budget(target_share)
    console.print(_calibration_table(found, made, chosen))
    if out is not None:
        write_policy(chosen, out)
    if json_file is not None:
        json_file.write_text(json.dumps({"policy": chosen.model_dump(mode="json"), **found.to_dict()}, indent=1) + "\n")
    if plot is not None:
        plot_calibration(found, plot)
    for file in filter(None, (out, json_file, plot)):
        console.print(f"written to {file}")


def _calibration_table(found: Calibration, config: RSDConfig, chosen: WeightingPolicy) -> Table:
    told = f"budget of {chosen.target_rate:.0%}" if isinstance(chosen, BudgetAware) else f"δ = {chosen.delta:.4g}"  # type: ignore[attr-defined]
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{len(found.problems)} problems, {config.drafter}, {config.verifier}, {config.target}",
        caption=f"estimates with 95 % intervals (bootstrap over problems); policy: {told}",
    )
    for column in ("δ", "steps by the target", "paper's FLOPs", "FLOPs", "accuracy"):
        table.add_column(column, justify="right")
    for row in found.curve[:: max(1, len(found.curve) // 14)]:
        low, high = row.target_share_ci95
        table.add_row(
            f"{row.delta:.4f}",
            f"{row.target_share:.1%} ({low:.1%}–{high:.1%})",
            _spread(row.flops_paper, row.flops_paper_ci95, 1e6, ",.0f", " M"),
            _spread(row.flops, row.flops_ci95, 1e6, ",.0f", " M"),
            _spread(row.accuracy, row.accuracy_ci95, 1, ".3f", ""),
        )
    return table


def _spread(value: float | None, ci95: tuple[float, float] | None, unit: float, form: str, suffix: str) -> str:
    if value is None or ci95 is None:
        return "unknown"
    low, high = (format(end / unit, form) for end in ci95)
    return f"{format(value / unit, form)}{suffix} ({low}–{high})"
