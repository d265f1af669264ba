"""`rsd compare`: two evaluations, answer by answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from rsd_core import RSDError
from rsd_integrations.cli.eval_tables import compared_table
from rsd_integrations.cli.options import check_outputs
from rsd_integrations.cli.terminal import Terminal, say, written
from rsd_integrations.data_files import WRITTEN
from rsd_integrations.display.reading import counted
from rsd_integrations.evaluation.rows import Evaluation, Paired, pairs
from rsd_integrations.output_files import write_output

ROWS = "Rows of `rsd eval --rows FILE`; FILE@METHOD for one of its methods."


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help=ROWS)],
    b: Annotated[str, typer.Argument(metavar="B", help="The same of another evaluation, or of the same one.")],
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all figures there.", show_default=False)
    ] = None,
) -> None:
    """Compare two evaluations, answer by answer: differences with intervals.

    Answers to the same question with the same seed are compared. Methods are matched by name; if each
    evaluation has only one, those two are compared. With FILE@METHOD on one side only, it is that method of both.

    Example: `rsd compare before.jsonl after.jsonl`, or `rsd compare run.jsonl@rsd run.jsonl@target`
    """
    check_outputs(json=json_file)
    (first_file, mine), (second_file, theirs) = _split(a), _split(b)
    first, second = Evaluation.load(first_file), Evaluation.load(second_file)
    found = _found(first, mine, second, theirs)
    if json_file is not None:
        write_output(json_file, json.dumps([asdict(one) for one in found], indent=1) + "\n")
    Terminal().print(compared_table(found, a, b))
    for line in (
        *(_only_there(first_file, first, [one.first for one in found]) if mine is theirs is None else ()),
        *(_only_there(second_file, second, [one.second for one in found]) if mine is theirs is None else ()),
        *(line for one in found for line in _flaws(first_file, first, one.first)),
        *(line for one in found for line in _flaws(second_file, second, one.second)),
    ):
        say(f"Warning: {line}", "yellow")
    written(json_file)


def _split(text: str) -> tuple[str, str | None]:
    """A file and the name of its method, if given."""
    ends = "|".join(map(re.escape, WRITTEN))
    match = re.fullmatch(rf"(.+?(?:{ends}))@(.+)", text, flags=re.IGNORECASE)
    return (match[1], match[2]) if match and not Path(text).exists() else (text, None)


def _found(first: Evaluation, mine: str | None, second: Evaluation, theirs: str | None) -> list[Paired]:
    if mine is not None and theirs is not None:
        return [first.compare(mine, second, theirs)]
    if first.name == second.name and mine is theirs is None:
        raise RSDError(f"{first.name} would be compared with itself: name a method of it on each side, FILE@METHOD")
    named = mine or theirs
    return pairs(first, second, [] if named is None else [named])


def _only_there(file: str, evaluation: Evaluation, compared: Sequence[str]) -> Iterator[str]:
    """The methods of an evaluation that have no counterpart."""
    if alone := [method for method in evaluation.methods if method not in compared]:
        yield f"only {file} has {', '.join(alone)}, which {'is' if len(alone) == 1 else 'are'} not compared"


def _flaws(file: str, evaluation: Evaluation, method: str) -> Iterator[str]:
    """What the figures of a method do not show: answers that failed, and those that were not graded."""
    rows = [row for row in evaluation.rows if row["method"] == method]
    of = f"of {counted(len(rows), 'answer')}"
    if failed := sum(row["error"] is not None for row in rows):
        yield f"{file}, {method}: {failed} {of} failed and were graded as far as they were written"
    if ungraded := sum(row["correct"] is None for row in rows):
        yield f"{file}, {method}: {ungraded} {of} have no grade and are left out"
