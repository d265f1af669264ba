"""Answers in words: a letter, yes or no, the last number of a sentence."""

from __future__ import annotations

import re

from rsd_integrations.evaluation.plain_text import plain
from rsd_integrations.evaluation.quantities import NUMERAL, Quantity, quantity

LETTERS = "ABCDEFGHIJ"
TRUE, FALSE = ("yes", "true"), ("no", "false")
_LETTER = re.compile(r"\(([A-Ja-j])\)|\[([A-Ja-j])\]|([A-Ja-j])[.):]?")
_CHOSEN = re.compile(
    r"(?:(?i:option|choice|answer|letter)\s*:?\s*)?(?:\(([A-Ja-j])\)|\[([A-Ja-j])\]|([A-J])(?![\w'’])|([a-j])(?=[.):]|$))"
)
_LETTER_NEXT = r"\s*(?:(?:maybe|perhaps|possibly|option|choice)\s+)*(?:[(\[]?[A-J](?![\w'’])|\(?[a-j]\))"
_ANOTHER = re.compile(rf"\)?\s*(?:,|/|&|\+|\bplus\b|\bas well as\b|\bor\b|\band\b)\s*(?:\bor\b|\band\b)?{_LETTER_NEXT}")
_ONE_MORE = re.compile(rf"\b(?:or|and)\b{_LETTER_NEXT}")
_FALSE = r"(?:is|was|seems|looks)\s+(?:\w+\s+)?(?:wrong|incorrect|false)\b"
_NOT = r"(?:(?:is|was|seems|looks)\s+(?:\w+\s+)?not|(?:is|was)n['’]t)\b"
_CANNOT = r"(?:cannot|can['’]t)\s+(?!be\s+\w+ed\b)"
_RIGHT = r"\s*(?:be\s+)?(?:right|correct|true|valid|possible|(?:the|an?)\s+(?:\w+\s+)?(?:answer|option|choice))\b"
_REJECTED = re.compile(rf"[\s*]*(?:{_FALSE}|{_NOT}|{_CANNOT})")
_MARKED_REJECTED = re.compile(rf"[\s.):\]*]*(?:{_FALSE}|(?:{_NOT}|{_CANNOT}){_RIGHT})")
"""The same after a letter in brackets or with a mark, which its text may follow: `(D) is not continuous`."""
HEDGED = re.compile(
    r"\b(?:not|or|but|though|although|however|some|maybe|perhaps|neither|nor|if)\b|n['’]t\b", re.IGNORECASE
)
"""Words that make the meaning of a sentence uncertain."""
_NUMBER = re.compile(rf"-?\s?[$€£¥₹]?\s?(?<![\w^])(?<!\^-)(?:\d+\s+\d+/\d+|(?:{NUMERAL})(?:\s?/\s?(?:{NUMERAL}))?)")
_MINUS = re.compile(r"(?:\bnegative|(?<![\d)%] )\bminus)\s*$", re.IGNORECASE)
_ASSIGNED = re.compile(r"\b[a-zA-Z](?:_\w+)?\s*=\s*$")
_OPEN_BEFORE = re.compile(
    r"(?:\b(?:or|not|isn['’]t|than|least|most|out of|between|approximates?|under|below|above|almost|nearly)"
    r"|\d\s*remainder|[±<>≤≥≠^_]|\d\s*(?:and|to|[-–,:*×+]))\s*$",
    re.IGNORECASE,
)
_NO_FACTOR = r"(?:end|black|square|Box|qed|hfill|hspace|hskip|q?quad|label|tag|checkmark|implies|Rightarrow|Omega)"
"""Commands after a number that end a proof or a line, go on to a conclusion, or are a unit."""
_OPEN_AFTER = re.compile(
    r"[^\W\d]*_|\s*(?:(?:or|and|to)\s+[-$€£]?\d|and an? (?:half|third|quarter)\b|out of\b|or (?:more|less|fewer)\b"
    rf"|[-–±/:*×+^,]\s*\d|[\^*×±+!π√∞]|\\(?!{_NO_FACTOR})[a-zA-Z])"
)


