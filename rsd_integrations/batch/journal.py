"""A journal of finished work: a run that was cut off, however hard, continues where it stopped."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any, Self

from rsd_core import ConfigurationError, RSDConfig, RSDError
from rsd_integrations.batch.lock import WriterLock
from rsd_integrations.jsonl import parse_lines

SYNC_EVERY = 1.0
"""Seconds of finished work that a loss of power may cost. The end of the process alone costs none."""
KINDS = {"batch": "results of `rsd batch`", "journal": "a journal of `rsd eval`"}
"""The kinds of journals, by the field of the first line that holds the format version."""
VERSION = 1


class Journal:
    """A JSONL file: first a description of the run, then a row for each finished piece of work.

    A row counts once its line is complete, so a process may be killed at any time. Rows are only ever appended: if a
    later one replaces an earlier one, it is the reader that decides so. One process writes at a time.
    """

    def __init__(self, file: Path, about: dict[str, Any]) -> None:
        """Open or begin a journal, and lock it until `close`; the file is not written before the first row.

        Args:
            file: The journal; any other file is left unchanged.
            about: What distinguishes this run from others, as JSON data. One field of `KINDS` holds the version.

        Raises:
            ConfigurationError: The file is about something else, is not a journal, or is being written by a process.
        """
        self._file, self._about = file, json.loads(json.dumps(about))
        self.rows: list[dict[str, Any]] = []
        """The rows so far, in the order in which they were written."""
        try:
            is_other = file.exists() and not file.is_file()
        except OSError as error:  # a name that is too long
            raise ConfigurationError(f"{file} cannot be found: {error.strerror}; name another file") from error
        if is_other:
            raise ConfigurationError(f"{file} is {'a folder' if file.is_dir() else 'not a regular file'}; name a file")
        self._lock = WriterLock(file)
        self._out: int | None = None
        self._size = 0
        """Bytes of the file in complete lines; the last one may lack its line end."""
        self._before = b""
        """Written before the next row: the first line, or the line end that the last writer left out."""
        self._synced = 0.0
        try:
            self._read()
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _read(self) -> None:
        raw = self._file.read_bytes() if self._file.exists() else b""
        first = json.dumps(self._about)
        head, self.rows = _parse(raw, self._file, first)
        if head is None:
            self._before = first.encode() + b"\n"
            return
        _compare(self._file, head, self._about)
        self._size = raw.rfind(b"\n") + 1
        if _is_object(raw[self._size :]):
            self._size, self._before = len(raw), b"\n"

    def add(self, row: dict[str, Any]) -> None:
        """Append a row; once this returns, it outlives this process.

        Raises:
            RSDError: The disk is full or gone. The rows before it are complete.
        """
        try:
            self._append(json.dumps(row).encode() + b"\n")
            if time.monotonic() - self._synced > SYNC_EVERY:
                self._sync()
        except OSError as error:
            raise self._unwritable(error) from error
        self.rows.append(row)

    def close(self) -> None:
        """Close the file, and let others write.

        Raises:
            RSDError: The last rows could not be written to the disk.
        """
        out, self._out = self._out, None
        try:
            if out is not None:
                os.fsync(out)
        except OSError as error:
            raise self._unwritable(error) from error
        finally:
            if out is not None:
                os.close(out)
            self._lock.release()

    def _append(self, line: bytes) -> None:
        if self._out is None:
            self._out = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
            os.ftruncate(self._out, self._size)  # the last writer may have left part of a line
        line = self._before + line
        whole = self._size + len(line)
        try:
            while line:
                line = line[os.write(self._out, line) :]
        except OSError:
            os.ftruncate(self._out, self._size)  # half a row would spoil the next one
            raise
        self._size, self._before = whole, b""

    def _sync(self) -> None:
        assert self._out is not None
        os.fsync(self._out)
        self._synced = time.monotonic()

    def _unwritable(self, error: OSError) -> RSDError:
        return RSDError(
            f"{self._file} cannot be written: {error.strerror}. Its {len(self.rows)} rows are complete; once that "
            "is fixed, the same command continues from them"
        )


def damaged(file: Path, row: dict[str, Any]) -> ConfigurationError:
    """The error for a row that is JSON, but not a row of this kind of journal."""
    return ConfigurationError(f"{file}: the row {_short(row)} is damaged; delete that line to have its work done again")


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The complete lines of a journal; the first describes the run.

    Raises:
        ConfigurationError: The file cannot be read, is not a journal, or has a damaged line.
    """
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error
    head, rows = _parse(raw, file)
    return [] if head is None else [head, *rows]


