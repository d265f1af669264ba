"""Where a text may be cut so that its parts, tokenised one by one, are the tokens of the whole."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

_WORDS, _LINES = re.compile("[A-Za-z][ Ġ▁][A-Za-z]"), re.compile(r"Ċ[A-Za-zÃ-ô]|\n[^\W\d_]")
"""Tokens that go over such places, in the spelling of byte-level vocabularies or of SentencePiece."""


@dataclass(frozen=True, slots=True)
class SafeSplits:
    """Two kinds of places where tokenizers cut a text before they merge anything, whatever comes before and after.

    The patterns of GPT-2, Qwen, Llama 3, tekken and DeepSeek all begin a new piece with a space between two letters,
    and with a letter that begins a line. Tokenizers without a pattern (SentencePiece) merge nothing over a place that
    none of their tokens goes over, which is looked up.
    """

    words: bool
    """Before a space between two ASCII letters."""
    lines: bool
    """Between a newline and a letter."""

    @classmethod
    def of(cls, tokens: Iterable[str]) -> Self:
        """Those of a vocabulary.

        Args:
            tokens: Its tokens, as it spells them.
        """
        text = "\0".join(tokens)
        return cls(_WORDS.search(text) is None, _LINES.search(text) is None)

    def last(self, text: str) -> int:
        """The last such place in a text; 0 where there is none."""
        at = len(text) - 1
        while (at := max(text.rfind("\n", 0, at) if self.lines else -1, text.rfind(" ", 1, at))) >= 0:
            after = text[at + 1]
            if text[at] == "\n":
                if after.isalpha():
                    return at + 1
            elif self.words and _is_ascii_letter(after) and _is_ascii_letter(text[at - 1]):
                return at
        return 0


def _is_ascii_letter(char: str) -> bool:
    return char.isascii() and char.isalpha()
