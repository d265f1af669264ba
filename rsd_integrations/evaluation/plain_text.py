"""Short texts without the markup around their words and numbers."""

from __future__ import annotations

import re
import unicodedata

_TEXTS = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox|operatorname|emph)\s*\{([^{}]*)\}")
_REPLACED = (
    (re.compile(r"\\left|\\right|\\displaystyle|\\!|\*\*|`"), ""),
    (re.compile(r"\\[dt]frac"), r"\\frac"),
    (re.compile(r"\\(?:[,;: ]|quad|qquad)|~"), " "),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r" \1/\2"),
    (re.compile(r"\\frac\s*(\d)\s*(\d)"), r" \1/\2"),
    (re.compile(r"\^\s*\{?\\circ\}?|\\degree|\\circ"), "°"),
    (re.compile(r"\\%|\\percent"), "%"),
    (re.compile(r"\\(?:times|cdot)|·"), "×"),
    (re.compile(r"\\approx|\\simeq"), "≈"),
    (re.compile(r"\^\s*\{\s*(-?\w+)\s*\}"), r"^\1"),
    (re.compile(r"[−–‒](?=\s*[\d.$])"), "-"),
    (re.compile(r"\s+"), " "),
)
_DELIMITED = re.compile(r"(?<!\\)\${1,2}(?=[^\s$])([^$\n]*?[^\s$\\])\${1,2}(?!\d)|\\[(\[](.*?)\\[)\]]", re.DOTALL)
"""Mathematics in a text; `$5 and $6` is not."""
_HALVES = re.compile("[¼-¾⅐-⅞]")


def plain(text: str) -> str:
    r"""A short text without LaTeX and Markdown around words and numbers: `\$1{,}000 \text{ m}^2` is `$1,000 m^2`."""
    text = text.replace("²", "^2").replace("³", "^3")
    text = unicodedata.normalize("NFKC", _HALVES.sub(lambda half: f" {half[0]}", text)).replace("⁄", "/").strip()
    text = _DELIMITED.sub(lambda found: found[1] or found[2], text)
    text = text.replace(r"\$", "$")
    for _ in range(3):  # \textbf{\text{…}}
        text = _TEXTS.sub(r" \1", text)
    for pattern, new in _REPLACED:
        text = pattern.sub(new, text)
    return text.strip()


def squeezed(text: str) -> str:
    """A text without irrelevant differences: markup, case, an article before it, punctuation around it."""
    text = re.sub(r"\s+", " ", plain(text).replace("$", "").replace("’", "'").casefold()).strip(" .,;:!?\"'“”‘’`*_")
    return re.sub(r"^(?:the|an?) (?=\S)", "", text)
