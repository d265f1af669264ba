"""Keys and values of many sequences in one rectangle per layer: slots × length."""

from __future__ import annotations

import heapq
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from math import inf
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from rsd_core import ConfigurationError

logger = logging.getLogger(__name__)
_clock = count()
_arrivals = count()


class CachedSequence:
    """Tokens whose keys and values lie in a slot of a store. Freed with the object, or evicted when room is needed."""

    __slots__ = ("__weakref__", "_store", "arrival", "epoch", "ids", "last_output", "last_used", "passed_over", "slot")

    def __init__(self, store: KVStore) -> None:
        self._store = store
        self.slot: int | None = None
        """None while nothing is cached."""
        self.epoch = 0
        """Which of the store's tensors the slot is in; a slot of former ones is not given back."""
        self.ids: list[int] = []
        """The computed tokens; empty after an eviction."""
        self.last_output: Any = None
        """What the model gave at the last token, where somebody may ask for it again."""
        self.arrival: float = inf
        """When the row that uses it arrived, as a count; infinite while it is idle."""
        self.passed_over = False
        """Whether a sibling was claimed in its place, so that it is most likely a rejected candidate."""
        self.last_used = next(_clock)
        """When it was last used, as a count."""

    def activate(self) -> None:
        """Mark it as used by a row: only rows that arrived earlier may preempt it."""
        self.arrival = next(_arrivals)

    def deactivate(self) -> None:
        """Mark it as idle: any row may evict it."""
        self.arrival = inf

    def truncate(self, count: int) -> None:
        """Roll back to the first `count` tokens."""
        if count < len(self.ids):
            del self.ids[count:]
            self.last_output = None

    def evict(self) -> None:
        """Give the slot back; the tokens have to be computed again."""
        slot, self.slot, self.ids, self.last_output = self.slot, None, [], None
        if slot is not None:
            self._store.freed.append((self.epoch, slot))

    def __del__(self) -> None:
        if self.slot is not None:
            self._store.freed.append((self.epoch, self.slot))  # by any thread, so the store looks at it later


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Size of one token's keys and values in one layer."""

    heads: int
    key: int
    value: int


