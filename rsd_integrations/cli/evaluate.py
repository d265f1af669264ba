"""The commands that measure: `rsd eval` and `rsd calibrate`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from rsd_core import BinaryStep, RSDConfig, RSDError, WeightingPolicy
from rsd_core.methods import RSDMethod
from rsd_integrations.cli.options import (
    Concurrency,
    ConfigFile,
    Delimiter,
    Draft,
    Hedge,
    Lookahead,
    MaxThoughtTokens,
    MaxTokens,
    PolicyText,
    TargetSpec,
    Temperature,
    VerifierSpec,
    check_outputs,
    configured,
    count_of,
    read_mapping,
)
from rsd_integrations.cli.score import processbench
from rsd_integrations.cli.show import eval_progress, eval_tables
from rsd_integrations.cli.terminal import Terminal, end_if_idle, plain, resumable, say, written
from rsd_integrations.evaluation import Calibration, Report, calibrate, evaluate, find_task, markdown
from rsd_integrations.evaluation.calibration import plot as plot_calibration
from rsd_integrations.evaluation.calibration import write_policy
from rsd_integrations.evaluation.plots import accuracy_against_cost, check_format
from rsd_integrations.evaluation.recipes import find_recipe, recipe_names
from rsd_integrations.evaluation.tasks import TASKS
from rsd_integrations.output_files import write_output

TASK = typer.Option(
    help=f"One of {', '.join(TASKS)}, processbench (eval only); the path of a JSONL, CSV or Parquet file; or "
    "`dataset:ORG/NAME,split=test,question=problem,answer=answer`."
)
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all figures there.")]
PlotFile = Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Draw them there (PNG, SVG, PDF).")]


def eval_(
    task: Annotated[str | None, TASK] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Separated by `;` or spaces: rsd, rsd@POLICY, target, draft, majority:16, best_of_n:16,aggregate=min, "
            "beam:16,width=4, backtracking, hgs, specreason, gsi, speculative, speculative:lookup, "
            "speculative_beams:4. Plain names also by commas."
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
    delimiter: Delimiter = None,
    max_tokens: MaxTokens = None,
    max_thought_tokens: MaxThoughtTokens = None,
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
    recipe_data: dict[str, Any] = {} if recipe is None else find_recipe(recipe)
    own = read_mapping(config, "--config") if config is not None else recipe_data.get("config", {})
    source = f"--config {config}" if config is not None else f"--recipe {recipe}"
    words = (draft, target, verifier, policy, temperature, seed)
    settings = configured(
        own,
        *words,
        source=source,
        delimiter=delimiter,
        max_tokens=max_tokens,
        max_thought_tokens=max_thought_tokens,
        lookahead=lookahead,
        hedge=hedge,
    )
    wanted = split_methods(methods) if methods is not None else recipe_data.get("methods", ["rsd", "target", "draft"])
    tasks = recipe_data.get("tasks", ["embedded"]) if task is None else [task]
    count = count_of(n, every, recipe_data.get("n", 100))
    if task == "processbench":
        _refuse_for_processbench(methods=methods, markdown=markdown_file, plot=plot, journal=journal, recipe=recipe)
        check_outputs(json=json_file)
        processbench(data, settings.verifier, _threshold(threshold), n, json_file)
        return
    journals, plots = (_numbered(file, len(tasks)) for file in (journal, plot))
    check_outputs(json=json_file, markdown=markdown_file, plot=plots, journal=journals)
    for file in plots:
        check_format(file)
    reports: list[Report] = []
    for i, one in enumerate(tasks):
        with _watched(len(wanted), journals[i] if journals else None) as note:
            report = evaluate(
                settings,
                one,
                wanted,
                count,
                seed,
                note,
                concurrency=concurrency,
                journal=journals[i] if journals else None,
            )
        reports.append(report)
        _write(reports, len(tasks), json_file, markdown_file)
        Terminal().print(*eval_tables(reports[-1]), sep="\n")
        for line in reports[-1].ungraded:
            say(f"Warning: {line}", "yellow")
    for file, report in zip(plots, reports, strict=False):
        draw(file, partial(accuracy_against_cost, report))
    written(json_file, markdown_file, *plots)
    idle = [(name, one.never_worked) for report in reports for name, one in report.methods.items()]
    end_if_idle(
        (f"{name}: {line}" for name, lines in idle for line in lines),
        "These figures are none of the method's. Put it right, then run the same command again",
    )


@contextlib.contextmanager
def _watched(methods: int, journal: Path | None) -> Iterator[Callable[[Report], None]]:
    """What to call with each report: it shows how far the evaluation is, and Ctrl-C says how to go on from there."""
    done = 0

    def note(report: Report) -> None:
        nonlocal done
        done = report.done
        show(report)

    def resume() -> str:
        if journal is None:
            return f"{done} answers are lost; with --journal FILE, the same command would go on from them"
        return f"{done} answers are in {journal}; the same command goes on from there"

    with resumable(resume), eval_progress(Terminal(stderr=True), methods) as show:
        yield note


def _write(reports: list[Report], tasks: int, json_file: Path | None, markdown_file: Path | None) -> None:
    """Write what is known by now, before anything else can go wrong."""
    if json_file is not None:
        data = [report.to_dict() for report in reports]
        write_output(json_file, json.dumps(data[0] if tasks == 1 else data, indent=1) + "\n")
    if markdown_file is not None:
        write_output(markdown_file, "\n".join(map(markdown, reports)))


def _refuse_for_processbench(**options: object) -> None:
    """What compares methods has no meaning where one verifier is measured."""
    if misplaced := [f"--{name}" for name, value in options.items() if value is not None]:
        raise RSDError(
            f"processbench measures a verifier; {', '.join(misplaced)} {'is' if len(misplaced) == 1 else 'are'} for "
            "the other tasks. It takes --data, --verifier, --threshold, --n and --json"
        )


def _threshold(text: str) -> float | None:
    """The threshold of ProcessBench; None where it is to be chosen."""
    try:
        return None if text == "auto" else float(text)
    except ValueError as error:
        raise RSDError(f"--threshold {text!r} is neither a number nor `auto`") from error


def _numbered(file: Path | None, count: int) -> list[Path]:
    """A file for each task; the first keeps the name."""
    return [] if file is None else [file, *(file.with_stem(f"{file.stem}-{i}") for i in range(2, count + 1))]


def split_methods(methods: str) -> list[str]:
    """Method names; a comma separates plain ones only, since parameters have commas of their own."""
    parts = methods.replace(";", " ").split()
    return [name for part in parts for name in ([part] if "@" in part or ":" in part else part.split(",")) if name]


def calibrate_(
    task: Annotated[str, TASK] = "embedded-dev",
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
    accuracy: Annotated[
        float | None,
        typer.Option(
            help="The share of the target's accuracy to keep, in (0, 1]: the cheapest threshold that holds it."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Write the policy there.")] = None,
    concurrency: Concurrency = 16,
    json_file: JsonFile = None,
    plot: PlotFile = None,
) -> None:
    """Find a threshold, or start a budget, from rewards recorded once.

    Prints what each threshold is expected to cost and to bring, with 95 % intervals, and writes a policy file that
    `--policy` and every adapter reads: a budget where `--target-share` asks for one, else the cheapest threshold that
    is expected to be no less accurate than the target (a fifth of the steps, where answers are not known). With
    `--accuracy 0.98` it is the cheapest threshold that keeps 98 % of the target's accuracy with a confidence of 95 %;
    where none does, nothing is written.

    Example: `rsd calibrate --n 200 --out policy.json --plot calibration.png && rsd eval --policy policy.json`
    """
    _refuse_for_calibration(out, target_share, accuracy)
    check_outputs(out=out, json=json_file, plot=plot)
    if plot is not None:
        check_format(plot)
    words = (draft, target, verifier, None, temperature, seed)
    rsd_config = configured(read_mapping(config, "--config"), *words, source=f"--config {config}")
    if not isinstance(rsd_config.method, RSDMethod):
        raise RSDError("rsd calibrate finds a threshold of RSD; leave the method out of the configuration")
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
        return f"What was recorded of {done} problems is not kept, and nothing is written; run again{fewer}"

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
    if calibration.left_out:
        last = calibration.left_out[-1].reason
        say(f"{len(calibration.left_out)} of {len(items)} problems are left out, the last because {last}", "yellow")
    if plot is not None:
        draw(plot, partial(plot_calibration, calibration))
    written(out, json_file, plot)


def draw(file: Path, plot: Callable[[Path], object]) -> None:
    """Draw a plot, after all else is written.

    Raises:
        RSDError: It cannot be drawn; nothing else is lost.
    """
    try:
        plot(file)
    except RSDError:
        raise
    except Exception as error:
        raise RSDError(f"--plot {file} cannot be drawn: {error}. All else is written") from error


def _refuse_for_calibration(out: Path | None, target_share: float | None, accuracy: float | None) -> None:
    """What no calibration could answer."""
    if out is not None and out.suffix != ".json":
        raise RSDError(f"--out {out}: the name of a policy file ends with .json, which tells it from other policies")
    if accuracy is not None and not 0 < accuracy <= 1:
        raise RSDError(f"--accuracy {accuracy}: a share of the target's accuracy, in (0, 1], such as 0.98")
    if accuracy is not None and target_share is not None:
        raise RSDError("--accuracy asks for a threshold and --target-share for a budget; give one of them")


@contextlib.contextmanager
def _recorded(calibration: Calibration, config: RSDConfig, json_file: Path | None) -> Iterator[None]:
    """Where no policy is found, what was recorded is written all the same."""
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
    Terminal().print(_calibration_table(calibration, config, label))


def _chosen(
    calibration: Calibration, target_share: float | None, accuracy: float | None
) -> tuple[WeightingPolicy, str]:
    """The policy that was asked for, and what to call it."""
    if target_share is not None:
        return calibration.budget(target_share), f"budget of {target_share:.0%}"
    if accuracy is None:
        policy = calibration.cheapest()
        return policy, f"δ = {policy.delta:.4g}"
    held = calibration.holding(accuracy)
    keeps = f"{held.expected:.1%} of the target's accuracy, at least {held.at_least:.1%} with 95 % confidence"
    return BinaryStep(delta=held.delta), f"δ = {held.delta:.4g}, which keeps {keeps}"


def _calibration_table(calibration: Calibration, config: RSDConfig, label: str) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        title=plain(
            f"{len(calibration.problems)} problems, {config.drafter}, {config.verifier}, {config.target}", "italic"
        ),
        caption=f"estimates with 95 % intervals (bootstrap over problems); policy: {label}",
    )
    for column in ("δ", "steps by the target", "paper's FLOPs", "FLOPs", "accuracy"):
        table.add_column(column, justify="right")
    for row in calibration.curve[:: max(1, len(calibration.curve) // 14)]:
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
