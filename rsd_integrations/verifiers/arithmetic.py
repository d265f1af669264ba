"""Equations in a text, and whether they hold: exact arithmetic on what is written, without evaluating it as code."""

from __future__ import annotations

import itertools
import re
from fractions import Fraction

_NUMBER = r"\d+(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
_TOKEN = re.compile(rf"\s*({_NUMBER}|[-+*/^()=≈])")
_SPAN = re.compile(rf"(?:{_NUMBER}|[-+*/^()=≈\s])+")
_LATEX = (
    (re.compile(r"\\d?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r"((\1)/(\2))"),
    (re.compile(r"\\times|\\cdot|[×·⋅]|(?<=[\d)])\s*x\s*(?=[\d(])"), "*"),
    (re.compile(r"\\div|÷"), "/"),
    (re.compile(r"\\approx"), "≈"),
    (re.compile(r"−"), "-"),
    (re.compile(r"\\left|\\right|\\[,;!()\[\]]|\\\$|[$€£]"), " "),
)
_OPERATIONS = frozenset(
    "times plus minus by over of mod than sin cos tan log ln exp sqrt gcd lcm max min".split()  # noqa: SIM905
)
_SCALES = frozenset("hundred thousand million billion dozen percent times plus minus mod over of".split())  # noqa: SIM905
MAX_EXPONENT = 64
"""Larger powers are not checked: texts do not need them, and it would take too long."""


def equations(text: str) -> list[tuple[str, bool]]:
    """Every chain of equations with some arithmetic in a text, and whether all of its links are equal.

    Numbers may have thousands separators and currency signs; products and fractions may be LaTeX. A link written as
    a decimal fraction may be rounded to its last digit, but a whole number may not, even after ≈. Anything but
    arithmetic on plain numbers is skipped, except that decimal commas and remainders (`7 ÷ 2 = 3 remainder 1`) are not
    recognised.
    """
    for pattern, plain in _LATEX:
        text = pattern.sub(plain, text)
    chains = []
    for match in _SPAN.finditer(text):
        links = re.split("[=≈]", match[0])
        if _goes_on_before(text[: match.start()], match[0]):
            links = links[1:]
        if _goes_on_after(text[match.end() :], match[0]):
            links = links[:-1]
        values = [_value(link) for link in links]
        shown = [(link.strip(), value) for link, value in zip(links, values, strict=True) if value is not None]
        if len(shown) < 2 or len(shown) < len(links) or not any(_operates(link) for link, _ in shown):
            continue
        holds = all(_agree(a, b) for a, b in itertools.pairwise(shown))
        chains.append((" = ".join(link for link, _ in shown), holds))
    return chains


def _goes_on_before(before: str, span: str) -> bool:
    """Whether the first link may be the end of something longer, such as a name or a function of it."""
    if not before.strip():
        return False
    if span.lstrip()[:1] in tuple("+-*/^=≈"):
        return True
    last = re.search(r"\S+$", before.rstrip())
    if span[:1].isspace():
        return last is not None and last[0].lower().lstrip("\\") in _OPERATIONS
    return before[-1] not in ",;>'\"{" and not (before[-1] == ":" and not before[-2:-1].isdigit())


def _goes_on_after(after: str, span: str) -> bool:
    """Whether the last link may be the beginning of something longer, such as a multiple of a name."""
    if not after.strip():
        return False
    if span[-1:].isspace():
        word = re.match(r"\w+", after)
        return after[0] in "%\\" or (word is not None and (len(word[0]) == 1 or word[0].lower() in _SCALES))
    return after[0] not in ".,;?'\"}<" and not (after[0] == ":" and not after[1:2].isdigit())


def _operates(link: str) -> bool:
    return re.search(r"[\d)]\s*[-+*/^]", link) is not None


def _agree(a: tuple[str, Fraction], b: tuple[str, Fraction]) -> bool:
    """Whether two links are equal, or one is the other rounded to as many digits as it shows."""
    return a[1] == b[1] or any(
        "." in text and not _operates(text) and abs(value - other) <= Fraction(1, 2 * 10 ** len(text.partition(".")[2]))
        for text, value, other in ((a[0], a[1], b[1]), (b[0], b[1], a[1]))
    )


def _value(link: str) -> Fraction | None:
    """The value of an expression; None if it is invalid or undefined."""
    tokens, at = [], 0
    link = link.strip().rstrip(".,( ")
    while at < len(link):
        match = _TOKEN.match(link, at)
        if match is None:
            return None
        tokens.append(match[1])
        at = match.end()
    try:
        parser = _Parser(tokens)
        value = parser.sum()
        return value if not parser.tokens else None
    except (IndexError, ValueError, ZeroDivisionError, RecursionError):
        return None


class _Parser:
    """Recursive descent over `+ - * / ^` and parentheses."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens[::-1]

    def sum(self) -> Fraction:
        value = self.product()
        while self.tokens and self.tokens[-1] in "+-":
            value = value + self.product() if self.tokens.pop() == "+" else value - self.product()
        return value

    def product(self) -> Fraction:
        value = self.power()
        while self.tokens and self.tokens[-1] in "*/":
            value = value * self.power() if self.tokens.pop() == "*" else value / self.power()
        return value

    def power(self) -> Fraction:
        if self.tokens[-1] == "-":
            self.tokens.pop()
            return -self.power()
        base = self.atom()
        if self.tokens and self.tokens[-1] == "^":
            self.tokens.pop()
            exponent = self.power()
            if exponent.denominator != 1 or abs(exponent) > MAX_EXPONENT:
                raise ValueError(exponent)
            return base ** int(exponent)
        return base

    def atom(self) -> Fraction:
        first = self.tokens.pop()
        if first == "(":
            value = self.sum()
            if self.tokens.pop() != ")":
                raise ValueError("unclosed parenthesis")
            return value
        return Fraction(first.replace(",", ""))
