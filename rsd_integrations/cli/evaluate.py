"""`rsd eval`: many methods on the same problems."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from rsd_core import RSDConfig, RSDError, parse_method
from rsd_integrations.cli.eval_tables import eval_tables
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
from rsd_integrations.cli.progress import eval_progress
from rsd_integrations.cli.score import processbench
from rsd_integrations.cli.terminal import Terminal, end_if_idle, resumable, say, written
from rsd_integrations.cli.unused import idle_options, them
from rsd_integrations.data_files import FILES, check_journal_format, check_written_format
from rsd_integrations.display.reading import counted
from rsd_integrations.evaluation import Evaluation, Report, evaluate, markdown
from rsd_integrations.evaluation.plots import accuracy_against_cost, check_format
from rsd_integrations.evaluation.recipes import find_recipe, recipe_names
from rsd_integrations.evaluation.tasks import TASKS, DatasetTask, find_task
from rsd_integrations.output_files import write_output
from rsd_integrations.recorded import RECORDED_RUNS, Replay

TASK = typer.Option(
    help=f"One of {', '.join(TASKS)}, processbench (eval only); the path of a JSONL, JSON, CSV, TSV or Parquet "
    "file, or of a folder; or `dataset:ORG/NAME,split=test,question=problem,answer=answer`."
)
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all figures there.")]
PlotFile = Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Plot them there (PNG, SVG, PDF).")]

_INSTEAD = {
    "--data": "name a file of problems with --task",
    "--threshold": "the threshold of RSD is part of its policy, such as --policy binary_step:0.7",
}
"""What an option of ProcessBench may have been meant for elsewhere."""


def eval_(
    task: Annotated[str | None, TASK] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Separated by `;` or spaces: rsd, rsd@POLICY, target, draft, majority:16, best_of_n:16,aggregate=min, "
            "beam:16,width=4, backtracking, hgs, specreason, gsi, speculative, speculative:lookup, "
            "speculative_beams:4. Commas also separate plain names."
        ),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option(
            "--n",
            "-n",
            min=1,
            help="Number of problems: 100 by default, or as the recipe or the recorded run says. processbench: the "
            "first solutions of each file, by default all.",
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All problems of the task.")] = False,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the problems and the random numbers; 1 by default.", show_default=False)
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Answers per problem, with seeds from --seed on.", show_default=False)
    ] = None,
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
        Path | None, typer.Option(metavar="FILE", help="Record finished problems there; the same command then resumes.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl.gz", help="Record all calls of the models there, for --replay.")
    ] = None,
    replay: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Run again without the models, from a recorded run: a file, or one included "
            f"({', '.join(RECORDED_RUNS)}). What no option says is as recorded; --lookahead and --hedge have no "
            "effect.",
        ),
    ] = None,
    rows: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write one row per answer there, with its text, thought, rewards, tokens and cost: JSONL, CSV, TSV "
            "or Parquet, by the suffix.",
        ),
    ] = None,
    json_file: JsonFile = None,
    markdown_file: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Write the tables there.")
    ] = None,
    plot: PlotFile = None,
    data: Annotated[Path | None, typer.Option(metavar="FILE", help="processbench: its files, or one of them.")] = None,
    threshold: Annotated[
        str | None,
        typer.Option(
            help="processbench: steps below it count as wrong, 0.5 by default; `auto` chooses the best on gsm8k."
        ),
    ] = None,
) -> None:
    """Compare methods on the same problems: accuracy, FLOPs, seconds, share of the target.

    Example: `rsd eval --n 200 --methods "rsd@binary_step:0.5;rsd@budget_aware:0.1;target;draft" --plot figure.png`

    Options override a recipe's own values: `rsd eval --recipe paper-math-7b --draft embedded:draft …`
    """
    tape = None if replay is None else _replay(replay, journal=journal, record=record, recipe=recipe)
    recipe_data: dict[str, Any] = {} if recipe is None else find_recipe(recipe)
    base = recipe_data.get("config", {}) if tape is None else tape.record.runs[-1]["config"]
    own = read_mapping(config, "--config") if config is not None else base
    source = f"--config {config}" if config is not None else f"--recipe {recipe}" if recipe else ""
    options: dict[str, Any] = {
        "delimiter": delimiter,
        "max_tokens": max_tokens,
        "max_thought_tokens": max_thought_tokens,
        "lookahead": lookahead,
        "hedge": hedge,
    }

    def settings(seed: int) -> RSDConfig:
        return configured(own, draft, target, verifier, policy, temperature, seed, source=source, **options)

    if task == "processbench":
        misplaced: dict[str, object] = {"methods": methods, "markdown": markdown_file, "plot": plot, "recipe": recipe}
        misplaced |= {
            "journal": journal,
            "record": record,
            "replay": replay,
            "rows": rows,
            "seed": seed,
            "seeds": seeds,
            "draft": draft,
        }
        misplaced |= {"target": target, "policy": policy, "temperature": temperature, **options}
        _refuse_for_processbench(**misplaced)
        check_outputs(json=json_file)
        first = count_of(n, every, None)
        judge, at = settings(1).verifier, _threshold("0.5" if threshold is None else threshold)
        processbench(data, judge, at, first, json_file, concurrency=concurrency)
        return
    _refuse_for_methods({"--data": data, "--threshold": threshold})
    _tell_of_method(own, source)
    wanted = None if methods is None else split_methods(methods)
    runs = _planned(recipe_data) if tape is None else _recorded(tape)
    runs = [
        run.updated(
            task=task,
            methods=wanted,
            seed=seed,
            seeds=seeds,
            **({"n": count_of(n, every, run.n)} if n or every else {}),
        )
        for run in (runs[:1] if task is not None else runs)
    ]
    words = {"policy": policy, "temperature": temperature}
    _refuse_idle(runs, settings(1), **words, **({"lookahead": lookahead, "hedge": hedge} if tape is None else {}))
    if tape is not None and task is None:
        for run in runs:
            _check_here(run.task)
    journals, plots = (_numbered(file, len(runs)) for file in (journal, plot))
    check_outputs(json=json_file, markdown=markdown_file, rows=rows, plot=plots, journal=journals, record=record)
    for file in plots:
        check_format(file)
    if rows is not None:
        check_written_format(rows, "--rows")
    if journal is not None:
        check_journal_format(journal, "--journal")
    reports: list[Report] = []
    for i, run in enumerate(runs):
        with _watched(len(run.methods), concurrency, journals[i] if journals else None) as note:
            report = evaluate(
                settings(run.seed),
                run.task,
                run.methods,
                run.n,
                run.seed,
                note,
                seeds=run.seeds,
                concurrency=concurrency,
                journal=journals[i] if journals else None,
                record=record,
                replay=tape,
            )
        reports.append(report)
        _write(reports, len(runs), json_file, markdown_file, rows)
        Terminal().print(*eval_tables(reports[-1]), sep="\n")
        for line in (*reports[-1].faults, *reports[-1].abstentions):
            say(f"Warning: {line}", "yellow")
    for file, report in zip(plots, reports, strict=False):
        draw(file, partial(accuracy_against_cost, report))
    written(json_file, markdown_file, rows, record, *plots)
    idle = [(name, one.never_worked) for report in reports for name, one in report.methods.items()]
    end_if_idle(
        (f"{name}: {line}" for name, lines in idle for line in lines),
        "These figures are not the method's. Fix the cause, then run the same command again",
    )
    _end_if_failed(reports, replayed=tape is not None, journaled=journal is not None)


@dataclass(frozen=True, slots=True)
class _Run:
    """One evaluation of a command."""

    task: str
    methods: list[str]
    n: int | None
    seed: int = 1
    seeds: int = 1

    def updated(self, **values: Any) -> _Run:
        """A copy with the command line's values; None leaves a value unchanged, except for `n`, where it means all."""
        return replace(self, **{name: value for name, value in values.items() if value is not None or name == "n"})


