r"""The synthetic task of the embedded family: grade-school word problems about counted things.

A problem says how many things someone has and what happens to them, and asks for a number at the end. The reference
solution takes one step per event, so that every step can be judged from the text before it:

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
TIMES = "ends up with {k} times as many"
SHARE = "keeps only one part of {k}"
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
    """One thing that happens, and what it does to the quantity."""

    text: str
    """The event as the problem words it, without link word and full stop, e.g. `On Monday she buys 12 more`."""
    op: str = ""
    """One of `+ - * /`; empty when the event changes nothing."""
    n: int = 0
    pack: tuple[int, int] | None = None
    """`(k, m)` when n is the product of k packs of m, which the solution has to work out first."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A word problem with its plan; `solution()` and the checker both read the plan."""

    question: str
    start: int
    events: tuple[Event, ...]
    ask: Literal["now", "more", "coins"]
    """What is asked for: the quantity, how much more it is than at the start, or what it is worth in coins."""
    price: int = 0
    """Coins for each, if coins are asked for."""

    @property
    def key(self) -> str:
        """The numbers and operations without names, things and wording: the basis of the split."""
        plan = [(event.op, event.n, event.pack) for event in self.events if event.op]
        return f"{self.start}|{plan}|{self.ask}|{self.price}"

    @property
    def split(self) -> Split:
        """`dev` and `test` take one tenth of all keys each; training draws from the rest only."""
        digit = hashlib.sha256(self.key.encode()).digest()[0] % 10
        return "test" if digit == 0 else "dev" if digit == 1 else "train"

    def plan(self) -> list[Event]:
        """What the solution has to work out, in order: the events that change the quantity, and what is asked."""
        final = {
            "now": [],
            "more": [Event("the difference", "-", self.start)],
            "coins": [Event("the coins", "*", self.price)],
        }[self.ask]
        return [event for event in self.events if event.op] + final

    def solution(self) -> list[str]:
        """The reference steps, each ending with its blank line except the last."""
        steps, value = [], self.start
        for event in self.plan():
            steps.append(f"{work(event, value)}.\n\n")
            value = OPERATORS[event.op](value, event.n)
        return [*steps, f"{conclusion(value)}."]

    @property
    def answer(self) -> int:
        """The right answer."""
        value = self.start
        for event in self.plan():
            value = OPERATORS[event.op](value, event.n)
        return value


def heading(event: Event) -> str:
    """The beginning of an event's step."""
    return f"{event.text[0].upper()}{event.text[1:]}:"


def work(event: Event, value: int) -> str:
    """The step of an event, given the quantity before it, without its full stop."""
    first = f"{equation(event.pack[0], '*', event.pack[1])}, " if event.pack else ""
    return f"{heading(event)} {first}{equation(value, event.op, event.n)}"


def conclusion(value: int) -> str:
    """The last step, without its full stop."""
    return f"The answer is \\boxed{{{value}}}"


def equation(value: int, op: str, n: int) -> str:
    """`value op n = …` written digit by digit: `45+12=55+2=57`, `57*3=150+21=171`."""
    apply = OPERATORS[op]
    tens, ones = n - n % 10, n % 10
    if op in "+-" and tens and ones:
        middle = f"={apply(value, tens)}{op}{ones}"
    elif op == "*" and value >= 10 and value % 10:
        middle = f"={(value - value % 10) * n}+{value % 10 * n}"
    else:
        middle = ""
    return f"{value}{op}{n}{middle}={apply(value, n)}"


def generate(rng: random.Random, events: tuple[int, int] = (2, 7)) -> Problem:
    """Draw one problem of any split.

    Args:
        rng: Source of all randomness.
        events: Smallest and largest number of events that change the quantity.
    """
    while True:
        problem = _attempt(rng, rng.randint(*events))
        if problem is not None:
            return problem


def problems(split: Split, seed: int, events: tuple[int, int] = (2, 7)) -> Iterator[Problem]:
    """An endless stream of problems of one split, the same for the same seed; distinct outside of training."""
    rng, keys = random.Random(f"{split}:{seed}"), set[str]()
    while True:
        problem = generate(rng, events)
        if problem.split == split and problem.key not in keys:
            if split != "train":  # training streams are too long to remember
                keys.add(problem.key)
            yield problem


def _attempt(rng: random.Random, count: int) -> Problem | None:
    """One try at a problem with this many changes; None when a quantity left its range."""
    name, thing = rng.choice(sorted(PEOPLE)), rng.choice(THINGS)
    start = value = rng.randint(5, 80)
    idle = rng.randint(0, 2) if rng.random() < 0.5 else 0
    kinds = ["change"] * count + ["idle"] * idle
    rng.shuffle(kinds)
    dated = len(kinds) <= len(DAYS) and rng.random() < 0.4
    days = sorted(rng.sample(range(len(DAYS)), len(kinds))) if dated else []
    sentences, events = [f"{name} has {start} {thing}."], []
    for i, kind in enumerate(kinds):
        lead = f"On {DAYS[days[i]]} " if dated else ""
        who = PEOPLE[name]
        if kind == "idle":
            event = Event(lead + rng.choice(IDLE).format(p=who, n=rng.randint(2, 60)))
        else:
            drawn = _change(rng, f"{lead}{who}", value)
            if drawn is None:
                return None
            event, value = drawn, OPERATORS[drawn.op](value, drawn.n)
        events.append(event)
        sentences.append(f"{event.text}." if dated else f"{rng.choice(LINKS)} {event.text}.")
    ask: Literal["now", "more", "coins"] = rng.choices(("now", "more", "coins"), (6, 2, 2))[0]
    if (ask == "more" and value <= start) or (ask == "coins" and (value > 99 or thing == "coins")):
        ask = "now"
    price = rng.randint(2, 5) if ask == "coins" else 0
    question = {
        "now": f"How many {thing} does {name} have now?",
        "more": f"How many more {thing} does {name} have now than at the start?",
        "coins": f"{name} sells them all for {price} coins each. How many coins does {name} get?",
    }[ask]
    return Problem(" ".join([*sentences, question]), start, tuple(events), ask, price)


def _change(rng: random.Random, who: str, value: int) -> Event | None:
    """An event that changes the quantity; None when the one drawn does not fit."""
    n = rng.randint(2, 9) if rng.random() < 0.3 else rng.randint(10, 60)
    kind = rng.choices(("add", "sub", "pack", "times", "share"), (5, 5, 2.5, 1.2, 1.2))[0]
    if kind == "add":
        event = Event(f"{who} {rng.choice(ADD).format(n=n)}", "+", n)
    elif kind == "sub":
        event = Event(f"{who} {rng.choice(SUB).format(n=n)}", "-", n)
    elif kind == "pack":
        k, m = rng.randint(2, 6), rng.randint(2, 15)
        event = Event(f"{who} {rng.choice(PACKS).format(k=k, m=m)}", "+", k * m, (k, m))
    elif kind == "times":
        k = rng.randint(2, 4)
        event = Event(f"{who} {TIMES.format(k=k)}", "*", k)
    else:
        k = rng.randint(2, 5)
        event = Event(f"{who} {SHARE.format(k=k)}", "/", k)
    unfit = (event.op == "*" and value > 60) or (event.op == "/" and (value % event.n or value > 100))
    return event if not unfit and 1 < OPERATORS[event.op](value, event.n) <= MAX_QUANTITY else None
