"""A journal of finished problems: a run that was cut off, however hard, goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from rsd_core import ConfigurationError
from rsd_integrations.evaluation.report import Outcome


class Journal:
    """A JSONL file: first what is evaluated, then a line for each answer of a method to a problem.

    A line counts once it is whole, so a process may be killed at any time. The same file may be given to a later run
    with more methods: what is there is not computed again.
    """

    def __init__(self, file: Path, about: dict[str, Any]) -> None:
        """Open or begin a journal.

        Raises:
            ConfigurationError: The file is about something else.
        """
        self._file, self._about = file, json.loads(json.dumps(about))
        self.rows: list[tuple[str, int, Outcome]] = []
        """Method, number of the problem, outcome."""
        if file.exists():
            self._read()
        self._out: IO[str] | None = None

    def _read(self) -> None:
        lines = list(_whole_lines(self._file))
        if not lines:
            return
        found = lines[0]
        for name in self._about:
            if found.get(name) != self._about[name]:
                raise ConfigurationError(
                    f"the journal {self._file} is about another run: its {name} is {_short(found.get(name))}, not "
                    f"{_short(self._about[name])}. Give another file, or delete it."
                )
        self.rows = [(row["method"], row["problem"], Outcome(**row["outcome"])) for row in lines[1:]]

    def keep(self, wanted: Callable[[str, int], bool]) -> None:
        """Begin to write: the file anew, with the rows that are wanted."""
        self.rows = [row for row in self.rows if wanted(row[0], row[1])]
        fresh = self._file.with_name(self._file.name + ".new")
        with fresh.open("w") as out:
            for line in (self._about, *(_row(*row) for row in self.rows)):
                out.write(json.dumps(line) + "\n")
        os.replace(fresh, self._file)
        self._out = self._file.open("a")

    def add(self, method: str, problem: int, outcome: Outcome) -> None:
        """Note an outcome; it is in the file when this returns."""
        assert self._out is not None
        self._out.write(json.dumps(_row(method, problem, outcome)) + "\n")
        self._out.flush()

    def close(self) -> None:
        """Close the file."""
        if self._out is not None:
            self._out.close()


def _row(method: str, problem: int, outcome: Outcome) -> dict[str, Any]:
    return {"method": method, "problem": problem, "outcome": asdict(outcome)}


def _whole_lines(file: Path) -> Iterator[dict[str, Any]]:
    """The lines that were written to their end."""
    for line in file.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) < 80 else text[:77] + "…"
