"""`rsd score` and `rsd eval --task processbench`: a verifier on given solutions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from rsd_core import Explains, Explanation, RSDError, Step, Verifier, load
from rsd_core import Path as StepPath
from rsd_core.blocking import wait_for
from rsd_core.control_characters import visible
from rsd_integrations.cli.options import Strict
from rsd_integrations.cli.terminal import Terminal, end_if_idle, plain, resumable, say, written
from rsd_integrations.display.reading import counted
from rsd_integrations.evaluation.cutting import parse_splitter
from rsd_integrations.evaluation.processbench import ProcessBenchReport, evaluate_processbench, read_splits
from rsd_integrations.evaluation.scoring import (
    FORM,
    BadRow,
    Solution,
    aggregates,
    is_judged,
    read_entries,
    read_solutions,
    score_all,
)
from rsd_integrations.output_files import write_output
from rsd_integrations.role_faults import never_worked


def score(
    file: Annotated[
        Path,
        typer.Argument(help="JSONL, JSON, CSV, TSV or Parquet: a `problem`, and `steps` or a `solution`, which is cut"),
    ],
    verifier: Annotated[
        str, typer.Option("--verifier", metavar="SPEC", help="Any verifier. `rsd models` lists specs.")
    ] = "embedded:verifier",
    splitter: Annotated[
        str | None,
        typer.Option(
            "--splitter",
            metavar="HOW",
            help="Where to cut a `solution`: blank_line (the default), line, sentence, words, marked (Step 1: …), "
            "marked:PATTERN, a splitter of a package, or a text between steps. `steps` are not cut.",
        ),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show what is read, and where the scores are.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per solution.")] = False,
    strict: Strict = False,
) -> None:
    """Score the steps of given solutions with any verifier.

    Example: `rsd score solutions.jsonl --verifier prm:Qwen/Qwen2.5-Math-PRM-7B --explain`
    """
    by = parse_splitter("blank_line" if splitter is None else splitter)
    entries = read_solutions(file, by) if strict else read_entries(file, by)
    if splitter is not None and all(isinstance(entry, Solution) and "steps" in entry.row for entry in entries):
        raise RSDError(f"--splitter {splitter} cuts a `solution`, and all entries of {file} have `steps`; remove it")
    model = load_judge(verifier)
    if explain and not isinstance(model, Explains):
        raise RSDError(f"{verifier} cannot show what it reads; remove --explain")
    errors: list[str | None] = []

    def resume() -> str:
        return (
            f"{len(errors)} of {len(entries)} solutions are printed; to continue, give the others, from entry "
            f"{len(errors) + 1} of {file}"
        )

    with resumable(resume):
        wait_for(_score(model, entries, explain, as_json, errors))
    bad = [entry for entry in entries if isinstance(entry, BadRow)]
    failed = [error for entry, error in zip(entries, errors, strict=True) if isinstance(entry, Solution) and error]
    if failed and len(failed) + len(bad) == len(entries):
        end_if_idle([never_worked("verifier", len(failed), failed[-1])], "Fix the cause, then run again")
    if bad:
        raise RSDError(f"{len(bad)} of {len(entries)} entries of {file} are not solutions; each says why; {FORM}")
    if failed:
        raise RSDError(f"{len(failed)} of {len(entries)} solutions could not be scored; each says why")


def load_judge(spec: str) -> Verifier:
    """Load the verifier of a spec, first checking everything possible before weights are read."""
    return load(spec, role="verifier")


async def _score(
    model: Verifier, entries: Sequence[Solution | BadRow], explain: bool, as_json: bool, errors: list[str | None]
) -> None:
    """Score and show in the order of the file; errors are added to `errors` as they occur."""
    terminal = Terminal()
    solutions = [entry for entry in entries if isinstance(entry, Solution)]
    try:
        async with aclosing(score_all(model, solutions)) as scored:
            for entry in entries:
                if isinstance(entry, BadRow):
                    _show_bad(terminal, entry, as_json)
                    errors.append(entry.error)
                    continue
                _, rewards = await anext(scored)
                failed = isinstance(rewards, RSDError)
                explanations = [_explained(model, *at) for at in entry.paths()] if explain and not failed else []
                if as_json:
                    print(visible(json.dumps(_data(entry, rewards, explanations), ensure_ascii=False)), flush=True)
                else:
                    _show(terminal, entry, rewards, explanations)
                errors.append(str(rewards) if failed else None)
    finally:
        await model.aclose()


def _explained(model: Verifier, path: StepPath, step: Step) -> Explanation:
    assert isinstance(model, Explains)
    return model.explain(path, step) if is_judged(path, step) else Explanation("a marker of a thought, never judged")


def _show_bad(terminal: Console, entry: BadRow, as_json: bool) -> None:
    if not as_json:
        terminal.print(plain(f"{entry.where}: {entry.error}\n", "red"))
        return
    name = {"id": entry.row["id"]} if isinstance(entry.row, dict) and "id" in entry.row else {}
    data = {**name, "entry": entry.where, "rewards": None, "error": entry.error}
    print(visible(json.dumps(data, ensure_ascii=False)), flush=True)


def _data(
    solution: Solution, rewards: list[float | None] | RSDError, explanations: list[Explanation]
) -> dict[str, Any]:
    data: dict[str, Any] = {"problem": solution.prompt[-1].content, "steps": list(solution.steps)}
    if "id" in solution.row:
        data = {"id": solution.row["id"], **data}
    if isinstance(rewards, RSDError):
        return {**data, "rewards": None, "error": str(rewards)}
    data |= {"rewards": rewards, "aggregates": aggregates(rewards)}
    if explanations:
        data["explained"] = [
            {
                "text": one.text,
                "tokens": [list(token) for token in one.tokens],
                "read": list(one.read),
                "kept": one.kept,
            }
            for one in explanations
        ]
    return data


def _show(
    console: Console, solution: Solution, rewards: list[float | None] | RSDError, explanations: list[Explanation]
) -> None:
    console.print(plain(solution.prompt[-1].content, "bold"))
    if isinstance(rewards, RSDError):
        console.print(plain(f"  not scored: {rewards}\n", "red"))
        return
    for i, (text, reward) in enumerate(zip(solution.steps, rewards, strict=True)):
        shown = "  –   " if reward is None else f"{reward:.4f}"
        console.print(
            Text(f"{shown}  ", style="green").append(visible(text).replace("\n", "\n" + " " * 8), style="default")
        )
        if explanations:
            _show_reading(console, explanations[i])
    figures = "  ".join(f"{k} {'–' if v is None else f'{v:.4f}'}" for k, v in aggregates(rewards).items())
    console.print(Text(figures + "\n", style="dim"))


def _show_reading(console: Console, explanation: Explanation) -> None:
    """The text that was read, and the tokens around each score's position."""
    console.print(Text("        reads: ", style="dim").append(visible(repr(explanation.text)), style="cyan"))
    for at in explanation.read[-3:]:
        around = explanation.tokens[max(0, at - 3) : at + 1]
        names = " ".join(f"{id_}:{name}" for id_, name in around)
        line = f"        score: at position {at} of {len(explanation.tokens)} tokens, … {names}"
        removed = len(explanation.tokens) - explanation.kept
        console.print(plain(line + f"; {removed} rolled back" * (removed > 0), "dim"))


