"""Equations in a text, and whether they hold: exact arithmetic on what is written, without evaluating it as code."""

from __future__ import annotations

import itertools
import re
from fractions import Fraction

_NUMBER = r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
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
_REMAINDER = re.compile(
    r"[\s,;(]*(?:(?:with|and|leaving)\s+)?(?:an?\s+|the\s+)?"
    r"(?:remainder\b|rem(?:ainder)?\.?\s*[=:]?\s*\d|r(?:est)?\.?\s*[=:]?\s*\d|\d+\s+(?:is\s+)?left)",
    re.IGNORECASE,
)
"""What follows a quotient without its fraction: `3 remainder 1`, `3 R1`, `3 with 1 left over`."""
MAX_EXPONENT = 64
"""Larger powers are not checked: texts do not need them, and it would take too long."""


def equations(text: str) -> list[tuple[str, bool]]:
    """Every chain of equations with some arithmetic in a text, and whether all of its links are equal.

    Numbers may have thousands separators and currency signs; products and fractions may be LaTeX. A link written as
    a decimal fraction may be rounded to its last digit, and after ≈ a whole number to its last one that is not 0.
    Anything but arithmetic on plain numbers is skipped, as are quotients with a remainder, decimal commas, and
    estimates by easier numbers (`19 * 5 ≈ 20 * 5`).
    """
    for pattern, plain in _LATEX:
        text = pattern.sub(plain, text)
    chains = []
    for match in _SPAN.finditer(text):
        links, signs = re.split("[=≈]", match[0]), re.findall("[=≈]", match[0])
        if _goes_on_before(text[: match.start()], match[0]):
            links, signs = links[1:], signs[1:]
        if _goes_on_after(text[match.end() :], match[0]):
            links, signs = links[:-1], signs[:-1]
        values = [_value(link) for link in links]
        shown = [(link.strip(), value) for link, value in zip(links, values, strict=True) if value is not None]
        if len(shown) < 2 or len(shown) < len(links) or not any(_operates(link) for link, _ in shown):
            continue
        pairs = zip(signs, itertools.pairwise(shown), strict=True)
        judged = [_agree(a, b, sign) for sign, (a, b) in pairs if sign == "=" or not _operates(b[0])]
        if judged:
            written = [f" {sign} {link}" for sign, (link, _) in zip(signs, shown[1:], strict=True)]
            chains.append((shown[0][0] + "".join(written), all(judged)))
    return chains


def _goes_on_before(before: str, span: str) -> bool:
    """Whether the first link may be the end of something longer, such as a name or a function of it."""
    if not before.strip():
        return False
    if span.lstrip()[:1] in tuple("+-*/^=≈") or (span[:1].isdigit() and re.search(r"\d,$", before)):
        return True
    last = re.search(r"\S+$", before.rstrip())
    if span[:1].isspace():
        return last is not None and last[0].lower().lstrip("\\") in _OPERATIONS
    return before[-1] not in ",;>'\"{" and not (before[-1] == ":" and not before[-2:-1].isdigit())


def _goes_on_after(after: str, span: str) -> bool:
    """Whether the last link may be the beginning of something longer, such as a multiple of a name."""
    if not after.strip():
        return False
    if _REMAINDER.match(after) or (span[-1:].isdigit() and re.match(r",\d", after)):  # the latter in decimals: 2,5
        return True
    if span[-1:].isspace():
        word = re.match(r"\w+", after)
        return after[0] in "%\\" or (word is not None and (len(word[0]) == 1 or word[0].lower() in _SCALES))
    return after[0] not in ".,;?'\"}<" and not (after[0] == ":" and not after[1:2].isdigit())


def _operates(link: str) -> bool:
    return re.search(r"[\d)]\s*[-+*/^]", link) is not None


def _agree(a: tuple[str, Fraction], b: tuple[str, Fraction], sign: str) -> bool:
    """Whether two links are equal, or one is the other rounded to as many digits as it shows."""
    return a[1] == b[1] or any(
        not _operates(text) and abs(value - other) <= _rounding(text, sign)
        for text, value, other in ((a[0], a[1], b[1]), (b[0], b[1], a[1]))
    )


def _rounding(number: str, sign: str) -> Fraction:
    """The largest difference that rounding to the digits of a number makes."""
    whole, point, decimals = re.sub(r"[^\d.]", "", number).partition(".")
    if point:
        return Fraction(1, 2 * 10 ** len(decimals))
    digits = whole.strip("0")
    zeros = len(whole) - len(whole.rstrip("0")) if digits else 0
    return Fraction(10**zeros, 2) if sign == "≈" else Fraction(0)


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
