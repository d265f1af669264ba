r"""The synthetic task of the embedded family: grade-school word problems about counted things.

A problem tells how many things one or two people have, what happens to them, and asks for a quantity at the
end. The reference solution takes one step per event and restates the running quantities, so that every step can
be judged from the text before it:

    Mia has 45 apples. On Monday she buys 12 more. On Tuesday it rains. On Friday she sells 9.
    How many apples does Mia have now?

    On Monday she buys 12 more: 45+12=55+2=57.

    On Friday she sells 9: 57-9=48.

    The answer is \boxed{48}.

Arithmetic is written digit by digit, which is how very small models learn it. `rsd_integrations.embedded.checker`
judges steps and answers exactly.
"""

from __future__ import annotations

import hashlib
import operator
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "dev", "test"]

PEOPLE = {
    "Mia": "she", "Ana": "she", "Eva": "she", "Zoe": "she", "Ida": "she", "Amy": "she", "Lea": "she", "Ina": "she",
    "Tom": "he", "Leo": "he", "Ben": "he", "Sam": "he", "Max": "he", "Jim": "he", "Dan": "he", "Kai": "he",
}  # fmt: skip
THINGS = (
    "apples", "books", "coins", "cards", "pens", "stamps", "eggs", "toys", "nuts", "beads", "balls", "plums",
    "shells", "stones", "cups", "kites",
)  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
LINKS = ("Then", "Next", "Later", "After that")
ADD = ("buys {n} more", "finds {n}", "wins {n}", "picks up {n}", "gets {n} as a gift")
SUB = ("gives away {n}", "sells {n}", "loses {n}", "uses up {n}", "breaks {n}")
PACKS = ("buys {k} bags of {m}", "gets {k} boxes of {m}")
TIMES = ("ends up with {k} times as many",)
SHARE = ("keeps only one part of {k}",)
IDLE = ("it rains", "the sun shines", "{p} reads {n} pages", "{p} walks {n} miles", "{p} calls a friend")
OPERATORS: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.floordiv,
}
MAX_QUANTITY = 300
"""No running quantity of a problem exceeds this number."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happens, and what it does to the quantities."""

    text: str
    """The event as the problem words it, without link word and full stop, e.g. `On Monday she buys 12 more`."""
    ops: tuple[tuple[int, str, int], ...] = ()
    """Updates `(person, operator, operand)` in order; the operator is one of `+ - * /`. Empty when idle."""
    pack: tuple[int, int] | None = None
    """`(k, m)` when the operand is the product of k packs of m, which the solution has to work out first."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A word problem with its plan; `solution()` and the checker both read the plan."""

    question: str
    names: tuple[str, ...]
    start: tuple[int, ...]
    """What each person has at the start."""
    head: tuple[str, tuple[str, int]] | None
    """First step of a two-person problem that gives the second quantity by a relation: `(text, (operator, n))`."""
    events: tuple[Event, ...]
    ask: Literal["first", "second", "together", "difference"]

    @property
    def key(self) -> str:
        """The numbers and operations without names, things and wording: what the split is decided on."""
        plan = [(e.ops, e.pack) for e in self.events if e.ops]
        return f"{self.start}|{self.head and self.head[1]}|{plan}|{self.ask}"

    @property
    def split(self) -> Split:
        """`dev` and `test` take one tenth of all keys each; training draws from the rest only."""
        digit = hashlib.sha256(self.key.encode()).digest()[0] % 10
        return "test" if digit == 0 else "dev" if digit == 1 else "train"

    def solution(self) -> list[str]:
        """The reference steps, each ending with its blank line except the last."""
        steps, have = [], list(self.start)
        if self.head is not None:
            text, (op, n) = self.head
            chain = equation(have[0], op, n)
            have[1] = apply(have[0], op, n)
            steps.append(f"{text}: {chain}{self.state(have)}")
        for event in self.events:
            if event.ops:
                parts = [equation(event.pack[0], "*", event.pack[1])] if event.pack else []
                for person, op, n in event.ops:
                    parts.append(self.work(person, have[person], op, n))
                    have[person] = apply(have[person], op, n)
                steps.append(f"{event.text[0].upper()}{event.text[1:]}: {', '.join(parts)}{self.state(have)}")
        if self.ask == "together":
            steps.append(f"Together: {equation(have[0], '+', have[1])}")
        elif self.ask == "difference":
            steps.append(f"The difference: {equation(have[0], '-', have[1])}")
        return [f"{step}.\n\n" for step in steps] + [f"The answer is \\boxed{{{self.result(have)}}}."]

    def work(self, person: int, value: int, op: str, n: int) -> str:
        """The equation of one update; with two people it first says who has what."""
        owner = f"{self.names[person]} has {value}, " if len(self.names) == 2 else ""
        return owner + equation(value, op, n)

    def state(self, have: list[int]) -> str:
        """The closing words of a step that restate both quantities; empty for one person."""
        if len(self.names) == 1:
            return ""
        return f", so {self.names[0]} has {have[0]} and {self.names[1]} has {have[1]}"

    def result(self, have: list[int]) -> int:
        """What is asked for, given the quantities at the end."""
        return {
            "first": have[0],
            "second": have[-1],
            "together": sum(have),
            "difference": have[0] - have[-1],
        }[self.ask]

    @property
    def answer(self) -> int:
        """The right answer."""
        have = list(self.start)
        if self.head is not None:
            have[1] = apply(have[0], *self.head[1])
        for event in self.events:
            for person, op, n in event.ops:
                have[person] = apply(have[person], op, n)
        return self.result(have)


def apply(value: int, op: str, n: int) -> int:
    """`value op n` for an operator of the task; divisions are exact by construction."""
    return OPERATORS[op](value, n)


