"""Rows of a file, of a folder of files, or of a dataset on the hub; every value as it is written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ValidationError

from rsd_core import ConfigurationError, MissingDependency
from rsd_core.data import Data, explain, from_text
from rsd_integrations.data_files import FILES, read_records
from rsd_integrations.jsonl import Line

Row = Mapping[str, Any]
PREFIX = "dataset:"
_SPLITS = frozenset(("train", "test", "validation", "valid", "val", "dev", "eval"))


class DatasetSource(Data):
    """Where rows are, as text: `dataset:ORG/NAME,config=main,split=train`."""

    kind: Literal["dataset"] = "dataset"
    path: str
    """Hub id, folder or file."""
    config: str | None = None
    split: str = "test"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The source that a text names: a path, or `dataset:` with fields.

        Raises:
            ConfigurationError: There is no such field, or no path.
        """
        if not text.startswith(PREFIX):
            if not Path(text).exists():
                raise ConfigurationError(f"{text} cannot be read: there is no such file or folder")
            return cls(path=text)
        data = from_text(text, {"dataset": cls}, "source")
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigurationError(f"{text!r} names no rows: {explain(error)}") from error

    def lines(self) -> list[Line]:
        """The rows in order. Of a single file, one that cannot be read has an `error` and spoils no other.

        Raises:
            ConfigurationError: It cannot be read.
        """
        file = Path(self.path)
        if not file.is_dir() and (file.is_file() or file.suffix.lower() in FILES):
            return read_records(file)
        rows = read_table(self.path, self.config, self.split)
        return [Line(i, "", row) for i, row in enumerate(rows, 1)]


def read_table(path: str, config: str | None, split: str) -> list[Row]:
    """The rows of a split, each an object by column.

    Args:
        path: File, folder or hub id.
        config: The hub dataset's configuration.
        split: Its split. Of a folder, the files with this word in their paths; all, where none names a split.

    Raises:
        ConfigurationError: It cannot be read, a row is no object, or the folder has no such split.
    """
    here = Path(path)
    if here.suffix.lower() in FILES and not here.is_dir():
        return _rows(here)
    saved = _saved(here, split)
    files = _files(here, split) if here.is_dir() and config is None and saved is None else []
    return [row for file in files for row in _rows(file)] or _of_library(path, config, split, saved)


def _rows(file: Path) -> list[Row]:
    rows: list[Row] = []
    for line in read_records(file):
        if line.error is not None or not isinstance(line.value, dict):
            wrong = line.error or f"it is {type(line.value).__name__} and no object with columns"
            raise ConfigurationError(
                f"the dataset '{file}' cannot be read: row {line.number}: {wrong}; correct that row, or delete it"
            )
        rows.append(line.value)
    return rows


def _saved(folder: Path, split: str) -> Path | None:
    """Where `save_to_disk` wrote the rows, of several splits those of one; None where another tool made the folder."""
    splits = folder / "dataset_dict.json"
    if splits.exists():
        if split not in (names := json.loads(splits.read_text())["splits"]):
            raise _no_split(folder, split, names)
        return folder / split
    return folder if (folder / "dataset_info.json").exists() else None


def _no_split(folder: Path, split: str, names: Iterable[str]) -> ConfigurationError:
    return ConfigurationError(f"the folder '{folder}' has no split {split!r}, but {', '.join(sorted(names))}: split=…")


def _files(folder: Path, split: str) -> list[Path]:
    """The files of a split; none where the folder is of another form."""
    inner = (file.relative_to(folder) for file in folder.rglob("*") if file.suffix.lower() in FILES)
    files = sorted(file for file in inner if not any(part.startswith(".") for part in file.parts))
    words = {file: set(re.split(r"[^a-z0-9]+", str(file.with_suffix("")).lower())) for file in files}
    found = {word for named in words.values() for word in named & _SPLITS}
    if found and not any(split in named for named in words.values()):
        raise _no_split(folder, split, found)
    return [folder / file for file in files if not found or split in words[file]]


def _of_library(path: str, config: str | None, split: str, saved: Path | None) -> list[Row]:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise MissingDependency("datasets", "eval", f"the task {path!r}") from error
    try:
        if saved is not None:
            loaded = datasets.load_from_disk(str(saved))
        else:
            loaded = datasets.load_dataset(path, config, split=split)
        # Columns of JSON that mix types: `datasets` would read the strings in them as JSON, "007" as 7.
        mixed = [name for name, kind in loaded.features.items() if type(kind).__name__ == "Json"]
        for name in mixed:
            loaded = loaded.cast_column(name, datasets.Json(decode=False))
        return [{name: _literal(value) if name in mixed else value for name, value in row.items()} for row in loaded]
    except Exception as error:
        raise ConfigurationError(
            f"the dataset {path!r} cannot be read: {str(error) or type(error).__name__}"
        ) from error


def _literal(text: Any) -> Any:
    """A value of a mixed column: a string, list or object as such, anything else as it is written."""
    if not isinstance(text, str) or text[:1] not in ('"', "[", "{"):
        return text
    try:
        return json.loads(text, parse_float=str)
    except ValueError:
        return text
