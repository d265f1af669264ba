"""`rsd compare`: two evaluations, answer by answer."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from rsd_core import RSDError
from rsd_integrations.cli.eval_tables import compared_table
from rsd_integrations.cli.options import check_outputs
from rsd_integrations.cli.terminal import Terminal, written
from rsd_integrations.data_files import WRITTEN
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
    evaluation has only one, those two are compared.

    Example: `rsd compare before.jsonl after.jsonl`, or `rsd compare run.jsonl@rsd run.jsonl@target`
    """
    check_outputs(json=json_file)
    (first_file, mine), (second_file, theirs) = _split(a), _split(b)
    first, second = Evaluation.load(first_file), Evaluation.load(second_file)
    found = _found(first, mine, second, theirs)
    if json_file is not None:
        write_output(json_file, json.dumps([asdict(one) for one in found], indent=1) + "\n")
    Terminal().print(compared_table(found, a, b))
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
