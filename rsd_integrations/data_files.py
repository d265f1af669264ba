"""Files of rows: JSONL, JSON, CSV, TSV and Parquet. People's own are read with every value as it is written there.

Nothing is converted on the way in: the string "007" stays that, and a JSON number with a fraction keeps its digits.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rsd_core import ConfigurationError, MissingDependency
from rsd_integrations.jsonl import Line, parse_lines, read_bytes
from rsd_integrations.output_files import write_output

FILES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
"""Suffixes of files that `read_records` knows; any other file is read as JSONL."""
QUESTIONS = ("question", "problem", "prompt", "query", "input", "instruction")
"""Column names for questions, most likely first."""
ANSWERS = (
    *("answer", "final_answer", "expected_answer", "correct_answer", "reference_answer", "gold_answer", "reference"),
    *("ground_truth", "gold", "target", "label", "expected"),
)
"""Column names for correct answers, most likely first."""


WRITTEN = (".jsonl", ".csv", ".tsv", ".parquet")
"""Suffixes of files that `write_records` writes."""
KINDS = ("text", "optional text", "whole number", "number", "yes or no", "list of numbers", "list of texts")
"""What a column may hold. All but `text` and lists may be missing: null, or an empty cell of CSV."""
Columns = Mapping[str, str]
"""Names of columns, and what each holds."""


def read_records(file: Path) -> list[Line]:
    """The rows of a file; an unreadable one has an `error` and does not affect the others.

    Rows of CSV, TSV and Parquet are objects by column; those of JSONL and JSON are whatever the file contains. Empty
    cells of CSV are empty strings. CSV may be separated by commas, semicolons or tabs; its first row names the columns.

    Raises:
        ConfigurationError: The file cannot be read, or is not what its suffix says.
    """
    return list(_READERS.get(file.suffix.lower(), _jsonl)(file))


def guessed(columns: Iterable[str], names: Iterable[str]) -> str | None:
    """The column that matches the earliest of the names, ignoring case and spaces."""
    known = {re.sub(r"[\s-]+", "_", column.strip().lower()): column for column in reversed(list(columns))}
    return next((known[name] for name in names if name in known), None)


def as_written(value: Any) -> str | None:
    """A value as text, as JSON writes it; None for null, NaN and white space."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool | dict | list):
        return json.dumps(value, ensure_ascii=False)
    return str(value) if str(value).strip() else None


def _jsonl(file: Path) -> Iterator[Line]:
    return parse_lines(read_bytes(file), parse_float=str)


def _json(file: Path) -> Iterator[Line]:
    raw = read_bytes(file)
    try:
        data = json.loads(raw.decode("utf-8-sig"), parse_float=str)
    except (ValueError, RecursionError) as error:
        lines = list(parse_lines(raw, parse_float=str))
        if len(lines) > 1 and lines[0].error is None:  # JSONL under another name
            yield from lines
            return
        raise ConfigurationError(f"{file} is not JSON ({error})") from error
    if isinstance(data, dict):  # {"data": [...]}, perhaps with a version or a name
        lists = [value for value in data.values() if isinstance(value, list) and value]
        data = lists[0] if len(lists) == 1 and isinstance(lists[0][0], dict) else [data]
    if not isinstance(data, list):
        raise ConfigurationError(f"{file} contains {type(data).__name__}, not a list of rows")
    yield from (Line(i, "", row) for i, row in enumerate(data, 1))


def _csv(file: Path) -> Iterator[Line]:
    try:
        text = read_bytes(file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file} is not UTF-8 ({error.reason}); save it as `CSV UTF-8`") from error
    limit = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # long prompts are legitimate
    try:
        heads = {mark: next(csv.reader(io.StringIO(text), delimiter=mark), []) for mark in ",;\t"}
        mark = "\t" if file.suffix.lower() == ".tsv" else max(heads, key=lambda one: len(heads[one]))
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
        columns = [name.strip() for name in next(reader, [])]
        if len(set(columns)) < len(columns):
            raise ConfigurationError(f"{file} has two columns with the same name: {', '.join(columns)}")
        while (cells := next(reader, None)) is not None:
            if not any(cells):
                continue
            value = dict(zip(columns, cells, strict=False))
            wrong = (
                f"it has {len(cells)} cells, and the first line {len(columns)}" if len(cells) > len(columns) else None
            )
            yield Line(reader.line_num, mark.join(cells), value, wrong)
    except csv.Error as error:
        raise ConfigurationError(f"{file} is not valid CSV, at line {reader.line_num}: {error}") from error
    finally:
        csv.field_size_limit(limit)


