r"""Numbers with their units, as people and models write them: `$1,000`, `1 1/2`, `20 cm^2`, `50\%`, `3 million`.

Values are exact fractions. A text is a quantity only as a whole: "5 or 6", "at least 5", "5-10" and "5x" are not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from rsd_integrations.evaluation.plain_text import plain
from rsd_integrations.evaluation.units import PERCENT, UNITS, Unit, unit_of

LONGEST = 200
"""Characters of the longest text that is considered."""
NUMERAL = r"\d{1,3}(?:\.\d{3}){2,}(?!\.?\d)|(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?:[ ]\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
"""A number in digits; commas or spaces may separate thousands, points only where two or more leave no doubt."""
_DIGITS = 400
"""The largest exponent that is evaluated."""
_FORMS = re.compile(
    rf"""(?P<sign>[-+]?)\s*(?P<currency>[$€£¥₹]?)\s*(?P<inner>[-+]?)\s*(?:
        (?P<whole>\d+)(?:\s+|\s*(?:and|&)\s+)(?P<over>\d+)\s*/\s*(?P<under>\d+)(?![\d.])
      | (?P<top>{NUMERAL})\s*(?:/|out\ of)\s*(?P<bottom>{NUMERAL})(?![\d.])
      | (?P<mantissa>{NUMERAL})(?:e|\s*(?:×|\*|x)\s*10\s*\^\s*)(?P<exponent>[-+]?\d+)
      | (?P<plain>{NUMERAL})
    )(?P<rest>.*)""",
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
_WORDS = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17, "eighteen": 18, "nineteen": 19, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50,
    "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
_MULTIPLES = {
    "dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12
}  # fmt: skip
_LEADING = re.compile(
    r"(?:(?:about|approximately|approx\.?|around|roughly|exactly|only|just|a total of|≈|=|[a-zA-Z](?:_\w+)?\s*=)\s*)+",
    re.IGNORECASE,
)
_NO_UNIT = frozenset({
    "or", "and", "to", "not", "nor", "but", "out", "than", "minus", "plus", "times", "divided", "more", "less", "fewer",
    "least", "most", "between", "half", "halves", "third", "thirds", "fourth", "fourths", "fifth", "fifths", "sixth",
    "sixths", "tenth", "tenths", "hundredths", "squared", "cubed", "factorial", "pi", "sin", "cos", "tan", "log", "ln",
    "sqrt", "infinity", "mod", "choose", "ago", "if", "unless", "maybe", "until",
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
})  # fmt: skip
"""Words after a number that make it another number, or an uncertain one."""
_WORD = re.compile(r"[^\W\d_]|[%°¢$€£¥₹/]")


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number, possibly with a unit."""

    value: Fraction
    """The number as it is written, before its unit."""
    units: Unit = ()
    """The possible units: dimension, and how many of the dimension's base units it is; empty if there is no unit."""
    nouns: frozenset[str] = frozenset()
    """Words after it that are not a known unit."""
    decimals: int = 0
    """Digits after the decimal point, as written."""

    @property
    def is_percentage(self) -> bool:
        """Whether its unit is percent."""
        return bool(self.units) and self.units[0][0] == PERCENT

    def equals(self, other: Quantity) -> bool:
        """Whether both mean the same; if one of them has no unit, the numbers decide.

        A percentage equals its hundredth: "50%" is 0.5. It equals the bare number only above 1: "0.5%" is not 0.5.
        """
        if self.is_percentage != other.is_percentage:
            percent, bare = (self, other) if self.is_percentage else (other, self)
            if bare.units or bare.nouns:
                return False
            return _near(percent.value / 100, bare.value, percent.decimals + 2, bare.decimals) or (
                abs(bare.value) > 1 and _near(percent.value, bare.value, percent.decimals, bare.decimals)
            )
        if self.units and other.units:
            return any(
                mine == theirs and _near(self.value * own, other.value * factor, self.decimals, other.decimals)
                for mine, own in self.units
                for theirs, factor in other.units
            )
        if (self.units and other.nouns) or (other.units and self.nouns):
            return False
        if self.nouns and other.nouns and not self.nouns & other.nouns:
            return False
        return _near(self.value, other.value, self.decimals, other.decimals)


