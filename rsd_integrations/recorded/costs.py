"""What a recorded call cost, which depends on what its model had read of the same path before.

A model in process computes each token once, so the first call about a path costs more than the next. A call is
therefore recorded with a cost for each *depth read*: how many steps of the path the model had been asked about before,
-1 for none. A replay looks up the cost for its own depth. Where that was never recorded, because another policy asks
the model less or more often, what is new since then is estimated, and the ledger says so (`Usage.estimated`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

from rsd_core import Model, Path, Price, Step, Usage

COUNTS = ("prefix", "computed", "reused", "generated", "scored", "seconds", "estimated")
Cost = list[Any]
"""The counts of a usage; then, for a model made of others, name, FLOPs per token, price and cost of each."""


class Worker(Model):
    """Stands for a model whose work is on the ledger: its rates, and nothing that runs."""

    def __init__(self, name: str, flops_per_token: float | None, price: list[Any] | None) -> None:
        self.name, self.flops_per_token = name, flops_per_token
        self.price = None if price is None else Price(*price)


def price_data(price: Price | None) -> list[Any] | None:
    """A price as JSON data."""
    return None if price is None else [price.prompt, price.generated, price.cached]


def cost_data(usage: Usage) -> Cost:
    """A usage as JSON data, with seconds to the microsecond."""
    counts = [getattr(usage, name) for name in COUNTS]
    counts[COUNTS.index("seconds")] = round(usage.seconds, 6)
    parts = [
        [model.name, model.flops_per_token, price_data(model.price), cost_data(part)] for model, part in usage.parts
    ]
    return [*counts, parts] if parts else counts


def usage_of(cost: Cost) -> Usage:
    """The usage behind `cost_data`."""
    counts, parts = cost[: len(COUNTS)], cost[len(COUNTS) :]
    workers = [(Worker(*worker), usage_of(part)) for *worker, part in (parts[0] if parts else ())]
    return replace(Usage(**dict(zip(COUNTS, counts, strict=True))), parts=tuple(workers))


@dataclass(slots=True)
class _Read:
    """A path that a model was asked about."""

    tokens: int = 0
    """Its length, as the model counts it; 0 while nobody knows."""
    wrote: dict[tuple[str, tuple[int, ...]], int] = field(default_factory=dict)
    """The steps that the model wrote after it, and their sizes: it has read them, too."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A call of which it is known what its model had read before."""

    label: str
    """What tells its cost from those of the same call at other times."""
    known: int
    """Tokens of the path that had been read, as far as they were counted."""


class Reading:
    """What a model was asked about each path before, by the calls that were begun.

    Calls are noted when they begin: those that run side by side then find the same in every run.
    """

    def __init__(self) -> None:
        self._read: WeakKeyDictionary[Path, _Read] = WeakKeyDictionary()
        self._counts: WeakKeyDictionary[Path, Counter[tuple[str, str]]] = WeakKeyDictionary()
        """By the beginning of a request."""

    def begin(self, path: Path, key: str, guess: str = "") -> Begun:
        """Note a call about a path.

        Its label says how many of the path's steps had been read before, -1 for none, whether the model wrote the next
        one itself, and, as branches of a search make them, how many such calls were begun before in the request.

        Args:
            path: What is read.
            key: Of the call.
            guess: The digest of a step that is read as well, where one is.
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
        """Note how a call ended: how long the path is, and what the model wrote after it."""
        read = self._read[path]
        read.tokens = usage.prefix
        read.wrote |= {(step.text, step.tokens): step.size for step in steps}


def estimated(costs: Mapping[Any, Cost], known: int) -> Usage:
    """The cost of a call whose model had read another part of the path than in any recorded one.

    Args:
        costs: Those that were recorded.
        known: Tokens that need not be computed, since they have been read.
    """
    usage = usage_of(next(iter(costs.values())))
    reused = min(known, usage.prefix, usage.computed + usage.reused)
    computed = usage.computed + usage.reused - reused
    changed = abs(computed - usage.computed)
    if usage.parts or not changed:
        return usage
    return replace(usage, computed=computed, reused=reused, estimated=usage.estimated + changed)