def _planned(recipe: dict[str, Any]) -> list[_Run]:
    """The evaluations of a recipe, or the default one."""
    methods = recipe.get("methods", ["rsd", "target", "draft"])
    return [_Run(task, methods, recipe.get("n", 100)) for task in recipe.get("tasks", ["embedded"])]


def _recorded(tape: Replay) -> list[_Run]:
    """The recorded evaluations; those with the same problems are merged, with all their methods."""
    found: dict[tuple[Any, ...], _Run] = {}
    for run in tape.record.runs:
        key = tuple(run[name] for name in ("task", "n", "seed", "seeds"))
        one = found.setdefault(key, _Run(run["task"], [], run["n"], run["seed"], run["seeds"]))
        one.methods.extend(method for method in run["methods"] if method not in one.methods)
    return list(found.values())


def _check_here(task: str) -> None:
    """Find out whether the file of a recorded task is here.

    Raises:
        RSDError: It is not: the record was made in another folder.
    """
    source = find_task(task)
    path = Path(source.path) if isinstance(source, DatasetTask) else None
    if path is not None and path.suffix.lower() in FILES and not path.exists():
        raise RSDError(f"the recorded task {task!r} is not here: run in the folder of {path}, or name it with --task")


def _replay(file: str, **others: object) -> Replay:
    """The recorded run.

    Raises:
        RSDError: An option has no meaning without models.
    """
    if misplaced := [f"--{name}" for name, value in others.items() if value is not None]:
        raise RSDError(f"--replay asks no model; remove {', '.join(misplaced)}")
    return Replay(file)


