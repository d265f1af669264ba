"""The exact judge of the embedded task: which steps of a solution are right, and whether its final answer is.

A step is right when it is the next step of the plan, starts from the quantity *as it stands in the text before it*,
and every number it writes is correct. A slip is therefore charged once, to the step that made it; the steps after it
are judged on the numbers it wrote.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rsd_core import boxed
from rsd_integrations.embedded.task import OPERATORS, Problem, conclusion, heading, work

THOUGHT = re.compile(r"<think>.*?(?:</think>|$)", re.DOTALL)
BREAK = re.compile(r"\n*</?think>\n*|\n\n")
EQUATION = re.compile(r"(\d+)([+*/-])(\d+)((?:=\d+[+*/-]\d+)*)=(\d+)")
TERM = re.compile(r"(\d+)(?:([+*/-])(\d+))?")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of one step."""

    right: bool
    reference: str
    """What the step should say, given the quantity as written before it."""


def is_right(problem: Problem, text: str) -> bool:
    """Whether the final answer of a text is the problem's; a thought is not an answer."""
    return boxed(THOUGHT.sub("", text)) == str(problem.answer)


def steps_of(text: str) -> list[str]:
    """The steps of a response, those of its thought first, without blank lines and markers."""
    return [step for step in BREAK.split(text) if step.strip()]


def judge(problem: Problem, steps: Sequence[str]) -> list[Verdict]:
    """Judge the steps of a solution in order, up to the answer or the first one that leaves the plan, included.

    Args:
        problem: The problem with its plan.
        steps: Steps as written, with or without their closing blank lines.

    Returns:
        One verdict per judged step. Shorter than `steps` when a step leaves the plan, since what follows cannot be
        judged, and when the text continues after its answer.
    """
    value, verdicts = problem.start, list[Verdict]()
    plan = problem.plan()
    for i, step in enumerate(steps):
        text = step.strip()
        if i == len(plan):
            reference = f"{conclusion(value)}."
            return [*verdicts, Verdict(text == reference, reference)]
        reference = f"{work(plan[i], value)}."
        verdicts.append(Verdict(text == reference or _equivalent(text, reference), reference))
        written = [int(match[5]) for match in EQUATION.finditer(text)]
        if not text.startswith(heading(plan[i])) or not written:
            return verdicts
        value = written[-1]
    return verdicts


def _equivalent(text: str, reference: str) -> bool:
    """Whether a step differs from the reference only by how its equations get to their results."""
    chains = [match[0].split("=") for match in EQUATION.finditer(text)]
    sound = all(len({_value(link) for link in chain}) == 1 for chain in chains)
    return sound and EQUATION.sub(_ends, text) == EQUATION.sub(_ends, reference)


def _ends(match: re.Match[str]) -> str:
    return f"{match[1]}{match[2]}{match[3]}={match[5]}"


def _value(term: str) -> float:
    """The value of `a` or `a op b`; NaN, which equals nothing, for a division with a remainder."""
    match = TERM.fullmatch(term)
    assert match is not None, term
    a, op, b = int(match[1]), match[2], int(match[3] or 0)
    if op is None:
        return a
    return float("nan") if op == "/" and (b == 0 or a % b) else OPERATORS[op](a, b)