def equation(value: int, op: str, n: int) -> str:
    """`value op n = …` written digit by digit: `45+12=55+2=57`, `57*3=150+21=171`."""
    result = apply(value, op, n)
    tens, ones = n - n % 10, n % 10
    if op in "+-" and tens and ones:
        middle = f"={apply(value, op, tens)}{op}{ones}"
    elif op == "*" and value >= 10 and value % 10:
        middle = f"={(value - value % 10) * n}+{value % 10 * n}"
    else:
        middle = ""
    return f"{value}{op}{n}{middle}={result}"


def generate(rng: random.Random, *, events: tuple[int, int] = (2, 6), pairs: float = 0.35) -> Problem:
    """Draw one problem of any split.

    Args:
        rng: Source of all randomness.
        events: Smallest and largest number of events that change a quantity.
        pairs: Share of problems about two people.
    """
    while True:
        problem = _attempt(rng, events, pairs)
        if problem is not None:
            return problem


def problems(split: Split, seed: int, **options: object) -> Iterator[Problem]:
    """An endless stream of distinct problems of one split, the same for the same seed."""
    rng, seen = random.Random(f"{split}:{seed}"), set[str]()
    while True:
        problem = generate(rng, **options)  # type: ignore[arg-type]
        if problem.split == split and problem.key not in seen:
            if split != "train":  # training streams are too long to remember
                seen.add(problem.key)
            yield problem


def _attempt(rng: random.Random, bounds: tuple[int, int], pairs: float) -> Problem | None:
    """One try at a problem; None when a quantity left its range."""
    two = rng.random() < pairs
    names = tuple(rng.sample(sorted(PEOPLE), 2 if two else 1))
    thing, dated = rng.choice(THINGS), rng.random() < 0.5
    count = rng.randint(*bounds)
    days = iter(sorted(rng.sample(range(7), min(7, count + 1))))
    have = [rng.randint(5, 80) for _ in names]
    start, head, opening = tuple(have), None, f"{names[0]} has {have[0]} {thing}."
    if two and rng.random() < 0.5:
        op, n = rng.choice((("+", rng.randint(2, 50)), ("-", rng.randint(2, 50)), ("*", rng.randint(2, 3))))
        have[1] = apply(have[0], op, n)
        words = {"+": f"{n} more than", "-": f"{n} fewer than", "*": f"{n} times as many as"}[op]
        opening += f" {names[1]} has {words} {names[0]}."
        head, start = (f"{names[1]} starts with {words} {names[0]}", (op, n)), (have[0], 0)
    elif two:
        opening = f"{names[0]} has {have[0]} {thing} and {names[1]} has {have[1]}."
    if min(have) < 2:
        return None
    sentences, events, left, idle = [opening], [], count, False
    while left:
        lead = f"On {DAYS[day]} " if dated and (day := next(days, None)) is not None else ""
        link = "" if lead else f"{rng.choice(LINKS)} "
        if not idle and rng.random() < 0.12:
            idle, person = True, rng.choice(names)
            who = person if two or not lead else PEOPLE[person]
            event = Event(lead + rng.choice(IDLE).format(p=who, n=rng.randint(2, 60)))
        else:
            drawn = _change(rng, names, have, lead)
            if drawn is None:
                return None
            event, left = drawn, left - 1
        events.append(event)
        sentences.append(f"{link}{event.text}.")
    asks: tuple[Literal["first", "second", "together", "difference"], ...] = ("first",)
    if two:
        asks = ("first", "second", "together", *(("difference",) if have[0] > have[1] else ()))
    ask = rng.choice(asks)
    question = {
        "first": f"How many {thing} does {names[0]} have now?",
        "second": f"How many {thing} does {names[-1]} have now?",
        "together": f"How many {thing} do they have together?",
        "difference": f"How many more {thing} does {names[0]} have than {names[-1]}?",
    }[ask]
    return Problem(" ".join([*sentences, question]), names, start, head, tuple(events), ask)


def _change(rng: random.Random, names: tuple[str, ...], have: list[int], lead: str) -> Event | None:
    """An event that changes the quantities; updates `have`. None when none fits."""
    two = len(names) == 2
    i = rng.randrange(len(names))
    who = names[i] if two else PEOPLE[names[0]]
    n = rng.randint(2, 9) if rng.random() < 0.3 else rng.randint(10, 60)
    kind = rng.choices(("add", "sub", "pack", "times", "share", "give"), (5, 5, 2.5, 1.2, 1.2, 3 if two else 0))[0]
    pack = None
    ops: tuple[tuple[int, str, int], ...]
    if kind == "add":
        text, ops = rng.choice(ADD).format(n=n), ((i, "+", n),)
    elif kind == "sub":
        text, ops = rng.choice(SUB).format(n=n), ((i, "-", n),)
    elif kind == "pack":
        pack = (rng.randint(2, 6), rng.randint(2, 15))
        text, ops = rng.choice(PACKS).format(k=pack[0], m=pack[1]), ((i, "+", pack[0] * pack[1]),)
    elif kind == "times":
        k = rng.randint(2, 4)
        text, ops = rng.choice(TIMES).format(k=k), ((i, "*", k),)
    elif kind == "share":
        k = rng.randint(2, 5)
        text, ops = rng.choice(SHARE).format(k=k), ((i, "/", k),)
        if have[i] % k or have[i] > 100:
            return None
    else:
        text, ops = f"gives {n} to {names[1 - i]}", ((i, "-", n), (1 - i, "+", n))
    for person, op, m in ops:
        have[person] = apply(have[person], op, m)
        if (op == "*" and have[person] > 60 * m) or not 1 < have[person] <= MAX_QUANTITY:
            return None
    return Event(f"{lead}{who} {text}", ops, pack)
