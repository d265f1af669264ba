"""The exact judge of the embedded task: which steps of a solution are right, and whether its answer is.

A step is right when it is the next step of the plan, starts from the quantities *as they stand in the text before
it*, and every number it writes is correct. A slip is therefore charged once, to the step that made it; the steps
after it are judged on the numbers it wrote.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rsd_core import boxed
from rsd_integrations.embedded.task import Problem, apply, equation

EQUATION = re.compile(r"(\d+)([+*/-])(\d+)((?:=\d+[+*/-]\d+)*)=(\d+)")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of one step."""

    right: bool
    reference: str
    """What the step should say, given the quantities as written before it."""


@dataclass(frozen=True, slots=True)
class _Planned:
    """A step of the plan: its heading, and what it works out."""

    heading: str
    ops: tuple[tuple[int, str, int], ...] = ()
    pack: tuple[int, int] | None = None
    kind: Literal["head", "event", "total", "answer"] = "event"


def is_right(problem: Problem, text: str) -> bool:
    """Whether the text's final answer is the problem's."""
    return boxed(text) == str(problem.answer)


def judge(problem: Problem, steps: Sequence[str]) -> list[Verdict]:
    """Judge the steps of a solution in order, up to and including the first one that leaves the plan.

    Args:
        problem: The problem with its plan.
        steps: Steps as written, with or without their closing blank lines.

    Returns:
        One verdict per judged step. Shorter than `steps` when a step leaves the plan: nothing sensible can be
        said about what follows it.
    """
    have, total = list(problem.start), 0
    verdicts: list[Verdict] = []
    plan = _plan(problem)
    for step, planned in zip(steps, plan, strict=False):
        text = step.strip()
        body, after = _reference(problem, planned, have, total)
        reference = f"{planned.heading} {body}."
        right = text == reference or _equivalent(text, reference)
        verdicts.append(Verdict(right, reference))
        if right:
            written: tuple[list[int], int] | None = after
        else:
            written = _read(problem, planned, text, have)
        if written is None:
            return verdicts
        have, total = written
    if len(steps) > len(plan):
        verdicts.append(Verdict(False, ""))  # went on after the answer
    return verdicts


def _plan(problem: Problem) -> list[_Planned]:
    plan = []
    if problem.head is not None:
        text, (op, n) = problem.head
        plan.append(_Planned(f"{text}:", ((0, op, n),), kind="head"))
    plan += [
        _Planned(f"{event.text[0].upper()}{event.text[1:]}:", event.ops, event.pack)
        for event in problem.events
        if event.ops
    ]
    if problem.ask == "together":
        plan.append(_Planned("Together:", ((0, "+", 0),), kind="total"))
    elif problem.ask == "difference":
        plan.append(_Planned("The difference:", ((0, "-", 0),), kind="total"))
    return [*plan, _Planned("The answer is", kind="answer")]


def _reference(problem: Problem, planned: _Planned, have: list[int], total: int) -> tuple[str, tuple[list[int], int]]:
    """What follows the heading, given the quantities as written, and the quantities after it."""
    have = list(have)
    if planned.kind == "answer":
        asked = total if problem.ask in ("together", "difference") else problem.result(have)
        return f"\\boxed{{{asked}}}", (have, total)
    if planned.kind == "total":
        op = planned.ops[0][1]
        return equation(have[0], op, have[1]), (have, apply(have[0], op, have[1]))
    parts = [equation(planned.pack[0], "*", planned.pack[1])] if planned.pack else []
    for person, op, n in planned.ops:
        work = equation(have[0], op, n) if planned.kind == "head" else problem.work(person, have[person], op, n)
        parts.append(work)
        have[1 if planned.kind == "head" else person] = apply(have[person], op, n)
    return ", ".join(parts) + problem.state(have), (have, total)


def _equivalent(text: str, reference: str) -> bool:
    """Whether a step differs from the reference only by how its equations get to their results."""
    links = [match[0].split("=") for match in EQUATION.finditer(text)]
    sound = all(len({_value(link) for link in chain} | {_value(chain[-1])}) == 1 for chain in links)
    return sound and EQUATION.sub(_ends, text) == EQUATION.sub(_ends, reference)


def _ends(match: re.Match[str]) -> str:
    return f"{match[1]}{match[2]}{match[3]}={match[5]}"


def _value(term: str) -> float:
    """The value of `a` or `a op b`; not a number for a division by zero."""
    found = re.fullmatch(r"(\d+)(?:([+*/-])(\d+))?", term)
    if found is None or (found[2] == "/" and (int(found[3]) == 0 or int(found[1]) % int(found[3]))):
        return float("nan")
    return int(found[1]) if found[2] is None else apply(int(found[1]), found[2], int(found[3]))


def _read(problem: Problem, planned: _Planned, text: str, have: list[int]) -> tuple[list[int], int] | None:
    """The quantities that a wrong step leaves; None when it left the plan."""
    if not text.startswith(planned.heading):
        return None
    if planned.kind == "answer":
        return list(have), 0
    results = [int(match[5]) for match in EQUATION.finditer(text)]
    if planned.kind == "total":
        return (list(have), results[-1]) if results else None
    if len(problem.names) == 1:
        return ([results[-1]], 0) if results else None
    said = re.search(rf", so {problem.names[0]} has (\d+) and {problem.names[1]} has (\d+)\.$", text)
    return ([int(said[1]), int(said[2])], 0) if said else None
