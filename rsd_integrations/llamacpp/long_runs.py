"""Texts that llama.cpp would die of: long runs of letters, of signs or of white space.

Before it merges bytes, it cuts a text by the patterns of the vocabulary, many of them (DeepSeek, Mistral's Tekken,
gpt-4o, Llama 4, BLOOM) by std::regex, which calls itself for every character that a pattern repeats over, some 300
bytes of stack each: with the 8 MB that threads have on Linux it ends the process at a run of about 25,000.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

LONGEST = 1000
"""Characters of a run. Words are shorter, and the smallest stacks of threads in use (512 kB, macOS) hold it."""

_SUSPECT = re.compile(rf"[^ \t\r\n]{{{LONGEST + 1},}}|\W{{{LONGEST + 1},}}")


def parts(text: str) -> list[str]:
    """A text, cut where a run gets too long: a text without such runs is one part."""
    cuts = [cut for suspect in _SUSPECT.finditer(text) for cut in _cuts(text, *suspect.span())]
    return [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def _cuts(text: str, begin: int, end: int) -> Iterator[int]:
    """Where runs get too long; marks and what follows letters belong to both kinds, since patterns differ in that."""
    letters = others = 0
    for at in range(begin, end):
        if max(letters, others) == LONGEST:
            letters = others = 0
            yield at
        kind = unicodedata.category(text[at])[0]
        letters = letters + 1 if kind in "LNM" else 0
        others = others + 1 if kind not in "LN" else 0
