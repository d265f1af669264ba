"""The file of a recorded run: gzip-compressed JSON Lines, readable with `zcat`.

The first line is a header with the versions and the date. Each further line is a `run` (its request), a `model` (its
properties), or a call with its reply and costs. During a run, lines are appended in blocks that are complete gzip
members, so a process may be killed at any time; at the end the file is rewritten as one block.
"""

from __future__ import annotations

import gzip
import json
import os
import platform
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Self

from rsd_core import ConfigurationError, __version__
from rsd_core.data import unknown
from rsd_integrations.output_files import write_output
from rsd_integrations.recorded.costs import Cost

FORMAT = 1
SUFFIX = ".jsonl.gz"
RECORDED_RUNS = tuple(
    sorted(
        entry.name.removesuffix(SUFFIX)
        for entry in (files(__package__) / "runs").iterdir()
        if entry.name.endswith(SUFFIX)
    )
)
"""Names of the recorded runs that ship with the package."""
_PACKAGES = ("torch", "transformers", "xllamacpp", "numpy")


@dataclass(slots=True)
class Recorded:
    """A call."""

    model: int
    """Index of the model."""
    call: str
    """Which method of the model."""
    reply: dict[str, Any]
    """See `replies.py`."""
    costs: dict[str, Cost] = field(default_factory=dict)
    """By the depth read (see `costs.py`), and the digest of a guess, if any."""

    def lines(self, key: str) -> dict[str, Any]:
        """The call as a line of the file."""
        return {"key": key, "model": self.model, "call": self.call, "reply": self.reply, "costs": self.costs}


@dataclass(slots=True)
class RunRecord:
    """The contents of a file."""

    header: dict[str, Any]
    runs: list[dict[str, Any]] = field(default_factory=list)
    """Requests as JSON data, in order."""
    models: list[dict[str, Any]] = field(default_factory=list)
    """Specs without secrets, names, sizes, prices and abilities."""
    calls: dict[str, Recorded] = field(default_factory=dict)
    """By key."""

    @classmethod
    def new(cls) -> Self:
        """An empty record, with the installed versions and today's date."""
        return cls(
            {
                "rsd_record": FORMAT,
                "version": __version__,
                "created": datetime.now(UTC).date().isoformat(),
                "python": platform.python_version(),
                "machine": platform.machine(),
                "packages": {name: found for name in _PACKAGES if (found := _version(name))},
            }
        )

    @classmethod
    def load(cls, name: str | Path) -> Self:
        """Load a record by its path, or by the name of one that ships with the package.

        Raises:
            ConfigurationError: There is none, or the file is not a record.
        """
        if str(name) in RECORDED_RUNS:
            with as_file(files(__package__) / "runs" / f"{name}{SUFFIX}") as file:
                return cls.read(file)[0]
        if not Path(name).exists():
            raise ConfigurationError(f"{unknown('recorded run', str(name), RECORDED_RUNS)}, and there is no such file")
        return cls.read(Path(name))[0]

    @classmethod
    def read(cls, file: Path) -> tuple[Self, int]:
        """Read a record and the size of its complete part: a killed process may leave a partial block.

        Raises:
            ConfigurationError: The file cannot be read, or is not a record.
        """
        try:
            raw = file.read_bytes()
        except OSError as error:
            raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error
        lines, whole = _lines(raw)
        try:
            header = next(lines)
            if header["rsd_record"] > FORMAT:
                raise ConfigurationError(
                    f"{file} was written by rsd-decoding {header.get('version')}, in format {header['rsd_record']}; "
                    "upgrade to read it"
                )
            record = cls(header)
            for line in lines:
                record.add(line)
        except ConfigurationError:
            raise
        except (StopIteration, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(f"{file} is not a recorded run (`rsd eval --record FILE` writes one)") from error
        return record, whole

    def add(self, line: dict[str, Any]) -> None:
        """Add a line. For a known call, add costs at other depths, and replace an error by a reply."""
        if "run" in line:
            self.runs.append(line["run"])
        elif "spec" in line:
            self.models.append(line)
        else:
            fresh = Recorded(line["model"], line["call"], line["reply"], line["costs"])
            known = self.calls.setdefault(line["key"], fresh)
            if "error" in known.reply and "error" not in fresh.reply:
                self.calls[line["key"]] = fresh
            elif ("error" in known.reply) == ("error" in fresh.reply):
                known.costs = fresh.costs | known.costs

    def write(self, file: Path) -> None:
        """Write everything as one compressed block, in an order that depends only on the content.

        Raises:
            RSDError: The file cannot be written; the message says where the record is instead.
        """
        calls = (self.calls[key].lines(key) for key in sorted(self.calls))
        lines = [self.header, *({"run": run} for run in self.runs), *self.models, *calls]
        write_output(file, lambda place: place.write_bytes(compressed(lines)))


def compressed(lines: Iterable[dict[str, Any]]) -> bytes:
    """Lines as a gzip member, the same for the same lines."""
    text = "".join(f"{json.dumps(line, separators=(',', ':'), ensure_ascii=False)}\n" for line in lines)
    return gzip.compress(text.encode("utf-8", "surrogatepass"), mtime=0)


def append(file: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Append lines as a separate block.

    Raises:
        OSError: They cannot be written.
    """
    with file.open("ab") as out:
        out.write(compressed(lines))
        out.flush()
        os.fsync(out.fileno())


def _lines(raw: bytes) -> tuple[Iterator[dict[str, Any]], int]:
    """The lines of all complete blocks, and the size of these blocks in bytes."""
    texts: list[bytes] = []
    rest = raw
    while rest:
        block = zlib.decompressobj(wbits=31)
        try:
            text = block.decompress(rest)
        except zlib.error:
            break
        if not block.eof:
            break
        texts.append(text)
        rest = block.unused_data
    lines = b"".join(texts).decode("utf-8", "surrogatepass").splitlines() if texts else []
    return (json.loads(line) for line in lines), len(raw) - len(rest)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
