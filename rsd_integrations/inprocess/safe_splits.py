"""Positions at which a text can be split so that tokenising its parts gives the tokens of the whole."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

_WORDS, _LINES = re.compile("[A-Za-z0-9][ Ġ▁][A-Za-z0-9]"), re.compile(r"Ċ[!-.0-~Â-ô]|\n[^\s/]")
"""Tokens across such positions, in the spelling of byte-level vocabularies or of SentencePiece."""


@dataclass(frozen=True, slots=True)
class SafeSplits:
    """Two kinds of positions at which tokenizers split a text before merging, whatever comes before and after.

    The patterns of GPT-2, Qwen, Llama 3, tekken and DeepSeek all begin a new piece at a space between two letters or
    digits, and at the first character of a line, except for a slash, which tekken and Llama 4 join with the line ends
    before it. Tokenizers without a pattern (SentencePiece) never merge across a position that none of their tokens
    spans, which is checked.
    """

    words: bool
    """Before a space between two ASCII letters or digits."""
    lines: bool
    """Between a newline and a character that is not white space, a slash or the beginning of an added token."""
    added: frozenset[str] = frozenset()
    """First characters of the tokens matched in a text beforehand: it is split there, as at its end."""

    @classmethod
    def of(cls, tokens: Iterable[str], added: Iterable[str] = ()) -> Self:
        """The safe splits of a vocabulary.

        Args:
            tokens: Its tokens, in its spelling.
            added: Those that are matched in a text before it is tokenised, such as special tokens.
        """
        text = "\0".join(tokens)
        return cls(_WORDS.search(text) is None, _LINES.search(text) is None, frozenset(token[:1] for token in added))

    def last(self, text: str) -> int:
        """The last such position in a text; 0 if there is none."""
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
