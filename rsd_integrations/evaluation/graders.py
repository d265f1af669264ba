"""Graders: whether a text answers a problem rightly. Other packages add theirs in the group `rsd.graders`."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from rsd_core import ConfigurationError
from rsd_core.plugins import Plugin, Registry
from rsd_integrations.evaluation.final_answers import SEARCHED, boxed, last_sentence, stated
from rsd_integrations.evaluation.grading_process import grade_elsewhere
from rsd_integrations.evaluation.quantities import NUMERAL, Quantity, plain, quantity

Grader = Callable[[str, str], bool]
"""From the reference and a model's whole text to whether the text is right."""
LETTERS = "ABCDEFGHIJ"
TRUE, FALSE = ("yes", "true"), ("no", "false")

_LETTER = re.compile(r"\(([A-Ja-j])\)|\[([A-Ja-j])\]|([A-Ja-j])[.):]?")
_CHOSEN = re.compile(
    r"(?:(?i:option|choice|answer|letter)\s*:?\s*)?(?:\(([A-Ja-j])\)|\[([A-Ja-j])\]|([A-J])(?![\w'’])|([a-j])(?=[.):]|$))"
)
_ANOTHER = re.compile(r"\s*(?:,|/|&|\bor\b|\band\b)\s*(?:\bor\b|\band\b)?\s*(?:option|choice)?\s*[(\[]?[A-J](?![\w'’])")
_MATHS = re.compile(r"\\(?!text|mathrm|textbf|mbox)[a-zA-Z]+|[\^_=<>+*/|(){}\[\]!√π∞≤≥±∪∩∈]|\d")
_OPERATION = re.compile(r"[\^+*/(|!√π=-]|\\[a-zA-Z]+")
_BOUND = re.compile(r"[<>≤≥≠±]|\\(?:leq?|geq?|lt|gt|neq?|pm|mp|text|mathrm|textbf|mbox)(?![a-zA-Z])")
_FUNCTIONS = re.compile(
    r"\\[a-zA-Z]+(?:\{(?:[a-z]*matrix|array|cases)\})?|\b(?:sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|pi|max|min|mod|inf)\b"
)


def auto(reference: str, text: str) -> bool:
    """Whether the text is right by the grader that the reference asks for, see `kind_of`."""
    return GRADERS[kind_of(reference)](reference, text)


def kind_of(reference: str) -> str:
    """The name of the grader that fits a right answer, by its content.

    `yes_no` for yes, no, true and false; `choice` for one letter from A to J, maybe in brackets; `number` for a number,
    maybe with a unit; `math` for other mathematics; `text` for everything else.
    """
    if _squeezed(reference) in (*TRUE, *FALSE):
        return "yes_no"
    if _letter(reference) not in (None, *(() if reference.strip() not in ("e", "i") else "EI")):
        return "choice"  # e and i alone are numbers
    if quantity(reference) is not None:
        return "number"
    words = re.search(r"[^\W\d_]{2,}", _FUNCTIONS.sub(" ", _untexted(reference)))
    return "math" if words is None and (_MATHS.search(reference) or len(reference.strip()) == 1) else "text"


def exact(reference: str, text: str) -> bool:
    r"""Whether the content of `\boxed{…}`, or the whole text where there is none, is the reference, letter by letter."""
    answer = boxed(text)
    return (text if answer is None else answer).strip() == reference.strip()


def number(reference: str, text: str) -> bool:
    """Whether the text's number is the reference's, and its unit none or the same, see `Quantity.equals`.

    Where the text marks no answer, it is the last number of the last sentence. An answer that is an expression is
    worked out by math-verify.
    """
    gold = quantity(reference)
    if gold is None:
        return math(reference, text)
    readings = stated(text)
    for reading in readings or [text.strip()]:
        if (own := quantity(reading)) is not None:
            return gold.equals(own)
    if boxed(text) is None and (own := _last_number(last_sentence(text))) is not None:
        return gold.equals(own)
    figure = f"{gold.value}\\%" if gold.is_percentage else str(gold.value)
    return any(_verified(figure, f"\\boxed{{{reading}}}") for reading in readings if _is_figure(reading))