def _parse(raw: bytes, file: Path, own: str = "") -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """The description of a journal's run, and its rows; None and no row if it has not begun.

    Args:
        raw: The journal's bytes.
        file: Its name, for messages.
        own: The first line as this run would write it; a file with only a part of it was cut off there.

    Raises:
        ConfigurationError: The bytes are not a journal, or a line before the last one is damaged.
    """
    if not raw.strip() or own.encode().startswith(raw):
        return None, []
    end = raw.rfind(b"\n") + 1
    lines = list(parse_lines(raw if _is_object(raw[end:]) else raw[:end]))
    if not (lines and isinstance(lines[0].value, dict) and any(kind in lines[0].value for kind in KINDS)):
        raise ConfigurationError(f"{file} is not a journal of this program but {_looks_like(raw)}; name another file")
    for line in lines:
        if not isinstance(line.value, dict):
            raise ConfigurationError(
                f"{file}, line {line.number}, is damaged ({line.error or 'it is not a JSON object'}); delete "
                "that line to have its work done again"
            )
    return lines[0].value, [line.value for line in lines[1:]]


def _is_object(line: bytes) -> bool:
    """Whether a line without a line end is a complete row: its last byte closes its first."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _looks_like(raw: bytes) -> str:
    """A short description of a file."""
    magic = {b"PAR1": "a Parquet file", b"SQLite format 3": "an SQLite database", b"PK\x03\x04": "a ZIP archive"}
    magic |= {b"\x1f\x8b": "a gzip file", b"%PDF": "a PDF", b"\x89HDF": "an HDF5 file", b"\x89PNG": "an image"}
    for mark, what in magic.items():
        if raw.startswith(mark):
            return what
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "binary data"
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        first = text.strip().split("\n")[0]
        kind = "JSON Lines of something else, beginning" if _is_object(first.encode()) else "text that begins"
        return f"{kind} with {_short(first)}"
    return "JSON"


def _compare(file: Path, head: dict[str, Any], about: dict[str, Any]) -> None:
    """Refuse a journal of another run.

    Raises:
        ConfigurationError: They differ; says where.
    """
    kind = next(kind for kind in KINDS if kind in about)
    if kind not in head:
        other = next(other for other in KINDS if other in head)
        raise ConfigurationError(f"{file} holds {KINDS[other]}, not {KINDS[kind]}; name another file")
    if isinstance(head[kind], int) and head[kind] > VERSION:
        raise ConfigurationError(
            f"{file} was written by a newer rsd-decoding, in format {head[kind]}; upgrade to read it"
        )
    for name in {**about, **head}:
        if difference := _difference(name, _renewed(name, head.get(name)), about.get(name)):
            raise ConfigurationError(
                f"the journal {file} belongs to another run: its {difference}. Name another file, or delete it"
            )


def _renewed(name: str, value: Any) -> Any:
    """A configuration as this version writes it: earlier ones lack fields that now have a default."""
    if name == "config" and isinstance(value, dict):
        try:
            return RSDConfig.parse(value).model_dump(mode="json")
        except ConfigurationError:
            return value
    return value


def _difference(name: str, actual: Any, wanted: Any) -> str:
    """The first difference between two values, in words; empty if there is none."""
    if actual == wanted:
        return ""
    if isinstance(actual, str) and isinstance(wanted, str):
        actual, wanted = _asked_for(actual), _asked_for(wanted)
        if actual == wanted:
            return ""
        same = next((i for i, (a, b) in enumerate(zip(actual, wanted, strict=False)) if a != b), 0) - 20
        if same > 20:  # the difference may be at the end of long specs
            actual, wanted = f"…{actual[same:]}", f"…{wanted[same:]}"
    if isinstance(actual, dict) and isinstance(wanted, dict):
        for key in (*wanted, *actual):
            if difference := _difference(f"{name}.{key}", actual.get(key), wanted.get(key)):
                return difference
        return ""
    return f"{name} is {_short(actual)}, not {_short(wanted)}"


def _asked_for(spec: str) -> str:
    """A model's spec without options that only say how long and how often to ask its server."""
    return re.sub(r",(?:patience|retries|concurrency)=[\d.]+(?=[,:])", "", spec)


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) < 80 else text[:77] + "…"
