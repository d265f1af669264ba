r"""Numbers with their units, as people and models write them: `$1,000`, `1 1/2`, `20 cm^2`, `50\%`, `3 million dollars`.

Values are exact fractions. A text is a quantity only as a whole: "5 or 6", "at least 5", "5-10" and "5x" are none.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

LONGEST = 200
"""Characters of the longest text that is looked at."""
NUMERAL = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?:[ ]\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
"""A number of digits; thousands may be set apart by commas or spaces."""
_DIGITS = 400
"""The largest exponent that is worked out."""
_FORMS = re.compile(
    rf"""(?P<sign>[-+]?)\s*(?P<currency>[$€£¥₹]?)\s*(?P<inner>[-+]?)\s*(?:
        (?P<whole>\d+)(?:\s+|\s*(?:and|&)\s+)(?P<over>\d+)\s*/\s*(?P<under>\d+)(?![\d.])
      | (?P<top>{NUMERAL})\s*(?:/|out\ of)\s*(?P<bottom>{NUMERAL})(?![\d.])
      | (?P<mantissa>{NUMERAL})(?:e|\s*(?:×|\*|x)\s*10\s*\^\s*)(?P<exponent>[-+]?\d+)
      | (?P<plain>{NUMERAL})
    )(?P<rest>.*)""",
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
).split()
_WORDS = {word: i for i, word in enumerate(_SMALL)} | {
    word: 10 * i for i, word in enumerate("thirty forty fifty sixty seventy eighty ninety".split(), 3)
}
_MULTIPLES = {
    "dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12
}  # fmt: skip
_LEADING = re.compile(
    r"(?:(?:about|approximately|approx\.?|around|roughly|exactly|only|just|a total of|≈|~|=|[a-zA-Z](?:_\w+)?\s*=)\s*)+",
    re.IGNORECASE,
)
# Words after a number that make it another number, or no certain one.
_NO_UNIT = frozenset(
    "or and to not nor but out than minus plus times divided more less fewer least most between half halves third thirds "
    "fourth fourths fifth fifths sixth sixths tenth tenths hundredths squared cubed factorial pi sin cos tan log ln sqrt "
    "infinity mod choose ago if unless maybe until".split()
)
_PERCENT = "percent"
_WORD = re.compile(r"[^\W\d_]|[%°¢$€£¥₹/]")


def _units() -> dict[str, tuple[tuple[str, Fraction], ...]]:
    """Names of units, each with its dimensions and how many of the dimension's base units it is."""
    told = {
        "length": {
            "mm millimeter millimetre": "1/1000", "cm centimeter centimetre": "1/100", "dm decimeter decimetre": "1/10",
            "m meter metre": "1", "km kilometer kilometre": "1000", "in inch inches": "0.0254", "ft foot feet": "0.3048",
            "yd yard": "0.9144", "mi mile": "1609.344",
        },
        "mass": {
            "mg milligram": "1/1000000", "g gram": "1/1000", "kg kilogram kilo": "1", "tonne": "1000",
            "lb lbs pound": "0.45359237", "oz ounce": "0.028349523125",
        },
        "time": {
            "ms millisecond": "1/1000", "s sec second": "1", "min mins minute": "60", "h hr hrs hour": "3600",
            "day": "86400", "week": "604800",
        },
        "months": {"month": "1", "year yr yrs": "12"},
        "length^3": {"ml milliliter millilitre": "1/1000000", "cl": "1/100000", "L liter litre": "1/1000"},
        "dollars": {"$ dollar usd buck": "1", "cent ¢": "1/100"},
        "euros": {"€ euro eur": "1"},
        "pounds": {"£ gbp pound": "1", "pence": "1/100"},
        "yen": {"¥ yen": "1"},
        "rupees": {"₹ rupee": "1"},
        "degrees": {"degree deg °": "1"},
        "celsius": {"°c celsius": "1"},
        "fahrenheit": {"°f fahrenheit": "1"},
        "kelvin": {"kelvin": "1"},
        "radians": {"rad radian": "1"},
        "power": {"W watt": "1", "kw kilowatt": "1000"},
        "energy": {"J joule": "1", "kj kilojoule": "1000"},
        "force": {"N newton": "1"},
        "voltage": {"V volt": "1"},
        "frequency": {"hz hertz": "1", "khz": "1000", "mhz": "1000000"},
        "length/time": {"mph": "0.44704", "kmh kph": "5/18"},
        _PERCENT: {"% percent percentage": "1"},
    }  # fmt: skip
    units: dict[str, tuple[tuple[str, Fraction], ...]] = {}
    for dimension, names in told.items():
        for words, factor in names.items():
            for word in words.split():
                for form in {word, f"{word}s"} if len(word) > 2 else {word}:
                    units[form] = (*units.get(form, ()), (dimension, Fraction(factor)))
    return units