def last_number(sentence: str) -> Quantity | None:
    """The last number of a sentence, with its unit; None if it is one of several, or a bound."""
    sentence = plain(sentence)
    found = list(_NUMBER.finditer(sentence))
    if not found:
        return None
    before, after = _ASSIGNED.sub("", sentence[: found[-1].start()]), sentence[found[-1].end() :]
    if _OPEN_BEFORE.search(before) or _OPEN_AFTER.match(after):
        return None
    following = re.findall(r"\s*\S+", after)[:3]
    attached = after[:1].isalpha()
    figure = re.sub(r"^-\s*", "-", ("-" if _MINUS.search(before) else "") + found[-1][0].strip())
    readings = ("".join([figure, *following[:count]]) for count in ((3, 2, 1) if attached else (3, 2, 1, 0)))
    known = [own for reading in readings if (own := quantity(reading)) is not None]
    return next((own for own in known if own.units or own.value != known[-1].value), known[-1] if known else None)


def letter(reference: str) -> str | None:
    """The letter from A to J, possibly in brackets, that is the correct answer; None if it is something else."""
    found = _LETTER.fullmatch(plain(reference))
    return None if found is None else str(next(filter(None, found.groups()))).upper()


def chosen(reading: str) -> str | None:
    """The letter at the beginning of an answer; None if there is none, or if another one is next to it."""
    reading = plain(reading).lstrip("\"'“ ").rstrip("\"'” ")
    found = _CHOSEN.match(reading)
    if found is None:
        return None
    rest = reading[found.end() :]
    if found[3] in ("A", "I") and re.match(r"\s+(?!(?:is|because|since|as|with|and|or)\b)[a-z]", rest):
        return None  # an article, a pronoun
    rejected = _MARKED_REJECTED if found[3] is None else _REJECTED
    if _ANOTHER.match(rest) or _ONE_MORE.search(rest) or rejected.match(rest) or _MARKED_REJECTED.match(rest):
        return None
    return str(next(filter(None, found.groups()))).upper()


def named_last(sentence: str) -> str | None:
    """The only letter in a sentence that does not mark its answer."""
    sentence = plain(sentence)
    if HEDGED.search(sentence) or re.search(r"\b(?:wrong|incorrect|false|excluded)\b", sentence, re.IGNORECASE):
        return None
    named = re.findall(r"\(([A-Ja-j])\)|(?<![\w'’])([B-HJ]|[AI](?!\s+(?!(?:and|or)\b)[a-z]))(?![\w'’])", sentence)
    letters = {(one or other).upper() for one, other in named}
    return letters.pop() if len(letters) == 1 else None


_POLAR = r"(yes|no|true|false)"
_GOES_ON = r"(?=\s*(?:$|[.,;:!)\n\"'”’—–-]|(?:because|since|as|it|they|he|she|this|that|the|there|we|you|not)\b))"
_BEGINS = re.compile(
    rf"[\W_]*(?:(?:definitely|indeed|clearly|certainly|(?:it|that|this|the statement|the claim)(?: is|['’]s))\s+)*"
    rf"(not\s+)?{_POLAR}\b{_GOES_ON}",
    re.IGNORECASE,
)
_ENDS = re.compile(
    rf"(?:\b(not|cannot|never|neither)\s+(?:\w+\s+)?|(n['’]t)\s+(?:\w+\s+)?|\b){_POLAR}\W*$", re.IGNORECASE
)
_UNSURE = re.compile(
    r"(?:\b(?:whether|unsure|unclear|(?:not|n['’]t)\s+(?:sure|certain|clear|known))\b[^,;:]*"
    r"|\b(?:hardly|part(?:ial)?ly)\s+\w+)\W*$",
    re.IGNORECASE,
)
_BOTH = re.compile(rf"\b{_POLAR}\s*(?:/|,|\band\b|\bor\b|\bnor\b)\s*{_POLAR}\b", re.IGNORECASE)


def polarity(reading: str, *, at_end: bool = False) -> bool | None:
    """Whether a reading says yes or true, or no or false; None if it says neither or both."""
    reading = plain(reading)
    found = (_ENDS.search if at_end else _BEGINS.match)(reading)
    if found is None or _BOTH.search(reading) or (at_end and _UNSURE.search(reading)):
        return None
    *nots, word = found.groups()
    said = word.lower() in TRUE
    if not any(nots):
        return said
    return not said if word.lower() in ("true", "false") else None  # "not true" is false, but "not yes" is no answer
