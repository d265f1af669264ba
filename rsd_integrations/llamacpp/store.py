"""Manages a context's cells for sequences: allocates, shares, frees and grows them."""

from __future__ import annotations

from collections import deque
from weakref import WeakValueDictionary

from rsd_integrations.inprocess.runner import PREFILL_CHUNK
from rsd_integrations.inprocess.sequences import CachedSequence, Store
from rsd_integrations.llamacpp.context import Context

FIRST_CELLS, FIRST_SEQUENCES = 512, 4
"""Initial size of a context; both are doubled when exhausted."""


class NumberedSequence(CachedSequence):
    """A sequence of a context, by its number."""

    __slots__ = ("_store", "number")

    def __init__(self, store: UnifiedStore) -> None:
        super().__init__()
        self._store = store
        self.number: int | None = None
        """None while nothing is cached."""

    def truncate(self, count: int) -> None:
        if count < len(self.ids):
            super().truncate(count)
            if self.number is not None:
                self._store.context.rollback(self.number, count)

    def evict(self) -> None:
        number, self.number, self.ids, self.last_output = self.number, None, [], None
        if number is not None:
            self._store.freed.append(number)

    def __del__(self) -> None:
        number, self.number = self.number, None  # cleared first: another thread may be about to evict it
        if number is not None:
            self._store.freed.append(number)  # may run on any thread, so the store processes it later


class UnifiedStore(Store):
    """One cache of cells, one token each, with common prefixes shared between sequences.

    Cells and sequences grow by doubling, within a cell budget and the library's limit on sequences.
    """

    def __init__(self, context: Context, most_cells: int) -> None:
        """Take over a context.

        Args:
            context: An empty one.
            most_cells: Its maximum size; at least the current one.
        """
        self.context, self.most_cells, self.size = context, most_cells, f"{most_cells:,} tokens"
        self.freed: deque[int] = deque()
        """Numbers freed by any thread."""
        self._free = list(range(context.sequences))
        self._live: WeakValueDictionary[int, NumberedSequence] = WeakValueDictionary()
        self._promised = 0
        """Cells reserved by rows of the next forward pass."""

    @property
    def live(self) -> list[NumberedSequence]:
        return list(self._live.values())

    def sequence(self) -> NumberedSequence:
        return NumberedSequence(self)

    def reserve(self, sequence: CachedSequence, length: int) -> bool:
        assert isinstance(sequence, NumberedSequence)
        sequence.touch()
        if sequence.number is None and not self._number(sequence):
            return False
        wanted = length - len(sequence.ids)
        while self._promised + wanted > self.context.free_cells:
            if not self._make_room(sequence):
                return False
        self._promised += wanted
        return True

    def settle(self) -> None:
        """Note that the forward pass is over for which room was reserved."""
        self._promised = 0

    def branch(self, source: CachedSequence) -> NumberedSequence | None:
        assert isinstance(source, NumberedSequence)
        copy = NumberedSequence(self)
        copy.activate(source.arrival[0])
        if not self._number(copy) or source.number is None or copy.number is None:
            return None
        self.context.copy(source.number, copy.number)
        copy.ids, copy.last_output = list(source.ids), source.last_output
        return copy

    def clear(self) -> None:
        for sequence in self.live:
            sequence.evict()
        self.context.clear()
        self.freed.clear()
        self._live = WeakValueDictionary()
        self._free = list(range(self.context.sequences))
        self._promised = 0

    def _number(self, sequence: NumberedSequence) -> bool:
        """Assign a number to a sequence; False if earlier arrivals hold all of them."""
        self._take_back()
        while not self._free:
            victim = self._victim(sequence)
            more = not self.context.separate and self.context.sequences < self.context.most_sequences
            if more and (victim is None or not victim.passed_over):
                self._grow(self.context.cells, min(2 * self.context.sequences, self.context.most_sequences))
            elif victim is None:
                return False
            else:
                self._evict(victim)
                self._take_back()
        sequence.number = self._free.pop()
        self._live[sequence.number] = sequence
        return True

    def _make_room(self, sequence: NumberedSequence) -> bool:
        """Free or add cells; False if earlier arrivals hold all of them."""
        if self.freed:
            self._take_back()
            return True
        victim = self._victim(sequence)
        if (victim is None or not victim.passed_over) and self.context.cells < self.most_cells:
            self._grow(min(2 * self.context.cells, self.most_cells), self.context.sequences)
        elif victim is None:
            return False
        else:
            self._evict(victim)
            self._take_back()
        return True

    def _grow(self, cells: int, sequences: int) -> None:
        before = self.context.sequences
        self.context.grow(cells=cells, sequences=sequences, batch=batch_size(cells, sequences))
        self._free += range(before, sequences)

    def _take_back(self) -> None:
        while self.freed:
            number = self.freed.popleft()
            self._live.pop(number, None)
            self.context.rollback(number, 0)
            self._free.append(number)


def batch_size(cells: int, sequences: int) -> int:
    """Maximum tokens of a forward pass: a token per sequence, and a chunk of prefill."""
    return min(cells, PREFILL_CHUNK + sequences)
