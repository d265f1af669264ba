"""Graders: whether a text answers a problem rightly."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Literal

from rsd_core import MissingDependency, boxed

GraderName = Literal["math", "choice", "exact"]
LETTERS = "ABCDEFGHIJ"


def exact(reference: str, text: str) -> bool:
    r"""Whether the content of `\boxed{…}`, or the whole text where there is none, is the reference."""
    found = boxed(text)
    return (text if found is None else found).strip() == reference.strip()


def choice(reference: str, text: str) -> bool:
    r"""Whether the letter chosen is the reference: in `\boxed{…}`, else after the last "answer is"."""
    found = boxed(text)
    if found is None:
        found = (re.findall(r"answer is:?\s*(.{1,12})", text, re.IGNORECASE) or [""])[-1]
    letter = re.search(rf"(?<![A-Za-z])[{LETTERS}](?![A-Za-z])", re.sub(r"\\(text|mathrm|textbf)", " ", found))
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
    found = boxed(text)
    answer = parse(text if found is None else f"\\boxed{{{found}}}", parsing_timeout=seconds)
    return bool(verify(gold, answer, timeout_seconds=seconds))


GRADERS: dict[GraderName, Callable[[str, str], bool]] = {"math": math, "choice": choice, "exact": exact}
"""`grade(reference, text)` by name."""
