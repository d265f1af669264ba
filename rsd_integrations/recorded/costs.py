"""The cost of a recorded call, which depends on how much of the same path its model had read before.

An in-process model computes each token once, so the first call about a path costs more than the next. A call is
therefore recorded with a cost for each *depth read*: the number of steps of the path in the model's earlier calls, -1
for none. A replay looks up the cost for its own depth. If that was never recorded, because another policy calls the
model less or more often, the difference is estimated, and the ledger says so (`Usage.estimated`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

from rsd_core import Model, Path, Price, Step, Usage

COUNTS = (
    *("prefix", "computed", "reused", "generated", "scored", "seconds", "estimated"),
    *("discarded", "overridden"),
)
Cost = list[Any]
"""The counts of a usage; trailing zeros may be missing. A list at the end has the parts of a call in which several
models worked: name, FLOPs per token, price, type of weights and cost of each. For a drafter that proposed tokens there
is only the cost, since the call identifies it."""


class Worker(Model):
    """Stands in for a model in the ledger: its rates, but nothing that runs."""

    def __init__(
        self, name: str, flops_per_token: float | None, price: list[Any] | None, dtype: str | None = None
    ) -> None:
        self.name, self.flops_per_token, self.dtype = name, flops_per_token, dtype
        self.price = None if price is None else Price(*price)


def price_data(price: Price | None) -> list[Any] | None:
    """A price as JSON data."""
    return None if price is None else [price.prompt, price.generated, price.cached]


def cost_data(usage: Usage, drafter: Model | None = None) -> Cost:
    """A usage as JSON data, with seconds to the microsecond.

    Args:
        usage: The usage of a call.
        drafter: The model that proposed tokens in it, if any.
    """
    counts = [getattr(usage, name) for name in COUNTS]
    counts[COUNTS.index("seconds")] = round(usage.seconds, 6)
    parts = [[*([] if model is drafter else _worker_data(model)), cost_data(part)] for model, part in usage.parts]
    return [*counts, parts] if parts else counts


def _worker_data(model: Model) -> list[Any]:
    return [model.name, model.flops_per_token, price_data(model.price), model.dtype]


def usage_of(cost: Cost, drafter: Model | None = None) -> Usage:
    """The inverse of `cost_data`; `drafter` is the model that proposed tokens."""
    *counts, last = cost
    parts = last if isinstance(last, list) else []
    counts = counts if isinstance(last, list) else cost
    workers: list[Any] = [(Worker(*worker) if worker else drafter, usage_of(part)) for *worker, part in parts]
    return replace(Usage(**dict(zip(COUNTS, counts, strict=False))), parts=tuple(workers))


def share(usage: Usage, drafter: Model | None) -> tuple[Usage, Usage]:
    """The work of a call's own model, and that of the drafter that proposed tokens."""
    drafting = [part for worker, part in usage.parts if worker is drafter]
    if not drafting:
        return usage, Usage()
    return sum([part for worker, part in usage.parts if worker is not drafter], Usage()), sum(drafting, Usage())


@dataclass(slots=True)
class _Read:
    """A path in a model's earlier calls."""

    tokens: int = 0
    """Its length in the model's tokens; 0 while unknown."""
    wrote: dict[tuple[str, tuple[int, ...]], int] = field(default_factory=dict)
    """The steps that the model generated after it, which it has read too, and their sizes."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A call for which it is known what its model had read before."""

    label: str
    """Distinguishes its cost from that of the same call at other times."""
    known: int
    """Tokens of the path read before, as far as they were counted."""
    drafter: int = 0
    """The same for the drafter that proposes tokens in it."""


class Reading:
    """How much of each path a model has read, by the calls that were begun.

    Calls are noted when they begin, so that concurrent ones get the same labels in every run.
    """

    def __init__(self) -> None:
        self._read: WeakKeyDictionary[Path, _Read] = WeakKeyDictionary()
        self._counts: WeakKeyDictionary[Path, Counter[tuple[str, str]]] = WeakKeyDictionary()
        """By the root of a request's paths."""

    def begin(self, path: Path, key: str, guess: str = "") -> Begun:
        """Note a call about a path.

        Its label says how many of the path's steps had been read before, -1 for none, whether the model generated the
        next one itself, and how many such calls the request has begun before (the branches of a search make several).

        Args:
            path: The path that is read.
            key: Key of the call.
            guess: The digest of a step that is also read, if any.
        """
        nodes = list(path.up())
        at = next((i for i, node in enumerate(nodes) if node in self._read), None)
        read = _Read() if at is None else self._read[nodes[at]]
        following = nodes[at - 1].step if at else None
        own = None if following is None else read.wrote.get((following.text, following.tokens))
        label = f"{-1 if at is None else nodes[at].depth}{'+' * (own is not None)}{guess}"
        counts = self._counts.setdefault(nodes[-1], Counter())
        counts[key, label] += 1
        self._read.setdefault(path, _Read())
        again = counts[key, label] - 1
        return Begun(f"{label}x{again}" if again else label, read.tokens + (own or 0))

    def note(self, path: Path, usage: Usage, steps: Sequence[Step] = ()) -> None:
        """Note the result of a call: the length of the path, and the steps generated after it."""
        read = self._read[path]
        read.tokens = usage.prefix
        read.wrote |= {(step.text, step.tokens): step.size for step in steps}


def estimated(costs: Mapping[Any, Cost], begun: Begun, drafter: Model | None = None) -> Usage:
    """The estimated cost of a call whose model had read a different part of the path than in all recorded ones.

    Args:
        costs: The recorded costs.
        begun: What had been read, and need not be computed.
        drafter: The model that proposes tokens in it, if any.
    """
    usage = usage_of(next(iter(costs.values())), drafter)
    if drafter is None or not usage.parts:
        return _with_known(usage, begun.known)
    parts = [
        (worker, _with_known(part, begun.drafter if worker is drafter else begun.known)) for worker, part in usage.parts
    ]
    return replace(sum([part for _, part in parts], Usage()), parts=tuple(parts))


def _with_known(usage: Usage, known: int) -> Usage:
    """The usage if this many tokens had been read before."""
    reused = min(known, usage.prefix, usage.computed + usage.reused)
    computed = usage.computed + usage.reused - reused
    changed = abs(computed - usage.computed)
    if usage.parts or not changed:
        return usage
    return replace(usage, computed=computed, reused=reused, estimated=usage.estimated + changed)
