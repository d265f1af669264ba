"""`rsd score` and `rsd eval --task processbench`: what a verifier thinks of given solutions."""

from __future__ import annotations

import json
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from rsd_core import Explains, Explanation, RSDError, Verifier, load
from rsd_core.blocking import wait_for
from rsd_integrations.evaluation.processbench import ProcessBenchReport, evaluate_processbench, read_splits
from rsd_integrations.evaluation.scoring import Solution, aggregates, read_solutions, score_all


def score(
    file: Annotated[Path, typer.Argument(help="JSONL: a `problem` and `steps`, or a `solution` with blank lines.")],
    verifier: Annotated[
        str, typer.Option("--verifier", metavar="SPEC", help="Any verifier. `rsd models` lists specs.")
    ] = "embedded:verifier",
    explain: Annotated[bool, typer.Option("--explain", help="Show what is read, and where the score is.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per solution.")] = False,
) -> None:
    """Score the steps of given solutions by any verifier.

    Example: `rsd score solutions.jsonl --verifier prm:Qwen/Qwen2.5-Math-PRM-7B --explain`
    """
    solutions = read_solutions(file)
    model = load_judge(verifier)
    if explain and not isinstance(model, Explains):
        raise RSDError(f"{verifier} cannot show what it reads; leave --explain out")
    if not wait_for(_score(model, solutions, explain, as_json)):
        raise RSDError("some solutions could not be scored; each says why")


def load_judge(spec: str) -> Verifier:
    """The verifier of a spec, everything that can be checked before weights are read checked first."""
    return load(spec, role="verifier")


async def _score(model: Verifier, solutions: list[Solution], explain: bool, as_json: bool) -> bool:
    """Score and show; whether all could be scored."""
    console, whole = Console(), True
    try:
        async with aclosing(score_all(model, solutions)) as scored:  # type: ignore[type-var]
            async for i, rewards in scored:
                failed = isinstance(rewards, RSDError)
                whole = whole and not failed
                told = [model.explain(*at) for at in solutions[i].paths()] if explain and not failed else []  # type: ignore[attr-defined]
                if as_json:
                    print(json.dumps(_data(solutions[i], rewards, told), ensure_ascii=False), flush=True)
                else:
                    _show(console, solutions[i], rewards, told)
    finally:
        await model.aclose()
    return whole


def _data(solution: Solution, rewards: list[float | None] | RSDError, told: list[Explanation]) -> dict[str, Any]:
    data: dict[str, Any] = {"problem": solution.prompt[-1].content, "steps": list(solution.steps)}
    if "id" in solution.row:
        data = {"id": solution.row["id"], **data}
    if isinstance(rewards, RSDError):
        return {**data, "rewards": None, "error": str(rewards)}
    data |= {"rewards": rewards, "aggregates": aggregates(rewards)}
    if told:
        data["explained"] = [
            {
                "text": one.text,
                "tokens": [list(token) for token in one.tokens],
                "read": list(one.read),
                "kept": one.kept,
            }
            for one in told
        ]
    return data


def _show(
    console: Console, solution: Solution, rewards: list[float | None] | RSDError, told: list[Explanation]
) -> None:
    console.print(Text(solution.prompt[-1].content, style="bold"))
    if isinstance(rewards, RSDError):
        console.print(Text(f"  not scored: {rewards}\n", style="red"))
        return
    for i, (text, reward) in enumerate(zip(solution.steps, rewards, strict=True)):
        shown = "  –   " if reward is None else f"{reward:.4f}"
        console.print(Text(f"{shown}  ", style="green").append(text.replace("\n", "\n" + " " * 8), style="default"))
        if told:
            _show_reading(console, told[i])
    figures = "  ".join(f"{k} {'–' if v is None else f'{v:.4f}'}" for k, v in aggregates(rewards).items())
    console.print(Text(figures + "\n", style="dim"))


def _show_reading(console: Console, told: Explanation) -> None:
    """The text that was read, and the tokens around each place of a score."""
    console.print(Text("        reads: ", style="dim").append(repr(told.text), style="cyan"))
    for at in told.read[-3:]:
        around = told.tokens[max(0, at - 3) : at + 1]
        names = " ".join(f"{id_}:{name}" for id_, name in around)
        line = f"        score: at position {at} of {len(told.tokens)} tokens, … {names}"
        console.print(
            Text(line + (f"; {len(told.tokens) - told.kept} taken back" * (told.kept < len(told.tokens))), "dim")
        )


def processbench(data: Path | None, spec: str, threshold: float | None, n: int | None, out: Path | None) -> None:
    """`rsd eval --task processbench`."""
    if data is None:
        raise RSDError(
            "processbench needs --data: the folder of its files (gsm8k.json, math.json, olympiadbench.json, "
            "omnimath.json) or one of them, as JSON or JSONL"
        )
    splits = {name: solutions[:n] for name, solutions in read_splits(data).items()}
    model = load_judge(spec)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("scoring", total=sum(map(len, splits.values())))
        report = wait_for(evaluate_processbench(model, splits, threshold, lambda: bar.advance(task)))
    Console().print(processbench_table(report))
    for reason in report.errors:
        Console(stderr=True).print(Text(f"not scored: {reason}", style="yellow"))
    if out is not None:
        out.write_text(json.dumps(report.to_dict(), indent=1) + "\n")
        Console().print(f"written to {out}")


def processbench_table(report: ProcessBenchReport) -> Table:
    """F1 of each split and their mean, in percent as published."""
    chosen = f" (chosen on {report.chosen_on})" if report.chosen_on else ""
    table = Table(title=f"ProcessBench, {report.verifier}, threshold {report.threshold:.4g}{chosen}")
    for column in ("split", "error acc.", "correct acc.", "F1", "solutions", "not scored"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for split in report.splits:
        figures = (split.error_accuracy, split.correct_accuracy, split.f1)
        counts = (str(split.wrong + split.right), str(split.failed))
        table.add_row(split.name, *(f"{100 * figure:.1f}" for figure in figures), *counts)
    table.add_row("average", "", "", f"{100 * report.average:.1f}", "", "", style="bold")
    return table