def choice(reference: str, text: str) -> bool:
    r"""Whether the letter that the text chooses, and no other, is the reference: `\boxed{b}`, "(b)", "the answer is B"."""
    letter = _letter(reference)
    if letter is None:
        return words(reference, text)
    readings = stated(text)
    chosen = next((found for one in readings if (found := _chosen(one)) is not None), None)
    if chosen is None and boxed(text) is None:
        chosen = _named_last(last_sentence(text))
    if chosen is None and not readings and "\n" not in text.strip():
        chosen = _chosen(text)
    return chosen == letter


def yes_no(reference: str, text: str) -> bool:
    """Whether the text says yes (true) or no (false), as the reference does."""
    said = _polarity(reference)
    readings = stated(text)
    found = next((own for one in readings if (own := _polarity(one)) is not None), None)
    if not readings:
        found = _polarity(last_sentence(text), at_end=True)
        found = _polarity(text) if found is None else found
    return said is not None and found == said


def math(reference: str, text: str) -> bool:
    """Whether the answers are mathematically equal, by math-verify, in a process of its own with a limit on its time."""
    readings = [_undelimited(reading) for reading in stated(text)]
    if any(_squeezed(reading) == _squeezed(reference) for reading in readings or [text]):
        return True
    marked = [f"\\boxed{{{reading}}}" for reading in readings if boxed(text) is not None or _is_maths(reading)]
    return any(_verified(reference, answer) for answer in marked or [text[-SEARCHED:]])


def words(reference: str, text: str) -> bool:
    r"""Whether the text's answer is the reference but for case, articles, punctuation and `\text{…}` around it."""
    gold = _squeezed(reference)
    readings = stated(text)
    if not readings:
        sentence = last_sentence(text)
        readings = [text, *([] if _HEDGED.search(sentence) else [_COPULA.split(sentence)[-1]])]
    return any(_squeezed(reading) == gold for reading in readings)


_HEDGED = re.compile(r"\b(?:not|or|but|though|although|however|some|maybe|perhaps|neither|nor|if)\b|n['’]t\b", re.IGNORECASE)
_COPULA = re.compile(r"(?:\b(?:is|are|was|were)\b|[:=])\s*", re.IGNORECASE)
_NUMBER = re.compile(rf"-?\s?[$€£¥₹]?\s?(?:\d+\s+\d+/\d+|(?:{NUMERAL})(?:\s?/\s?(?:{NUMERAL}))?)")
_OPEN_BEFORE = re.compile(
    r"(?:\b(?:or|not|isn['’]t|than|least|most|out of|between|approximates?)|[±<>≤≥≠^_]|\d\s*(?:and|to|[-–,:*×+]))\s*$",
    re.IGNORECASE,
)
_OPEN_AFTER = re.compile(r"\s*(?:(?:or|and|to)\s+[-$€£]?\d|out of\b|or (?:more|less|fewer)\b|[-–±/:*×+^,]\s*\d|[\^*×±+!])")


def _last_number(sentence: str) -> Quantity | None:
    """The last number of a sentence, with its unit; None where it is one of several, or a bound."""
    sentence = plain(sentence)
    found = list(_NUMBER.finditer(sentence))
    if not found:
        return None
    before, after = sentence[: found[-1].start()], sentence[found[-1].end() :]
    if _OPEN_BEFORE.search(before) or _OPEN_AFTER.match(after):
        return None
    following = re.findall(r"\s*\S+", after)[:3]
    readings = ("".join([found[-1][0], *following[:count]]) for count in (3, 2, 1, 0))
    known = [own for reading in readings if (own := quantity(reading)) is not None]
    return next((own for own in known if own.units), known[-1] if known else None)


def _letter(reference: str) -> str | None:
    found = _LETTER.fullmatch(plain(reference))
    return None if found is None else next(filter(None, found.groups())).upper()


def _chosen(reading: str) -> str | None:
    """The letter at the beginning of an answer; None where there is none, or another one stands beside it."""
    reading = plain(reading).lstrip("\"'“ ").rstrip("\"'” ")
    found = _CHOSEN.match(reading)
    if found is None:
        return None
    rest = reading[found.end() :]
    if found[3] in ("A", "I") and re.match(r"\s+(?!(?:is|because|since|as|with|and|or)\b)[a-z]", rest):
        return None  # an article, a pronoun
    if _ANOTHER.match(rest) or re.search(r"\b(?:or|and)\s+[(\[]?[A-J](?![\w'’])", rest):
        return None
    return next(filter(None, found.groups())).upper()


