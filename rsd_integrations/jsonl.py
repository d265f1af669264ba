"""JSON Lines as the format defines them: UTF-8, a value on each line, lines ended by a line feed and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsd_core import ConfigurationError

_UTF8, _OTHERS = b"\xef\xbb\xbf", {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


@dataclass(frozen=True, slots=True)
class Line:
    """A line that is not blank."""

    number: int
    """From 1, blank lines counted."""
    text: str
    value: Any = None
    """The JSON value; None where there is an `error`, and for `null`."""
    error: str | None = None
    """What is wrong with the line, in a few words; None for JSON."""


def read_lines(file: Path) -> list[Line]:
    r"""The lines of a JSONL file; one that is no JSON has an `error` and spoils no other.

    A byte order mark at the beginning is left out, and so are blank lines. U+2028, U+0085 and the like are characters
    of a string as any other; `\r\n` ends a line as `\n` does.

    Raises:
        ConfigurationError: The file cannot be read, or is UTF-16 as a whole.
    """
    return list(parse_lines(read_bytes(file)))


def read_bytes(file: Path) -> bytes:
    """What is in a file.

    Raises:
        ConfigurationError: It cannot be read, or is UTF-16.
    """
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error
    if raw[:2] in _OTHERS:
        raise ConfigurationError(f"{file} is {_OTHERS[raw[:2]]}; save it as UTF-8")
    return raw


def parse_lines(raw: bytes, parse_float: Callable[[str], Any] = float) -> Iterator[Line]:
    """The lines of JSONL data, see `read_lines`; `parse_float` takes a number with a fraction as it is written."""
    for number, line in enumerate(raw.removeprefix(_UTF8).split(b"\n"), 1):
        if line.strip():
            yield _parsed(number, line, parse_float)


def _parsed(number: int, line: bytes, parse_float: Callable[[str], Any]) -> Line:
    try:
        text = line.decode().rstrip("\r")
    except UnicodeDecodeError as error:
        return Line(number, line.decode(errors="replace"), error=f"it is not UTF-8 ({error.reason})")
    try:
        return Line(number, text, json.loads(text, parse_float=parse_float))
    except (ValueError, RecursionError) as error:
        return Line(number, text, error=f"it is no JSON ({error})")
