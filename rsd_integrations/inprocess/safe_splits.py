"""Where a text may be cut so that its parts, tokenised one by one, are the tokens of the whole."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

_WORDS, _LINES = re.compile("[A-Za-z0-9][ Ġ▁][A-Za-z0-9]"), re.compile(r"Ċ[!-.0-~Â-ô]|\n[^\s/]")
"""Tokens that go over such places, in the spelling of byte-level vocabularies or of SentencePiece."""


@dataclass(frozen=True, slots=True)
class SafeSplits:
    """Two kinds of places where tokenizers cut a text before they merge anything, whatever comes before and after.

    The patterns of GPT-2, Qwen, Llama 3, tekken and DeepSeek all begin a new piece with a space between two letters or
    digits, and with what begins a line, but for a slash, which tekken and Llama 4 join with the line ends before it.
    Tokenizers without a pattern (SentencePiece) merge nothing over a place that none of their tokens goes over, which
    is looked up.
    """

    words: bool
    """Before a space between two ASCII letters or digits."""
    lines: bool
    """Between a newline and what is neither white space, a slash nor the beginning of an added token."""
    added: frozenset[str] = frozenset()
    """First characters of the tokens that a text is searched for beforehand: it is cut there, as at an end."""

    @classmethod
    def of(cls, tokens: Iterable[str], added: Iterable[str] = ()) -> Self:
        """Those of a vocabulary.

        Args:
            tokens: Its tokens, as it spells them.
            added: Those of them that a text is searched for before it is tokenised, special ones for example.
        """
        text = "\0".join(tokens)
        return cls(_WORDS.search(text) is None, _LINES.search(text) is None, frozenset(token[:1] for token in added))

    def last(self, text: str) -> int:
        """The last such place in a text; 0 where there is none."""
        at = len(text) - 1
        while (at := max(text.rfind("\n", 0, at) if self.lines else -1, text.rfind(" ", 1, at))) >= 0:
            after = text[at + 1]
            if text[at] == "\n":
                if not after.isspace() and after != "/" and after not in self.added:
                    return at + 1
            elif self.words and _is_plain(after) and _is_plain(text[at - 1]):
                return at
        return 0


def _is_plain(char: str) -> bool:
    return char.isascii() and char.isalnum()