def _named_last(sentence: str) -> str | None:
    """The only letter that a sentence without a mark names."""
    sentence = plain(sentence)
    if _HEDGED.search(sentence) or re.search(r"\b(?:wrong|incorrect|false|excluded)\b", sentence, re.IGNORECASE):
        return None
    named = re.findall(r"\(([A-Ja-j])\)|(?<![\w'’])([B-HJ]|[AI](?!\s+[a-z]))(?![\w'’])", sentence)
    letters = {(one or other).upper() for one, other in named}
    return letters.pop() if len(letters) == 1 else None


_POLAR = r"(yes|no|true|false)"
_GOES_ON = r"(?=\s*(?:$|[.,;:!)\n—–-]|(?:because|since|as|it|they|he|she|this|that|the|there|we|you|not)\b))"
_BEGINS = re.compile(
    rf"[\W_]*(?:(?:definitely|indeed|clearly|certainly|(?:it|that|this|the statement|the claim)(?: is|['’]s))\s+)*"
    rf"(not\s+)?{_POLAR}\b{_GOES_ON}",
    re.IGNORECASE,
)
_ENDS = re.compile(rf"(?:\b(not|never|neither)\s+(?:\w+\s+)?|(n['’]t)\s+(?:\w+\s+)?|\b){_POLAR}\W*$", re.IGNORECASE)
_BOTH = re.compile(rf"\b{_POLAR}\s*(?:/|,|\band\b|\bor\b|\bnor\b)\s*{_POLAR}\b", re.IGNORECASE)


def _polarity(reading: str, *, at_end: bool = False) -> bool | None:
    """Whether a reading says yes or true, or no or false; None where it says neither, or both."""
    reading = plain(reading)
    found = (_ENDS.search if at_end else _BEGINS.match)(reading)
    if found is None or _BOTH.search(reading):
        return None
    *nots, word = found.groups()
    said = word.lower() in TRUE
    if not any(nots):
        return said
    return not said if word.lower() in ("true", "false") else None  # "not true" is false, "not yes" nothing


def _squeezed(text: str) -> str:
    """A text without what makes no difference to people."""
    text = re.sub(r"\s+", " ", plain(text).replace("$", "").casefold()).strip(" .,;:!?\"'“”‘’`*_")
    return re.sub(r"^(?:the|an?) (?=\S)", "", text)


def _untexted(text: str) -> str:
    return re.sub(r"\\(?:text|mathrm|textbf|mbox)\s*\{", "{", text)


def _undelimited(reading: str) -> str:
    r"""A reading without `$…$` or `\(…\)` around it."""
    return re.sub(r"^\s*(?:\$+|\\[(\[])|(?:\$+|\\[)\]])?[.\s]*$", "", reading)


def _is_maths(reading: str) -> bool:
    """Whether a reading holds no prose, which symbolic mathematics would take for products of letters."""
    return re.search(r"[^\W\d_]{2,}", _FUNCTIONS.sub(" ", reading)) is None


def _is_figure(reading: str) -> bool:
    """Whether a reading is an expression whose value may be a number, and neither a bound nor one of several."""
    return bool(_OPERATION.search(reading)) and not _BOUND.search(reading) and _is_maths(reading)


def _verified(reference: str, text: str) -> bool:
    return grade_elsewhere("math", "the grader 'math'", f"\\boxed{{{reference}}}", text)


def _of_package(plugin: Plugin) -> Grader:
    """A package's grader, which names it where it goes wrong."""
    grader = plugin.load()
    if not callable(grader):
        raise ConfigurationError(f"{plugin}: {plugin.value} is {grader!r} and no function of a reference and a text")
    return partial(grade_elsewhere, plugin.value, f"the grader {plugin}")


GRADERS: Registry[Grader] = Registry(
    "grader",
    "rsd.graders",
    {"auto": auto, "number": number, "choice": choice, "yes_no": yes_no, "math": math, "text": words, "exact": exact},
    _of_package,
)
"""`grade(reference, text)` by name, those of installed packages included. They raise `GradingError` where they fail."""
