"""Users' data files: JSONL, JSON, CSV, TSV and Parquet, with every value kept as written.

Nothing is converted: the string "007" stays a string, and a JSON number with a fraction keeps its digits.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from rsd_core import ConfigurationError, MissingDependency
from rsd_integrations.jsonl import Line, parse_lines, read_bytes

FILES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
"""Suffixes of files that `read_records` knows; any other file is read as JSONL."""
QUESTIONS = ("question", "problem", "prompt", "query", "input", "instruction")
"""Column names for questions, most likely first."""
ANSWERS = (
    *("answer", "final_answer", "expected_answer", "correct_answer", "reference_answer", "gold_answer", "reference"),
    *("ground_truth", "gold", "target", "label", "expected"),
)
"""Column names for correct answers, most likely first."""


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
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise MissingDependency("pyarrow", "eval", str(file)) from error
    raw = read_bytes(file)
    try:
        rows = pyarrow.parquet.ParquetFile(io.BytesIO(raw)).read().to_pylist()
    except Exception as error:
        raise ConfigurationError(f"{file} is not Parquet: {error}") from error
    yield from (Line(i, "", row) for i, row in enumerate(rows, 1))


_READERS: dict[str, Callable[[Path], Iterator[Line]]] = {
    ".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet
}  # fmt: skip
