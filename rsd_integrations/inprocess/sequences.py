"""Computed sequences of a model, and the store that makes room for them."""

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
"""The arrival of a sequence that no row uses."""


class CachedSequence(ABC):
    """Tokens whose keys and values are cached. Freed with the object, or evicted when room is needed."""

    __slots__ = ("__weakref__", "arrival", "ids", "last_output", "last_used", "passed_over")

    def __init__(self) -> None:
        self.ids: list[int] = []
        """The computed tokens; empty after an eviction."""
        self.last_output: Any = None
        """The output at the last token, if it may be needed again."""
        self.arrival: tuple[float, float] = IDLE
        """The number of the request whose row uses it, and a counter of when that row arrived."""
        self.passed_over = False
        """Whether a sibling was claimed instead, so that it is probably a rejected candidate."""
        self.last_used = next(_clock)
        """A counter of when it was last used."""

    def activate(self, request: float = 0) -> None:
        """Mark it as used by a row of this request: only older requests, or its earlier rows, may preempt it."""
        self.arrival = request, next(_arrivals)

    def deactivate(self) -> None:
        """Mark it as idle: any row may evict it."""
        self.arrival = IDLE

    def touch(self) -> None:
        """Update its time of last use."""
        self.last_used = next(_clock)

    def truncate(self, count: int) -> None:
        """Roll back to the first `count` tokens."""
        if count < len(self.ids):
            del self.ids[count:]
            self.last_output = None

    def gather(self, begin: int, chosen: Sequence[int]) -> None:
        """Of the tokens from `begin` on, keep only the chosen ones, given in order as offsets.

        This does not change a token's output, since the tokens it has attended to are those before it.
        """
        raise NotImplementedError(f"{type(self).__name__} does not support trees")

    @abstractmethod
    def evict(self) -> None:
        """Free its room; its tokens must be computed again."""


class Store(ABC):
    """The store of one model's keys and values, used by the one thread that runs it.

    When it is full, rejected candidates are evicted first, then the sequences idle longest; then the latest row of the
    newest request is preempted, and computes its tokens again. So the oldest request always makes progress.
    """

    size: str
    """Its capacity, for display."""
    evicted = 0
    """Number of sequences evicted or preempted so far, except rejected candidates."""

    @property
    @abstractmethod
    def live(self) -> Sequence[CachedSequence]:
        """All sequences in the store."""

    @abstractmethod
    def sequence(self) -> CachedSequence:
        """A new, empty sequence."""

    @abstractmethod
    def reserve(self, sequence: CachedSequence, length: int) -> bool:
        """Make room for a sequence of `length` tokens; False if earlier arrivals occupy everything."""

    @abstractmethod
    def branch(self, source: CachedSequence) -> CachedSequence | None:
        """An independent copy of a sequence; None if there is no room."""

    @abstractmethod
    def clear(self) -> None:
        """Evict everything, as after a failure."""

    def _victim(self, wanted_by: CachedSequence) -> CachedSequence | None:
        """The sequence to evict first; never one that arrived earlier."""
        others = [s for s in self.live if s is not wanted_by and s.arrival > wanted_by.arrival]
        return max(others, key=lambda s: (s.passed_over, s.arrival, -s.last_used), default=None)

    def _evict(self, victim: CachedSequence) -> None:
        if victim.arrival < IDLE:
            logger.info("preempted a row of %d tokens: %s are full (cache_bytes)", len(victim.ids), self.size)
        else:
            logger.debug("evicted a sequence of %d tokens", len(victim.ids))
        victim.evict()
        self.evicted += not victim.passed_over