def processbench(
    data: Path | None, spec: str, threshold: float | None, n: int | None, out: Path | None, *, concurrency: int
) -> None:
    """`rsd eval --task processbench`."""
    if data is None:
        raise RSDError(
            "processbench needs --data: the folder of its files (gsm8k.json, math.json, olympiadbench.json, "
            "omnimath.json) or one of them, as JSON or JSONL"
        )
    splits = {name: solutions[:n] for name, solutions in read_splits(data).items()}
    model = load_judge(spec)
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        bar.advance(task)

    def resume() -> str:
        return f"The rewards of {done} solutions are lost, and nothing is written; run again, or with --n for fewer"

    with resumable(resume), Progress(console=Terminal(stderr=True), transient=True) as bar:
        task = bar.add_task("scoring", total=sum(map(len, splits.values())))
        report = wait_for(evaluate_processbench(model, splits, threshold, advance, concurrency))
    if out is not None:
        write_output(out, json.dumps(report.to_dict(), indent=1) + "\n")
    Terminal().print(processbench_table(report))
    for reason in report.errors:
        say(f"not scored: {reason}", "yellow")
    if silent := sum(split.without_reward for split in report.splits):
        steps = counted(sum(split.steps for split in report.splits), "step")
        say(f"Warning: {silent} of {steps} got no reward, and count as right", "yellow")
    written(out)
    failed = sum(split.failed for split in report.splits)
    solutions = sum(split.wrong + split.right for split in report.splits)
    if failed == solutions:
        end_if_idle([never_worked("verifier", failed, report.errors[-1])], "Fix the cause, then run again")
    if failed:
        raise RSDError(f"{failed} of {solutions} solutions could not be scored, and count as failures")


def processbench_table(report: ProcessBenchReport) -> Table:
    """F1 of each split and their mean, in percent as published."""
    chosen = f" (chosen on {report.chosen_on})" if report.chosen_on else ""
    table = Table(title=plain(f"ProcessBench, {report.verifier}, threshold {report.threshold:.4g}{chosen}", "italic"))
    for column in ("split", "error acc.", "correct acc.", "F1", "solutions", "not scored"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for split in report.splits:
        figures = (split.error_accuracy, split.correct_accuracy, split.f1)
        counts = (str(split.wrong + split.right), str(split.failed))
        table.add_row(plain(split.name), *(f"{100 * figure:.1f}" for figure in figures), *counts)
    table.add_row("average", "", "", f"{100 * report.average:.1f}", "", "", style="bold")
    return table
