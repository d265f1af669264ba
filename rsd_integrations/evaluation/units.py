"""Units of measure and of money by their names, and their conversion."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction

Unit = tuple[tuple[str, Fraction], ...]
"""The possible meanings of a name (a pound is money or mass): the dimension, and the number of its base units."""
PERCENT = "percent"


def _units() -> dict[str, Unit]:
    """Names of units, each with its possible dimensions and the number of base units in it."""
    told = {
        "length": {
            "mm millimeter millimetre": "1/1000", "cm centimeter centimetre": "1/100", "dm decimeter decimetre": "1/10",
            "m meter metre": "1", "km kilometer kilometre": "1000", "in inch inches": "0.0254",
            "ft foot feet": "0.3048", "yd yard": "0.9144", "mi mile": "1609.344",
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
        "kelvin": {"K kelvin": "1"},
        "radians": {"rad radian": "1"},
        "power": {"W watt": "1", "kw kilowatt": "1000"},
        "energy": {"J joule": "1", "kj kilojoule": "1000"},
        "force": {"N newton": "1"},
        "voltage": {"V volt": "1"},
        "frequency": {"hz hertz": "1", "khz": "1000", "mhz": "1000000"},
        "length/time": {"mph": "0.44704", "kmh kph": "5/18"},
        PERCENT: {"% percent percentage": "1"},
    }  # fmt: skip
    units: dict[str, Unit] = {}
    for dimension, names in told.items():
        for words, factor in names.items():
            for word in words.split():
                for form in {word, f"{word}s"} if len(word) > 2 else {word}:
                    units[form] = (*units.get(form, ()), (dimension, Fraction(factor)))
    return units


UNITS: Mapping[str, Unit] = _units()
"""Units by name, in singular and plural."""


def unit_of(words: list[str]) -> tuple[Unit, frozenset[str]]:
    """The unit in some words, and the words that are not a known unit."""
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
    """The counted noun, in the singular; "units" is none."""
    stems = (re.sub(r"(?<=[^s])s$|(?<=[sx])es$", "", word) for word in words if len(word) > 1)
    return frozenset(stem for stem in stems if stem not in ("unit", "of", "the", "in", "per"))
