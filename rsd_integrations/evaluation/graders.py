"""Graders: whether a text answers a problem correctly. Other packages add theirs in the group `rsd.graders`."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

from rsd_core import ConfigurationError, MissingDependency
from rsd_core.plugins import Plugin, Registry
from rsd_integrations.evaluation.answer_words import (
    FALSE,
    HEDGED,
    TRUE,
    chosen,
    last_number,
    letter,
    named_last,
    polarity,
)
from rsd_integrations.evaluation.grading_process import grade_elsewhere
from rsd_integrations.evaluation.plain_text import plain, squeezed
from rsd_integrations.evaluation.quantities import quantity
from rsd_integrations.final_answers import SEARCHED, boxed, last_sentence, stated

Grader = Callable[[str, str], bool]
"""From the reference and a model's whole text to whether the text is correct."""
BEGINNING = 200
"""Characters at the beginning of a text in which to look for a letter or a yes if nothing marks the answer."""
_MATHS = re.compile(r"\\(?!text|mathrm|textbf|mbox)[a-zA-Z]+|[\^_=<>+*/|\-(){}\[\]!√π∞≤≥±∪∩∈]|\d")
_OPERATION = re.compile(r"[\^+*/(|!√π=-]|\\[a-zA-Z]+")
_BOUND = re.compile(r"[<>≤≥≠±]|\\(?:leq?|geq?|lt|gt|neq?|pm|mp|text|mathrm|textbf|mbox)(?![a-zA-Z])")
_RELATION = re.compile(r"\s*(?:[<>≤≥≠]|\\(?:leq?|geq?|lt|gt|neq?)(?![a-zA-Z]))")
_FUNCTIONS = re.compile(
    r"\\[a-zA-Z]+(?:\{(?:[a-z]*matrix|array|cases)\})?|\b(?:sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|pi|mod)\b"
)
_DATE = re.compile(r"\s*(?:\d{4}([-/.])\d{1,2}\1\d{1,2}|\d{1,2}([-/.])\d{1,2}\2\d{4})\s*")
_SYMBOLS = {"∞": r"\infty ", "∅": r"\emptyset ", r"\varnothing": r"\emptyset"}
_COPULA = re.compile(r"(?:\b(?:is|are|was|were)\b|[:=])\s*", re.IGNORECASE)


def auto(reference: str, text: str) -> bool:
    """Whether the text is correct by the grader that fits the reference, see `kind_of`."""
    return GRADERS[kind_of(reference)](reference, text)


def kind_of(reference: str) -> str:
    """The name of the grader that fits a correct answer, by its content.

    `yes_no` for yes, no, true and false; `choice` for one letter from A to J, possibly in brackets; `number` for a
    number, possibly with a unit; `math` for other mathematics; `text` for everything else, also for dates.
    """
    if _DATE.fullmatch(reference):  # not a difference or a quotient
        return "text"
    if squeezed(reference) in (*TRUE, *FALSE):
        return "yes_no"
    if letter(reference) is not None and reference.strip() not in ("e", "i"):  # which are numbers
        return "choice"
    if quantity(reference) is not None:
        return "number"
    words = re.search(r"[^\W\d_]{2,}", _FUNCTIONS.sub(" ", _untexted(reference)))
    return "math" if words is None and (_MATHS.search(reference) or len(reference.strip()) == 1) else "text"


def exact(reference: str, text: str) -> bool:
    r"""Whether the content of `\boxed{…}`, or the whole text if there is none, is exactly the reference."""
    answer = boxed(text)
    return (text if answer is None else answer).strip() == reference.strip()


def number(reference: str, text: str) -> bool:
    """Whether the text's number is the reference's, without a unit or with the same one, see `Quantity.equals`.

    If the text marks no answer, it is the last number of the last sentence. An answer that is an expression is
    evaluated by math-verify.
    """
    gold = quantity(reference)
    if gold is None:
        return math(reference, text)
    readings = stated(text)
    for reading in readings or [text.strip()]:
        if (own := quantity(reading)) is not None:
            return gold.equals(own)
    if boxed(text) is None and (own := last_number(last_sentence(text))) is not None:
        return gold.equals(own)
    figure = f"{gold.value}\\%" if gold.is_percentage else str(gold.value)
    return any(_verified(figure, f"\\boxed{{{reading}}}") for reading in readings if _is_figure(reading))


