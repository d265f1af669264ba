"""Keys and values of many sequences in one rectangle per layer: slots × length."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from itertools import count
from math import inf
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from rsd_core import ConfigurationError

_clock = count()
_arrivals = count()


class Sequence:
    """Tokens whose keys and values lie in a slot of a store. Freed with the object, or evicted when room is needed."""

    __slots__ = ("__weakref__", "_store", "arrival", "epoch", "ids", "last", "slot", "spare", "used")

    def __init__(self, store: KVStore) -> None:
        self._store = store
        self.slot: int | None = None
        """None while nothing is kept."""
        self.epoch = 0
        """Which of the store's tensors the slot is in; a slot of former ones is not given back."""
        self.ids: list[int] = []
        """The computed tokens; empty after an eviction."""
        self.last: Any = None
        """What the model gave at the last token, where somebody may ask for it again."""
        self.arrival: float = inf
        """When the work on it began; infinite while there is none."""
        self.spare = False
        """Whether a sibling was chosen over it, so that it is most likely a rejected candidate."""
        self.used = next(_clock)
        """When it was last used."""

    def begin(self) -> None:
        """Mark it as being worked on: only the work that began before may throw it out."""
        self.arrival = next(_arrivals)

    def rest(self) -> None:
        """Mark it as idle."""
        self.arrival = inf

    def truncate(self, count: int) -> None:
        """Roll back to the first `count` tokens."""
        if count < len(self.ids):
            del self.ids[count:]
            self.last = None

    def evict(self) -> None:
        """Give the slot back; the tokens have to be computed again."""
        slot, self.slot, self.ids, self.last = self.slot, None, [], None
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
    taken first to keep them together. When the budget is reached, rejected candidates go first, then what was idle
    longest, then the youngest call at work, which computes its tokens again.
    """

    def __init__(
        self, layers: Rows[LayerShape], dtype: torch.dtype, device: torch.device, budget: float, context: int
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
        """Sequences that were thrown out so far, rejected candidates aside."""
        self._epoch = 0
        self._free: list[int] = []
        self._live: WeakValueDictionary[int, Sequence] = WeakValueDictionary()

    @property
    def bytes(self) -> int:
        """Size of the tensors."""
        return self.slots * self.length * self.token_bytes

    @property
    def live(self) -> list[Sequence]:
        """All sequences that have a slot."""
        return list(self._live.values())

    def reserve(self, sequence: Sequence, length: int) -> bool:
        """Make room for a sequence of so many tokens; False where older calls hold all there is."""
        sequence.used = next(_clock)
        if length > self.length and not self._lengthen(sequence, length):
            return False
        if sequence.slot is None:
            sequence.slot = self._take_slot(sequence)
            if sequence.slot is None:
                return False
            sequence.epoch = self._epoch
            self._live[sequence.slot] = sequence
        return True

    def branch(self, source: Sequence) -> Sequence | None:
        """A copy of a sequence that can go its own way; None where there is no room."""
        made = Sequence(self)
        made.begin()
        if not self.reserve(made, len(source.ids)) or source.slot is None or made.slot is None:
            return None
        for kept in (*self.keys, *self.values):
            kept[made.slot, :, : len(source.ids)] = kept[source.slot, :, : len(source.ids)]
        made.ids, made.last = list(source.ids), source.last
        return made

    def clear(self) -> None:
        """Throw everything out, as after a failure."""
        for sequence in list(self._live.values()):
            sequence.evict()
        self._live.clear()
        self._resize(0, 0)

    def _take_slot(self, wanting: Sequence) -> int | None:
        while self.freed:
            epoch, slot = self.freed.popleft()
            if epoch == self._epoch:
                heapq.heappush(self._free, slot)
        if self._free:
            return heapq.heappop(self._free)
        victim = self._victim(wanting)
        if (victim is None or not victim.spare) and self.slots < self._most_slots(self.length):
            self._resize(min(max(1, 2 * self.slots), self._most_slots(self.length)), self.length)
        elif victim is None:
            return None
        else:
            self._evict(victim)
        return self._take_slot(wanting)

    def _lengthen(self, wanting: Sequence, length: int) -> bool:
        longer = min(self.context, max(256, 1 << (length - 1).bit_length()))
        slots = self._most_slots(longer)
        while len(self._live) > slots:
            victim = self._victim(wanting)
            if victim is None:
                return False
            self._evict(victim)
        self._resize(min(slots, max(1, self.slots)), longer)
        return True

    def _most_slots(self, length: int) -> int:
        return int(self.budget // (self.token_bytes * max(1, length)))

    def _victim(self, wanting: Sequence) -> Sequence | None:
        """What goes first; never the work of a call that came before."""
        others = [s for s in self._live.values() if s is not wanting and s.arrival > wanting.arrival]
        return max(others, key=lambda s: (s.spare, s.arrival, -s.used), default=None)

    def _evict(self, victim: Sequence) -> None:
        slot = victim.slot
        victim.evict()
        if slot is not None:
            self._live.pop(slot, None)
        self.evicted += not victim.spare

    def _resize(self, slots: int, length: int) -> None:
        """Move everything that lives into new tensors, side by side."""
        live = sorted(self._live.items())
        old = torch.tensor([slot for slot, _ in live], dtype=torch.long, device=self.keys[0].device)
        for kept in (self.keys, self.values):
            for i, tensor in enumerate(kept):
                # Zeros: what is masked has no weight, but not even a weight of zero would take away a NaN.
                moved = tensor.new_zeros(slots, tensor.shape[1], length, tensor.shape[3])
                both = min(self.length, length)
                moved[: len(live), :, :both] = tensor[old, :, :both]
                kept[i] = moved
        self._epoch += 1
        self._live = WeakValueDictionary()
        for slot, (_, sequence) in enumerate(live):
            sequence.slot, sequence.epoch = slot, self._epoch
            self._live[slot] = sequence
        self._free = list(range(len(live), slots))
        self.slots, self.length = slots, length
