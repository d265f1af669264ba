"""Results as columns of an Arrow table, which have the same types in every block of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import pyarrow as pa

from rsd_core import ConfigurationError, Result
from rsd_core.ledger import Account

_KINDS = {"int": pa.int64(), "float": pa.float64(), "float | None": pa.float64()}
_ACCOUNT = pa.struct([(field.name, _KINDS[str(field.type)]) for field in fields(Account)])
LEDGER = pa.struct(
    [
        *((role, _ACCOUNT) for role in ("drafter", "verifier", "target", "total")),
        ("target_only_flops", pa.float64()),
        ("target_only_flops_paper", pa.float64()),
        ("target_only_basis", pa.string()),
    ]
)
"""A ledger, nested as in `Ledger.to_dict`. Arrow can read single fields of it; and with explicit types, a block without
known prices has the same types as its neighbours."""
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
"""The columns of each row: `error` is null on success, and the others are as in `Result`. For a failed row they hold
what was written by then, or null if the request never began."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a row."""

    result: Result | None = None
    error: str | None = None

    def value(self, column: str) -> Any:
        """The value of a column."""
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
    """A table extended by the columns of its rows' outcomes.

    Args:
        table: The rows; their columns are unchanged.
        outcomes: One per row.
        prefix: Prefix of each new column's name.
    """
    for column in COLUMNS:
        values = pa.array([outcome.value(column.name) for outcome in outcomes], column.type)
        table = table.append_column(f"{prefix}{column.name}", values)
    return table


def check_columns(names: Sequence[str], prefix: str) -> None:
    """Refuse a dataset that already has a column named like a new one.

    Raises:
        ConfigurationError: Names them.
    """
    if taken := [name for name in names if name in {f"{prefix}{column}" for column in COLUMNS.names}]:
        raise ConfigurationError(
            f"the dataset already has result columns: {', '.join(taken)}; rename them, or give the results a prefix, "
            f"such as prefix='rsd_' (got {prefix!r})"
        )
