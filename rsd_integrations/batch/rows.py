"""The results of a batch as a table: one row per prompt, in a file that any tool can open."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rsd_core import Ledger, Result
from rsd_integrations.batch.journal import read_rows
from rsd_integrations.batch.runs import Problem, read_result
from rsd_integrations.data_files import write_records
from rsd_integrations.result_rows import RESULT_COLUMNS, result_row

COLUMNS = {"id": "text", "prompt": "text", "repeat": "whole number", **RESULT_COLUMNS, "error": "optional text"}
"""The columns and their types: those of `result_row`, the prompt's last message, the number of its earlier occurrences,
and why it failed or was not asked."""


def write_rows(out: Path, problems: Sequence[Problem], file: Path) -> None:
    """Write the results of a batch as JSONL, CSV, TSV or Parquet, in the order of the prompts.

    Args:
        out: The file of `arun_journaled`.
        problems: The prompts; those not done yet get an empty row with an error.
        file: The file to write.

    Raises:
        ConfigurationError: A line of the results is damaged.
        RSDError: The file cannot be written; the message says where the rows are instead.
    """
    latest = {str(row.get("key")): row for row in read_rows(out)[1:]}
    rows = []
    for problem in problems:
        found = latest.get(problem.key)
        result = Result((), "", "error", (), Ledger(), 0.0) if found is None else read_result(out, found)
        error = "not done yet" if found is None else found.get("error")
        prompt = problem.prompt[-1].content if problem.prompt else ""
        rows.append(
            {"id": problem.id, "prompt": prompt, "repeat": problem.repeat, **result_row(result), "error": error}
        )
    write_records(file, rows, COLUMNS)