def choice(reference: str, text: str) -> bool:
    r"""Whether the letter that the text chooses, and no other, is the reference: `\boxed{b}`, "(b)", "answer: B"."""
    gold = letter(reference)
    if gold is None:
        return words(reference, text)
    readings = stated(text)
    own = next((found for one in readings if (found := chosen(one)) is not None), None)
    if own is None and boxed(text) is None:
        own = named_last(last_sentence(text))
    if own is None and not readings and "\n" not in text.strip():
        own = chosen(text[:BEGINNING])
    return own == gold


def yes_no(reference: str, text: str) -> bool:
    """Whether the text says yes (true) or no (false), as the reference does."""
    said = polarity(reference)
    readings = stated(text)
    found = next((own for one in readings if (own := polarity(one)) is not None), None)
    if not readings:
        found = polarity(last_sentence(text), at_end=True)
        found = polarity(text[:BEGINNING]) if found is None else found
    return said is not None and found == said


def math(reference: str, text: str) -> bool:
    """Whether the answers are mathematically equal, by math-verify, in another process with a time limit."""
    readings = [_undelimited(reading) for reading in stated(text)]
    if any(_spaceless(reading) == _spaceless(reference) for reading in readings or [text]):
        return True
    if any(bool(_RELATION.match(reading)) != bool(_RELATION.match(reference)) for reading in readings[:1]):
        return False  # "> 5" is not 5
    marked = [f"\\boxed{{{reading}}}" for reading in readings if boxed(text) is not None or _is_maths(reading)]
    return any(_verified(reference, answer) for answer in marked or [text[-SEARCHED:]])


def words(reference: str, text: str) -> bool:
    r"""Whether the text's answer is the reference, except for case, articles, punctuation and `\text{…}` around it."""
    gold = squeezed(reference)
    readings = stated(text)
    if not readings:
        sentence = last_sentence(text)
        readings = [text, *([] if HEDGED.search(sentence) else [_COPULA.split(sentence)[-1]])]
    return any(squeezed(reading) == gold for reading in readings)


def _untexted(text: str) -> str:
    return re.sub(r"\\(?:text|mathrm|textbf|mbox)\s*\{", "{", text)


def _undelimited(reading: str) -> str:
    r"""A reading without `$…$` or `\(…\)` around it."""
    return re.sub(r"^\s*(?:\$+|\\[(\[])|(?:\$+|\\[)\]])?[.\s]*$", "", reading)


def _spaceless(maths: str) -> str:
    return "".join(plain(maths).split()).rstrip(".")


def _is_maths(reading: str) -> bool:
    """Whether a reading contains no prose, which symbolic mathematics would read as products of letters."""
    return re.search(r"[^\W\d_]{2,}", _FUNCTIONS.sub(" ", reading)) is None


def _is_figure(reading: str) -> bool:
    """Whether a reading is an expression whose value may be a number, and neither a bound nor one of several."""
    return bool(_OPERATION.search(reading)) and not _BOUND.search(reading) and _is_maths(reading)


def _verified(reference: str, text: str) -> bool:
    return grade_elsewhere("math", "the grader 'math'", f"\\boxed{{{_in_latex(reference)}}}", _in_latex(text))


def _in_latex(text: str) -> str:
    """A text whose roots, infinities and empty sets are written as math-verify reads them."""
    text = re.sub(
        r"√\s*(?:\(([^()]*)\)|\{([^{}]*)\}|(\w+))", lambda found: rf"\sqrt{{{found[found.lastindex or 0]}}}", text
    )
    return re.sub("|".join(map(re.escape, _SYMBOLS)), lambda found: _SYMBOLS[found[0]], text)


def require_math_verify(grader: str) -> None:
    """Check that a grader based on math-verify is available, before anything is computed.

    Raises:
        MissingDependency: math-verify is not installed.
    """
    if find_spec("math_verify") is None:
        raise MissingDependency("math-verify", "eval", f"the grader {grader!r}")


def _of_package(plugin: Plugin) -> Grader:
    """A package's grader, named in its errors."""
    grader = plugin.load()
    if not callable(grader):
        raise ConfigurationError(f"{plugin}: {plugin.value} is {grader!r}, not a function of a reference and a text")
    return partial(grade_elsewhere, plugin.value, f"the grader {plugin}")


GRADERS: Registry[Grader] = Registry(
    "grader",
    "rsd.graders",
    {"auto": auto, "number": number, "choice": choice, "yes_no": yes_no, "math": math, "text": words, "exact": exact},
    _of_package,
)
"""`grade(reference, text)` by name, including those of installed packages. They raise `GradingError` if they fail."""
