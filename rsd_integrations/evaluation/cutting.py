"""Cuts solutions into steps before they are scored."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, ValidationError

from rsd_core import ConfigurationError, Reader
from rsd_core.data import explain, nearest
from rsd_core.splitting import AS_TEXT, Splitter, parse_delimiter, splitter

MARKED = "marked"


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression ({error})") from error
    return pattern


class Marked(Splitter):
    r"""A step begins with a mark: whatever a regular expression matches, by default `Step 1:` at the start of a line.

    Text before the first mark is a separate step. The mark is part of its step.
    """

    kind: Literal["marked"] = "marked"
    pattern: Annotated[str, AfterValidator(_compiles)] = r"^[ \t]*(?:#+[ \t]*)?(?:\*\*)?Step \d+[:.]"
    """`^` matches the start of a line."""

    def end(self, text: str) -> int | None:
        own = len(text) - len(text.lstrip())
        found = (match.start() for match in re.finditer(self.pattern, text, re.MULTILINE))
        return next((at for at in found if at > own), None)


def parse_splitter(text: str) -> str | Splitter:
    """Parse what cuts solutions: everything that `parse_delimiter` accepts, and `marked` or `marked:PATTERN`.

    Raises:
        ConfigurationError: It is empty, an invalid pattern, or a misspelt splitter.
    """
    name, _, pattern = text.partition(":")
    if name == MARKED:
        try:
            return Marked(pattern=pattern) if pattern else Marked()
        except ValidationError as error:
            raise ConfigurationError(f"{text!r} is not a valid splitter: {explain(error)}") from error
    parsed = parse_delimiter(text)
    if parsed == text and text.isidentifier() and nearest(text, [MARKED]):
        raise ConfigurationError(f"{text!r} is not a splitter; did you mean {MARKED!r}? {AS_TEXT}")
    return parsed


def cut(solution: str, delimiter: str | Splitter = "\n\n") -> list[str]:
    """The steps of a solution, without the blank lines around them; by default cut at blank lines.

    A thought's marker is not a step: it stays with the text inside the thought.

    Args:
        solution: The text; a thought is within its markers.
        delimiter: A text between steps, which is not part of them; or a splitter.
    """
    parts: list[str] = []
    reader, lead = Reader(), ""
    for part in _pieces(solution, delimiter):
        after, pieces = reader.read(f"{part}\n\n")
        is_mark = after != reader and not any(text.strip() for _, text in (*pieces, *after.rest()))
        if is_mark and parts and reader.in_thought:
            parts[-1] += f"\n\n{part}"
        elif is_mark:
            lead += f"{part}\n\n"
        else:
            parts.append(lead + part)
            lead = ""
        reader = after
    return parts


def _pieces(solution: str, delimiter: str | Splitter) -> Iterator[str]:
    """The pieces from a splitter, without the lines between them and the space where a line was cut."""
    cutter, rest, before = splitter(delimiter), solution, "\n"
    assert cutter is not None
    while rest:
        piece = rest[: cutter.end(rest) or len(rest)]
        rest = rest[len(piece) :]
        own = piece.removesuffix(delimiter) if isinstance(delimiter, str) else piece
        text = re.sub(r"\A(?:\s*\n\n)?\n*", "", own).rstrip("\n")
        if rest and not piece.endswith("\n"):  # a line is cut, not ended
            text = text.rstrip()
        if not before.endswith("\n"):
            text = text.lstrip(" \t")
        if text.strip():
            yield text
        before = piece