@contextlib.contextmanager
def _watched(methods: int, at_once: int, journal: Path | None) -> Iterator[Callable[[Report], None]]:
    """A callback for each report: it shows the progress, and Ctrl-C says how to resume."""
    done = 0

    def note(report: Report) -> None:
        nonlocal done
        done = report.done
        show(report)

    def resume() -> str:
        if journal is None:
            return f"{done} answers are lost; with --journal FILE, the same command would continue from them"
        return f"{done} answers are in {journal}; the same command continues from there"

    with resumable(resume), eval_progress(Terminal(stderr=True), methods, at_once) as show:
        yield note


def _write(
    reports: list[Report], tasks: int, json_file: Path | None, markdown_file: Path | None, rows: Path | None
) -> None:
    """Write the results so far, before anything else can go wrong."""
    if json_file is not None:
        data = [report.to_dict() for report in reports]
        write_output(json_file, json.dumps(data[0] if tasks == 1 else data, indent=1) + "\n")
    if markdown_file is not None:
        write_output(markdown_file, "\n".join(map(markdown, reports)))
    if rows is not None:
        Evaluation.of(*reports).write(rows)


def _refuse_for_processbench(**options: object) -> None:
    """Refuse options that compare methods where one verifier is measured."""
    if misplaced := [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]:
        raise RSDError(
            f"processbench measures a verifier; {', '.join(misplaced)} {'is' if len(misplaced) == 1 else 'are'} for "
            "the other tasks. It takes --data, --verifier or --config, --threshold, --n, --concurrency and --json"
        )


def _end_if_failed(reports: list[Report], *, replayed: bool, journaled: bool) -> None:
    """End the command with an error if answers failed."""
    measured = [method for report in reports for method in report.methods.values()]
    if failed := sum(method.errors for method in measured):
        asked = counted(sum(method.n for method in measured), "answer")
        again = "the same command retries them" if journaled else "with --journal FILE, only they are retried"
        again = "A replay gives the same again: record the run anew" if replayed else f"Run again: {again}"
        raise RSDError(f"{failed} of {asked} failed and were graded as far as they were written. {again}")


def _tell_of_method(config: dict[str, Any], source: str) -> None:
    """Report the method of a configuration, which other commands use."""
    if config.get("method") is not None and source:
        say(f"Warning: the method in {source} is not used here; --methods names those to compare", "yellow")


def _refuse_idle(runs: list[_Run], config: RSDConfig, **options: Any) -> None:
    """Refuse options that none of the methods uses."""
    compared = [parse_method(method) for run in runs for method in run.methods]
    if idle := idle_options(compared, config.settings, **options):
        raise RSDError(f"none of the methods uses {', '.join(idle)}: remove {them(idle)}, or name a method that does")


def _refuse_for_methods(options: dict[str, object]) -> None:
    """Refuse options that measure a verifier where methods are compared."""
    for option, value in options.items():
        if value is not None:
            raise RSDError(f"{option} {value} is only for --task processbench; {_INSTEAD[option]}")


def _threshold(text: str) -> float | None:
    """The threshold of ProcessBench; None if one is to be chosen."""
    try:
        return None if text == "auto" else float(text)
    except ValueError as error:
        raise RSDError(f"--threshold {text!r} is neither a number nor `auto`") from error


def _numbered(file: Path | None, count: int) -> list[Path]:
    """One file per task; the first keeps the name."""
    return [] if file is None else [file, *(file.with_stem(f"{file.stem}-{i}") for i in range(2, count + 1))]


def split_methods(methods: str) -> list[str]:
    """Method names; commas only separate plain ones, since parameters contain commas."""
    parts = methods.replace(";", " ").split()
    return [name for part in parts for name in ([part] if "@" in part or ":" in part else part.split(",")) if name]


def draw(file: Path, plot: Callable[[Path], object]) -> None:
    """Draw a plot, after everything else is written.

    Raises:
        RSDError: The plot cannot be drawn; nothing else is lost.
    """
    try:
        plot(file)
    except RSDError:
        raise
    except Exception as error:
        raise RSDError(f"--plot {file} cannot be drawn: {error}. Everything else is written") from error