def _parquet(file: Path) -> Iterator[Line]:
    arrow = _pyarrow(file)
    raw = read_bytes(file)
    try:
        rows = arrow.parquet.ParquetFile(io.BytesIO(raw)).read().to_pylist()
    except Exception as error:
        raise ConfigurationError(f"{file} is not Parquet: {error}") from error
    yield from (Line(i, "", row) for i, row in enumerate(rows, 1))


_READERS: dict[str, Callable[[Path], Iterator[Line]]] = {
    ".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet
}  # fmt: skip


def check_written_format(file: Path, option: str) -> None:
    """Find out whether rows can be written into a file of this name, before the work that they are to tell of.

    Raises:
        ConfigurationError: Its suffix is none of `WRITTEN`.
        MissingDependency: pyarrow is not installed, which Parquet needs.
    """
    suffix = file.suffix.lower()
    if suffix not in WRITTEN:
        raise ConfigurationError(f"{option} {file}: the end of the name is the format, one of {', '.join(WRITTEN)}")
    if suffix == ".parquet":
        _pyarrow(file)


def check_journal_format(file: Path, option: str) -> None:
    """Refuse a name that promises a table for a file that results are appended to as they arrive, as JSONL.

    Raises:
        ConfigurationError: Its suffix is that of a table.
    """
    if file.suffix.lower() in WRITTEN[1:]:
        raise ConfigurationError(
            f"{option} {file}: results are written there as they arrive, as JSONL: give a name that ends in .jsonl, "
            f"and --rows {file} for a table at the end"
        )


def write_records(file: Path, rows: Sequence[Mapping[str, Any]], columns: Columns) -> None:
    """Write rows as JSONL, CSV, TSV or Parquet, as the suffix says. In cells of CSV, lists are JSON.

    Raises:
        RSDError: The file cannot be written; the message says where the rows are instead.
    """
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        write_output(file, lambda place: _write_parquet(place, rows, columns))
    elif suffix in (".csv", ".tsv"):
        out = io.StringIO(newline="")
        writer = csv.writer(out, delimiter="\t" if suffix == ".tsv" else ",", lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_cell(row[name]) for name in columns] for row in rows)
        write_output(file, out.getvalue())
    else:
        lines = (json.dumps({name: row[name] for name in columns}, ensure_ascii=False) for row in rows)
        write_output(file, "".join(f"{line}\n" for line in lines))


def typed(row: Mapping[str, Any], columns: Columns) -> dict[str, Any]:
    """A row that `write_records` wrote and `read_records` read, with its values as they were.

    Raises:
        KeyError: It lacks a column.
        ValueError: A value is of another kind.
    """
    return {name: _typed(row[name], kind) for name, kind in columns.items()}


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return json.dumps(value) if isinstance(value, list | bool) else value


def _typed(value: Any, kind: str) -> Any:
    if kind.startswith("list"):
        return json.loads(value) if isinstance(value, str) else [_number(one, kind) for one in value]
    if kind == "text":
        return value
    if value is None or value == "":
        return None
    if kind == "yes or no":
        return {"true": True, "false": False}[value] if isinstance(value, str) else bool(value)
    return value if kind == "optional text" else int(value) if kind == "whole number" else float(value)


def _number(value: Any, kind: str) -> Any:
    return value if value is None or kind == "list of texts" else float(value)


def _pyarrow(file: Path) -> Any:
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise MissingDependency("pyarrow", "eval", str(file)) from error
    return pyarrow


def _write_parquet(place: Path, rows: Sequence[Mapping[str, Any]], columns: Columns) -> None:
    arrow = _pyarrow(place)
    kinds = {
        "text": arrow.string(),
        "optional text": arrow.string(),
        "whole number": arrow.int64(),
        "number": arrow.float64(),
        "yes or no": arrow.bool_(),
        "list of numbers": arrow.list_(arrow.float64()),
        "list of texts": arrow.list_(arrow.string()),
    }
    schema = arrow.schema([(name, kinds[kind]) for name, kind in columns.items()])
    arrow.parquet.write_table(arrow.Table.from_pylist([dict(row) for row in rows], schema), place)
