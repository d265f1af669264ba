"""Results as columns of an Arrow table, which have the same types in every block of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import pyarrow as pa

from rsd_core import ConfigurationError, Result
from rsd_core.ledger import Account

_KINDS = {"int": pa.int64(), "float": pa.float64(), "float | None": pa.float64(), "str | None": pa.string()}
_ACCOUNT = pa.struct([(field.name, _KINDS[str(field.type)]) for field in fields(Account)])
LEDGER = pa.struct(
    [
        *((role, _ACCOUNT) for role in ("drafter", "verifier", "target", "total")),
        ("target_only_flops", pa.float64()),
        ("target_only_flops_paper", pa.float64()),
        ("target_only_basis", pa.string()),
    ]
)
"""A ledger, nested as `Ledger.to_dict` has it. Arrow reads one field of it without the others; and with types that are
said here, a block in which nothing is known of a price has the same ones as its neighbours."""
COLUMNS = pa.schema(
    [
        ("text", pa.string()),
        ("thought", pa.string()),
        ("answer", pa.string()),
        ("finish_reason", pa.string()),
        ("ledger", LEDGER),
        ("degradations", pa.list_(pa.struct([("step", pa.int64()), ("kind", pa.string()), ("message", pa.string())]))),
        ("error", pa.string()),
    ]
)
"""What is told of each row: `error` is null where all went well, and the others are as in `Result`. Of a row that
failed they hold what was written by then, and are null where it was never asked."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a row."""

    result: Result | None = None
    error: str | None = None

    def value(self, column: str) -> Any:
        """What stands in a column."""
        if column == "error":
            return self.error
        result = self.result
        if result is None:
            return None
        if column == "answer":
            return result.answer
        if column == "thought":
            return result.thought
        return result.to_dict()[column]


def with_outcomes(table: pa.Table, outcomes: Sequence[Outcome], prefix: str = "") -> pa.Table:
    """A table with the columns of what became of its rows.

    Args:
        table: The rows; their columns stay as they are.
        outcomes: Of each row.
        prefix: Before the name of each new column.
    """
    for column in COLUMNS:
        values = pa.array([outcome.value(column.name) for outcome in outcomes], column.type)
        table = table.append_column(f"{prefix}{column.name}", values)
    return table


def check_columns(names: Sequence[str], prefix: str) -> None:
    """Refuse a dataset in which a new column would stand beside one of the same name.

    Raises:
        ConfigurationError: Names them.
    """
    if taken := [name for name in names if name in {f"{prefix}{column}" for column in COLUMNS.names}]:
        raise ConfigurationError(
            f"the dataset has columns that results are written to: {', '.join(taken)}; rename them, or give the "
            f"results a prefix, such as prefix='rsd_' (got {prefix!r})"
        )
