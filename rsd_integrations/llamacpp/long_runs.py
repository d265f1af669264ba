"""Splits texts with long runs of letters, punctuation or white space before they reach llama.cpp.

Before merging bytes, it splits a text by the vocabulary's patterns, with a recursion depth that grows with the length
of a repetition. So runs are cut here, far above the length of words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

LONGEST = 1000
"""Maximum characters of a run. Words are shorter, and the smallest thread stacks (512 kB, macOS) suffice for it."""

_SUSPECT = re.compile(rf"[^ \t\r\n]{{{LONGEST + 1},}}|\W{{{LONGEST + 1},}}")


def parts(text: str) -> list[str]:
    """A text, cut where runs get too long; a text without such runs is one part."""
    cuts = [cut for suspect in _SUSPECT.finditer(text) for cut in _cuts(text, *suspect.span())]
    return [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def _cuts(text: str, begin: int, end: int) -> Iterator[int]:
    """Where runs get too long; marks and letters' suffixes count as both kinds, since patterns differ here."""
    letters = others = 0
    for at in range(begin, end):
        if max(letters, others) == LONGEST:
            letters = others = 0
            yield at
        kind = unicodedata.category(text[at])[0]
        letters = letters + 1 if kind in "LNM" else 0
        others = others + 1 if kind not in "LN" else 0
