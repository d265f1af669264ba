"""Models in several files: `NAME-00001-of-00003.gguf` and so on."""

from __future__ import annotations

import re
from pathlib import Path

from rsd_core import ConfigurationError

_NUMBERED = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def shard_names(name: str) -> list[str]:
    """The names of all files of a file's model, in order; for an unsplit model just its own."""
    numbered = _NUMBERED.fullmatch(name)
    if numbered is None:
        return [name]
    count = int(numbered["count"])
    return [f"{numbered['name']}-{number:05}-of-{numbered['count']}.gguf" for number in range(1, count + 1)]


def shards(file: Path) -> list[Path]:
    """All files of a file's model, in order.

    Raises:
        ConfigurationError: Some are missing.
    """
    files = [file.with_name(name) for name in shard_names(file.name)]
    missing = [one.name for one in files if not one.is_file()] if len(files) > 1 else []
    if missing:
        raise ConfigurationError(f"{file} is one of {len(files)} files; missing next to it: {', '.join(missing)}")
    return files
