"""Long batches that survive being killed: finished results are in a file, and a later run continues from there."""

from rsd_integrations.batch.journal import Journal, read_rows
from rsd_integrations.batch.rows import write_rows
from rsd_integrations.batch.runs import (
    Problem,
    Progress,
    arun_journaled,
    as_problems,
    read_problems,
    read_results,
    run_journaled,
)

__all__ = [
    "Journal",
    "Problem",
    "Progress",
    "arun_journaled",
    "as_problems",
    "read_problems",
    "read_results",
    "read_rows",
    "run_journaled",
    "write_rows",
]
