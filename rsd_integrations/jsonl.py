"""JSON Lines as the format defines them: UTF-8, one value per line, lines ended only by a line feed."""

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
    """Line number from 1, counting blank lines."""
    text: str
    value: Any = None
    """The JSON value; None if there is an `error`, and for `null`."""
    error: str | None = None
    """What is wrong with the line, briefly; None for valid JSON."""


def read_lines(file: Path) -> list[Line]:
    r"""The lines of a JSONL file; an invalid one has an `error` and does not affect the others.

    A leading byte order mark and blank lines are skipped. U+2028, U+0085 and similar are ordinary characters in
    strings; `\r\n` ends a line as `\n` does.

    Raises:
        ConfigurationError: The file cannot be read, or is UTF-16.
    """
    return list(parse_lines(read_bytes(file)))


def read_bytes(file: Path) -> bytes:
    """The contents of a file.

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
    """The lines of JSONL data (see `read_lines`); `parse_float` gets a number with a fraction as written."""
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
        return Line(number, text, error=f"it is not JSON ({error})")
