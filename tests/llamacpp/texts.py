"""Texts of all sorts, at random, for comparisons of tokenizers."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

CHARACTERS = (
    *(
        "abcdefghijklmnopqrstuvwxyz",
        "ABCXYZ",
        "0123456789",
        " ",
        "  ",
        "\n",
        "\n\n",
        "\t",
        "\r\n",
        "!?.,;:",
        "()[]{}<>",
    ),
    *("'s", "'re", "'LL", "'", "’s", "_-—", "$\\frac{1}{2}$", "+-*/=^%", '`"', "#@&|~"),
    *("éàüßñ", "e\u0301", "ΑΒΓαβγ", "абвгд", "中文字", "日本語テスト", "한국어", "العربية", "हिन्दी", "ไทย", "ქართული"),
    *(
        "😀👍🏽🇫🇷",
        "👨\u200d👩\u200d👧",
        "½²³",
        "Ⅷ",
        "٣٤",
        "𝟙𝟚",
        "ﬁ",
        "ªº",
        "ˈ",
        "ⓐ㊀",
        "々〇",
        "\U0001d400",
        "\U00020000",
    ),
    *("\u00a0", "\u3000", "\u200b", "\u2028", "\ufeff", "\u00ad", "\u0300\u20dd", "\x00", "\x7f", "\ue000", "\ufffd"),
    *("\x85", "\x0b\x0c", "\u1680", "\u2000\u202f\u205f"),
)
"""Sorts of characters: a text is made of some of each of some of them."""


def texts(count: int, seed: int, names: Sequence[str] = ()) -> Iterator[str]:
    """Random texts, up to 12 sorts of characters each.

    Args:
        count: How many.
        seed: Of the random numbers.
        names: Strings that come in them as they are, such as special tokens.
    """
    numbers = random.Random(seed)
    for _ in range(count):
        yield "".join(_some(numbers, names) for _ in range(numbers.randint(1, 12)))


def _some(numbers: random.Random, names: Sequence[str]) -> str:
    if names and numbers.random() < 0.1:
        return numbers.choice(names)
    sort = numbers.choice(CHARACTERS)
    return sort if numbers.random() < 0.5 else "".join(numbers.choices(sort, k=numbers.randint(1, 6)))
