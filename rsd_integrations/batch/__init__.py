"""Long batches that can be killed: each finished result is in a file, and a later run goes on from there."""

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
