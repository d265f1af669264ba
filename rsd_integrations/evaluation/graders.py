"""Graders: whether a text answers a problem rightly. Other packages add theirs in the group `rsd.graders`."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

from rsd_core import ConfigurationError, MissingDependency, RSDError, RunError, boxed
from rsd_core.plugins import Plugin, Registry

Grader = Callable[[str, str], bool]
"""From the reference and a model's whole text to whether the text is right."""
LETTERS = "ABCDEFGHIJ"


def exact(reference: str, text: str) -> bool:
    r"""Whether the content of `\boxed{…}`, or the whole text where there is none, is the reference."""
    answer = boxed(text)
    return (text if answer is None else answer).strip() == reference.strip()


def choice(reference: str, text: str) -> bool:
    r"""Whether the letter chosen is the reference: in `\boxed{…}`, else after the last "answer is"."""
    answer = boxed(text)
    if answer is None:
        answer = (re.findall(r"answer is:?\s*(?=(.{1,12}))", text, re.IGNORECASE) or [""])[-1]
    letter = re.search(rf"(?<![A-Za-z])[{LETTERS}](?![A-Za-z])", re.sub(r"\\(text|mathrm|textbf)", " ", answer))
    return letter is not None and letter[0] == reference.strip()


def math(reference: str, text: str) -> bool:
    """Whether the answers are mathematically equal, by math-verify."""
    try:
        from math_verify import parse, verify
    except ModuleNotFoundError as error:
        raise MissingDependency("math-verify", "eval", "the grader 'math'") from error
    # Its time-outs are signals, which only the main thread can receive.
    seconds = 5 if threading.current_thread() is threading.main_thread() else None
    gold = parse(f"\\boxed{{{reference}}}", parsing_timeout=seconds)
    own = boxed(text)
    answer = parse(text if own is None else f"\\boxed{{{own}}}", parsing_timeout=seconds)
    return bool(verify(gold, answer, timeout_seconds=seconds))


def _of_package(plugin: Plugin) -> Grader:
    """A package's grader, which names it where it goes wrong."""
    grader = plugin.load()
    if not callable(grader):
        raise ConfigurationError(f"{plugin}: {plugin.value} is {grader!r} and no function of a reference and a text")

    def grade(reference: str, text: str) -> bool:
        try:
            right = grader(reference, text)
        except RSDError:
            raise
        except Exception as error:
            raise RunError(f"the grader {plugin} failed on {text[-80:]!r}: {type(error).__name__}: {error}") from error
        if type(right).__name__ not in ("bool", "bool_"):  # NumPy has one of its own
            raise RunError(f"the grader {plugin} answered {right!r}, which is neither True nor False")
        return bool(right)

    return grade


GRADERS: Registry[Grader] = Registry(
    "grader", "rsd.graders", {"math": math, "choice": choice, "exact": exact}, _of_package
)
"""`grade(reference, text)` by name, those of installed packages included."""