UNITS: Mapping[str, tuple[tuple[str, Fraction], ...]] = _units()


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number, maybe with a unit."""

    value: Fraction
    """The figure as it is written, before its unit."""
    units: tuple[tuple[str, Fraction], ...] = ()
    """What its unit may be: dimension, and how many of the dimension's base units it is; empty where there is none."""
    nouns: frozenset[str] = frozenset()
    """Words after it that are no known unit."""
    decimals: int = 0
    """Digits after the point, as it is written."""

    @property
    def is_percentage(self) -> bool:
        """Whether its unit is percent."""
        return bool(self.units) and self.units[0][0] == _PERCENT

    def equals(self, other: Quantity) -> bool:
        """Whether both say the same; where one of them names no unit, the figure decides.

        A percentage equals its hundredth: "50%" is 0.5. It equals the bare figure only above 1, since "0.5%" is not 0.5.
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
    places = max(decimals)
    return a == b or (places >= 6 and abs(a - b) <= Fraction(1, 10 ** min(places, 12)))


def quantity(text: str) -> Quantity | None:
    """The quantity that a text is, in plain writing or in LaTeX; None where it is anything else."""
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
    """The number that was matched, without its sign; None for a division by zero and for what is too large."""

    def of(group: str) -> Fraction:
        return Fraction(found[group].replace(",", "").replace(" ", ""))

    try:
        if found["whole"]:
            return of("whole") + of("over") / of("under")
        if found["top"]:
            return of("top") / of("bottom")
        if found["mantissa"]:
            return None if abs(int(found["exponent"])) > _DIGITS else of("mantissa") * Fraction(10) ** int(found["exponent"])
        return of("plain")
    except ZeroDivisionError:
        return None


def _with_unit(value: Fraction, currency: str, rest: str, decimals: int) -> Quantity | None:
    """A number with what stands after it; None where that makes it something else."""
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
    if letters and (currency or not units or (attached and words[0] in "LNJWV")):
        return None  # 5x is an expression, and $5m five millions
    return Quantity(value, UNITS[currency] if currency else units, frozenset() if currency else nouns, decimals)


def unit_of(words: list[str]) -> tuple[tuple[tuple[str, Fraction], ...], frozenset[str]]:
    """The unit that words name, and those of them that are no known unit."""
    if words[:2] == ["per", "cent"]:
        words = ["percent"]
    for divider in ("/", "per", "a", "an"):
        if divider in words[1:-1]:
            at = words.index(divider)
            over, under = unit_of(words[:at])[0], unit_of(words[at + 1 :])[0]
            if over and under:
                return ((f"{over[0][0]}/{under[0][0]}", over[0][1] / under[0][1]),), frozenset()
            return (), _nouns(words)
    if words[:1] in (["degree"], ["degrees"], ["°"]):
        scale = {"C": "celsius", "celsius": "celsius", "F": "fahrenheit", "fahrenheit": "fahrenheit"}
        return UNITS[scale.get("".join(words[1:2]), "degree")], frozenset()
    power = 1
    kept = []
    for word in words:
        raised = re.fullmatch(r"(.+?)\^?([23])", word)
        if raised and raised[1] in UNITS:
            word, power = raised[1], int(raised[2])
        elif word in ("square", "sq", "cubic"):
            power = 3 if word == "cubic" else 2
            continue
        kept.append(word)
    for i, word in enumerate(kept):
        if word in UNITS and (word != "in" or i == len(kept) - 1) and (i == 0 or len(word) > 2):
            if power == 1:
                return UNITS[word], frozenset()
            return tuple((f"{dimension}^{power}", factor**power) for dimension, factor in UNITS[word]), frozenset()
    return (), _nouns(kept)


def _nouns(words: list[str]) -> frozenset[str]:
    """What is counted, in the singular; "units" counts nothing."""
    stems = (re.sub(r"(?<=[^s])s$|(?<=[sx])es$", "", word) for word in words if len(word) > 1)
    return frozenset(stem for stem in stems if stem not in ("unit", "of", "the", "in", "per"))


def _in_digits(text: str) -> str:
    """A number word at the beginning, in digits: "three", "twenty-one", "forty two"."""
    found = re.match(r"([A-Za-z]+)(?:[- ]([A-Za-z]+))?(?![A-Za-z])", text)
    if found is None or (first := _WORDS.get(found[1].lower())) is None:
        return text
    second = _WORDS.get((found[2] or "").lower(), 0)
    if first >= 20 and 0 < second < 10:
        return f"{first + second}{text[found.end() :]}"
    return f"{first}{text[found.end(1) :]}"


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
_HALVES = re.compile("[¼-¾⅐-⅞]")


def plain(text: str) -> str:
    r"""A short text without the LaTeX and Markdown around its words and numbers: `\$1{,}000 \text{ m}^2` is `$1,000 m^2`."""
    text = text.replace("²", "^2").replace("³", "^3")
    text = unicodedata.normalize("NFKC", _HALVES.sub(lambda half: f" {half[0]}", text)).replace("⁄", "/").strip()
    for opening, closing in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening + closing):
            text = text[len(opening) : -len(closing)]
            break
    text = text.replace(r"\$", "$")
    for _ in range(3):  # \textbf{\text{…}}
        text = _TEXTS.sub(r" \1", text)
    for pattern, new in _REPLACED:
        text = pattern.sub(new, text)
    return text.strip()