def _near(a: Fraction, b: Fraction, *decimals: int) -> bool:
    """Whether two numbers are the same, or one is the other cut or rounded after six decimals or more."""
    if a == b:
        return True
    for rounded, exact, places in ((a, b, decimals[0]), (b, a, decimals[1])):
        if places >= 15 and abs(rounded - exact) <= abs(exact) / 10**12:  # a floating-point number
            return True
        if places >= 6 and (exact * 10**places).denominator > 1:
            return abs(rounded - exact) <= min(Fraction(1, 10**places), abs(exact) / 10**5)
    return False


def quantity(text: str) -> Quantity | None:
    """The quantity in a text, plain or in LaTeX; None if the text is anything else."""
    if len(text) > LONGEST:
        return None
    return _quantity(plain(text))


@lru_cache(10_000)
def _quantity(text: str) -> Quantity | None:
    text = _LEADING.sub("", text, count=1) if _LEADING.match(text) else text
    text = _in_digits(text.strip().rstrip(".,;:").strip())
    found = _FORMS.fullmatch(text)
    if found is None or (found["sign"] and found["inner"]):
        return None
    value = _value(found)
    if value is None:
        return None
    value = -value if "-" in (found["sign"], found["inner"]) else value
    return _with_unit(value, found["currency"], found["rest"], _decimals(found))


def _decimals(found: re.Match[str]) -> int:
    written = found["plain"] or found["mantissa"] or ""
    return len(written.partition(".")[2]) - int(found["exponent"] or 0)


def _value(found: re.Match[str]) -> Fraction | None:
    """The matched number, without its sign; None if it divides by zero or is too large."""

    def of(group: str) -> Fraction:
        digits = found[group].replace(",", "").replace(" ", "")
        return Fraction(digits.replace(".", "") if digits.count(".") > 1 else digits)

    try:
        if found["whole"]:
            return of("whole") + of("over") / of("under")
        if found["top"]:
            return of("top") / of("bottom")
        if found["mantissa"]:
            return (
                None
                if abs(int(found["exponent"])) > _DIGITS
                else of("mantissa") * Fraction(10) ** int(found["exponent"])
            )
        return of("plain")
    except ZeroDivisionError:
        return None


def _with_unit(value: Fraction, currency: str, rest: str, decimals: int) -> Quantity | None:
    """A number with the text after it; None if that makes it something else."""
    rest = re.sub(r"^(?:st|nd|rd|th)\b", "", rest)
    attached = bool(rest) and rest[0].isalpha()
    words = re.findall(r"[^\W\d_]+(?:\^?[23](?!\d))?|[%°¢$€£¥₹][cCfF]?|/|\S", rest.replace("-", " "))
    while words and (multiple := _MULTIPLES.get(words[0].lower().removesuffix("s"))):
        value, decimals, attached, words = value * multiple, 0, False, words[1:]
    words = [word.lower() if len(word) > 1 else word for word in words]
    if len(words) > 8 or any(word in _NO_UNIT or word in _WORDS or not _WORD.match(word) for word in words):
        return None
    units, nouns = unit_of(words)
    letters = any(len(word) == 1 and word not in "a/%°¢$€£¥₹" for word in words)
    if letters and (currency or not units or (attached and words[0] in "LNJWVK")):
        return None  # 5x is an expression, and $5m is five million
    return Quantity(value, UNITS[currency] if currency else units, frozenset() if currency else nouns, decimals)


def _in_digits(text: str) -> str:
    """A number word at the beginning, in digits: "three", "twenty-one", "forty two"."""
    found = re.match(r"([A-Za-z]+)(?:[- ]([A-Za-z]+))?(?![A-Za-z])", text)
    if found is None or (first := _WORDS.get(found[1].lower())) is None:
        return text
    second = _WORDS.get((found[2] or "").lower(), 0)
    if first >= 20 and 0 < second < 10:
        return f"{first + second}{text[found.end() :]}"
    return f"{first}{text[found.end(1) :]}"