class KVStore:
    """A tensor [slots, heads, length, width] of keys and one of values per layer, grown by doubling within a budget.

    Sequences in neighbouring slots are one view, so that attention over them needs no copy; the lowest free slot is
    taken first to keep them together. When the budget is reached, rejected candidates are evicted first, then what was
    idle longest; then the latest arrival is preempted, and computes its tokens again. So the earliest one always makes
    progress.
    """

    def __init__(
        self, layers: Sequence[LayerShape], dtype: torch.dtype, device: torch.device, budget: float, context: int
    ) -> None:
        self.token_bytes = dtype.itemsize * sum(layer.heads * (layer.key + layer.value) for layer in layers)
        """Bytes of one token's keys and values."""
        if budget < self.token_bytes * context:
            raise ConfigurationError(
                f"a cache of {budget / 1e6:,.1f} MB does not hold one sequence of {context} tokens, which takes "
                f"{self.token_bytes * context / 1e6:,.1f} MB; raise cache_bytes"
            )
        self.budget, self.context = budget, context
        self.slots = self.length = 0
        self.keys: list[Tensor] = [torch.empty(0, s.heads, 0, s.key, dtype=dtype, device=device) for s in layers]
        self.values: list[Tensor] = [torch.empty(0, s.heads, 0, s.value, dtype=dtype, device=device) for s in layers]
        self.freed: deque[tuple[int, int]] = deque()
        """Epochs and slots given back by any thread."""
        self.evicted = 0
        """Sequences that were evicted or preempted so far, rejected candidates aside."""
        self._epoch = 0
        self._free: list[int] = []
        self._live: WeakValueDictionary[int, CachedSequence] = WeakValueDictionary()

    @property
    def bytes(self) -> int:
        """Size of the tensors."""
        return self.slots * self.length * self.token_bytes

    @property
    def live(self) -> list[CachedSequence]:
        """All sequences that have a slot."""
        return list(self._live.values())

    def reserve(self, sequence: CachedSequence, length: int) -> bool:
        """Make room for a sequence of so many tokens; False where earlier arrivals hold all there is."""
        sequence.last_used = next(_clock)
        if length > self.length and not self._lengthen(sequence, length):
            return False
        if sequence.slot is None:
            sequence.slot = self._claim_slot(sequence)
            if sequence.slot is None:
                return False
            sequence.epoch = self._epoch
            self._live[sequence.slot] = sequence
        return True

    def branch(self, source: CachedSequence) -> CachedSequence | None:
        """A copy of a sequence that can go its own way; None where there is no room."""
        copy = CachedSequence(self)
        copy.activate()
        if not self.reserve(copy, len(source.ids)) or source.slot is None or copy.slot is None:
            return None
        for tensor in (*self.keys, *self.values):
            tensor[copy.slot, :, : len(source.ids)] = tensor[source.slot, :, : len(source.ids)]
        copy.ids, copy.last_output = list(source.ids), source.last_output
        return copy

    def clear(self) -> None:
        """Evict everything, as after a failure."""
        for sequence in list(self._live.values()):
            sequence.evict()
        self._live.clear()
        self._resize(0, 0)

    def _claim_slot(self, wanted_by: CachedSequence) -> int | None:
        while self.freed:
            epoch, slot = self.freed.popleft()
            if epoch == self._epoch:
                heapq.heappush(self._free, slot)
        if self._free:
            return heapq.heappop(self._free)
        victim = self._victim(wanted_by)
        if (victim is None or not victim.passed_over) and self.slots < self._most_slots(self.length):
            self._resize(min(max(1, 2 * self.slots), self._most_slots(self.length)), self.length)
        elif victim is None:
            return None
        else:
            self._evict(victim)
        return self._claim_slot(wanted_by)

    def _lengthen(self, wanted_by: CachedSequence, length: int) -> bool:
        longer = min(self.context, max(64, 1 << (length - 1).bit_length()))
        slots = self._most_slots(longer)
        while len(self._live) > slots:
            victim = self._victim(wanted_by)
            if victim is None:
                return False
            self._evict(victim)
        self._resize(min(slots, max(1, self.slots)), longer)
        return True

    def _most_slots(self, length: int) -> int:
        return int(self.budget // (self.token_bytes * max(1, length)))

    def _victim(self, wanted_by: CachedSequence) -> CachedSequence | None:
        """What goes first; never the sequence of an earlier arrival."""
        others = [s for s in self._live.values() if s is not wanted_by and s.arrival > wanted_by.arrival]
        return max(others, key=lambda s: (s.passed_over, s.arrival, -s.last_used), default=None)

    def _evict(self, victim: CachedSequence) -> None:
        if victim.arrival < inf:
            size = self.budget / 1e6
            logger.info("preempted a row of %d tokens: %.4g MB are full (cache_bytes)", len(victim.ids), size)
        else:
            logger.debug("evicted a sequence of %d tokens", len(victim.ids))
        slot = victim.slot
        victim.evict()
        if slot is not None:
            self._live.pop(slot, None)
        self.evicted += not victim.passed_over

    def _resize(self, slots: int, length: int) -> None:
        """Move everything that lives into new tensors, side by side."""
        live = sorted(self._live.items())
        old = torch.tensor([slot for slot, _ in live], dtype=torch.long, device=self.keys[0].device)
        for tensors in (self.keys, self.values):
            for i, tensor in enumerate(tensors):
                # Zeros: what is masked has no weight, but not even a weight of zero would take away a NaN.
                moved = tensor.new_zeros(slots, tensor.shape[1], length, tensor.shape[3])
                both = min(self.length, length)
                moved[: len(live), :, :both] = tensor[old, :, :both]
                tensors[i] = moved
        self._epoch += 1
        self._live = WeakValueDictionary()
        for slot, (_, sequence) in enumerate(live):
            sequence.slot, sequence.epoch = slot, self._epoch
            self._live[slot] = sequence
        self._free = list(range(len(live), slots))
        self.slots, self.length = slots, length
