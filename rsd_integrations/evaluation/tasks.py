"""Tasks: problems with a grader."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from rsd_core import ConfigurationError
from rsd_integrations.embedded import task as embedded
from rsd_integrations.embedded.checker import is_right


@dataclass(frozen=True, slots=True)
class Item:
    """One problem."""

    prompt: str
    reference: str
    """The right answer, for people."""
    grade: Callable[[str], bool]
    """Whether a text answers the problem rightly."""


@dataclass(frozen=True, slots=True)
class Task:
    """A named source of problems."""

    name: str
    summary: str
    draw: Callable[[int, int], list[Item]]
    """`draw(n, seed)`: that many distinct problems, the same for the same seed."""


def _embedded(split: embedded.Split) -> Callable[[int, int], list[Item]]:
    def draw(n: int, seed: int) -> list[Item]:
        return [
            Item(problem.question, str(problem.answer), partial(is_right, problem))
            for problem in itertools.islice(embedded.problems(split, seed), n)
        ]

    return draw


TASKS = {
    task.name: task
    for task in (
        Task("embedded", "the embedded family's word problems, held-out split", _embedded("test")),
        Task("embedded-dev", "the same, development split, on which thresholds are chosen", _embedded("dev")),
    )
}


def find_task(name: str) -> Task:
    """A task by name.

    Raises:
        ConfigurationError: Unknown name.
    """
    if name not in TASKS:
        raise ConfigurationError(f"unknown task {name!r}; known are {', '.join(TASKS)}")
    return TASKS[name]
