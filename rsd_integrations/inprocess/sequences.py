"""Computed sequences of a model, and the store that finds room for them."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import count
from math import inf
from typing import Any

logger = logging.getLogger(__name__)
_clock = count()
_arrivals = count()
IDLE = inf, 0
"""When the row of a sequence arrived that no row uses."""


class CachedSequence(ABC):
    """Tokens whose keys and values a model keeps. Freed with the object, or evicted when room is needed."""

    __slots__ = ("__weakref__", "arrival", "ids", "last_output", "last_used", "passed_over")

    def __init__(self) -> None:
        self.ids: list[int] = []
        """The computed tokens; empty after an eviction."""
        self.last_output: Any = None
        """What the model gave at the last token, where somebody may ask for it again."""
        self.arrival: tuple[float, float] = IDLE
        """The number of the request whose row uses it, and when that row arrived, as a count."""
        self.passed_over = False
        """Whether a sibling was claimed in its place, so that it is most likely a rejected candidate."""
        self.last_used = next(_clock)
        """When it was last used, as a count."""

    def activate(self, request: float = 0) -> None:
        """Mark it as used by a row of this request: only rows of older ones, or earlier ones of it, may preempt it."""
        self.arrival = request, next(_arrivals)

    def deactivate(self) -> None:
        """Mark it as idle: any row may evict it."""
        self.arrival = IDLE

    def touch(self) -> None:
        """Note that it is used now."""
        self.last_used = next(_clock)

    def truncate(self, count: int) -> None:
        """Roll back to the first `count` tokens."""
        if count < len(self.ids):
            del self.ids[count:]
            self.last_output = None

    def gather(self, begin: int, chosen: Sequence[int]) -> None:
        """Keep, of the tokens from `begin` on, only the chosen ones, given in order by their places after it.

        What the model gave at a token does not change by that: those before it are the ones that it has seen.
        """
        raise NotImplementedError(f"{type(self).__name__} keeps no trees")

    @abstractmethod
    def evict(self) -> None:
        """Give the room back; the tokens have to be computed again."""


class Store(ABC):
    """The room for keys and values of one model, used by the one thread that runs it.

    When it is full, rejected candidates are evicted first, then what was idle longest; then the latest row of the
    youngest request is preempted, and computes its tokens again. So the oldest request always makes progress.
    """

    size: str
    """How much room there is, for people."""
    evicted = 0
    """Sequences that were evicted or preempted so far, rejected candidates aside."""

    @property
    @abstractmethod
    def live(self) -> Sequence[CachedSequence]:
        """All sequences that hold room."""

    @abstractmethod
    def sequence(self) -> CachedSequence:
        """A new sequence, with nothing in it."""

    @abstractmethod
    def reserve(self, sequence: CachedSequence, length: int) -> bool:
        """Make room for a sequence of so many tokens; False where earlier arrivals hold all there is."""

    @abstractmethod
    def branch(self, source: CachedSequence) -> CachedSequence | None:
        """A copy of a sequence that can go its own way; None where there is no room."""

    @abstractmethod
    def clear(self) -> None:
        """Evict everything, as after a failure."""

    def _victim(self, wanted_by: CachedSequence) -> CachedSequence | None:
        """What goes first; never the sequence of an earlier arrival."""
        others = [s for s in self.live if s is not wanted_by and s.arrival > wanted_by.arrival]
        return max(others, key=lambda s: (s.passed_over, s.arrival, -s.last_used), default=None)

    def _evict(self, victim: CachedSequence) -> None:
        if victim.arrival < IDLE:
            logger.info("preempted a row of %d tokens: %s are full (cache_bytes)", len(victim.ids), self.size)
        else:
            logger.debug("evicted a sequence of %d tokens", len(victim.ids))
        victim.evict()
        self.evicted += not victim.passed_over
