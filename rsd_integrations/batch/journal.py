"""A journal of finished work: a run that was cut off, however hard, goes on where it was."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from rsd_core import ConfigurationError

SYNC_EVERY = 1.0
"""Seconds of finished work that a loss of power may cost. The end of the process alone costs none."""


class Journal:
    """A JSONL file: first what the run is about, then a row for each finished piece of work.

    A row counts once its line is whole, so a process may be killed at any time.
    """

    def __init__(self, file: Path, about: dict[str, Any]) -> None:
        """Open or begin a journal.

        Raises:
            ConfigurationError: The file is about something else, or is no journal.
        """
        self._file, self._about = file, json.loads(json.dumps(about))
        self.rows: list[dict[str, Any]] = []
        if file.exists():
            self._read()
        self._out: IO[str] | None = None
        self._synced = 0.0

    def _read(self) -> None:
        found = read_rows(self._file)
        if not found:
            return
        for name in self._about:
            if found[0].get(name) != self._about[name]:
                raise ConfigurationError(
                    f"the journal {self._file} is about another run: its {name} is {_short(found[0].get(name))}, not "
                    f"{_short(self._about[name])}. Give another file, or delete it."
                )
        self.rows = found[1:]

    def keep(self, wanted: Callable[[dict[str, Any]], bool] = lambda _: True) -> None:
        """Begin to write: the file anew, with the rows that are wanted."""
        self.rows = [row for row in self.rows if wanted(row)]
        fresh = self._file.with_name(self._file.name + ".new")
        with fresh.open("w") as out:
            for line in (self._about, *self.rows):
                out.write(json.dumps(line) + "\n")
            out.flush()
            os.fsync(out.fileno())
        os.replace(fresh, self._file)
        self._out = self._file.open("a")

    def add(self, row: dict[str, Any]) -> None:
        """Note a row; it outlives this process when this returns."""
        assert self._out is not None
        self._out.write(json.dumps(row) + "\n")
        self._out.flush()
        if time.monotonic() - self._synced > SYNC_EVERY:
            os.fsync(self._out.fileno())
            self._synced = time.monotonic()

    def close(self) -> None:
        """Close the file."""
        if self._out is not None:
            os.fsync(self._out.fileno())
            self._out.close()
            self._out = None


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The lines of a journal that were written to their end.

    Raises:
        ConfigurationError: A line is no JSON object.
    """
    rows = []
    for number, line in enumerate(file.read_text(errors="replace").splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            break
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise ConfigurationError(f"{file}, line {number}, is no JSON object: {_short(line)}. Is it a journal?")
        rows.append(row)
    return rows


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) < 80 else text[:77] + "…"
