"""Which cells of a cache its sequences hold: how much room there is, without asking the library."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


class Cells:
    """Cells of a unified cache, one per token, which sequences share.

    The numbers given to cells here are not the library's; only how many are free is the same.

    Args:
        cells: How many there are.
        sequences: How many sequences can hold some.
    """

    def __init__(self, cells: int, sequences: int) -> None:
        self.free = cells
        """Cells that no sequence holds."""
        self._unused = np.arange(cells, dtype=np.int32)
        self._holders = np.zeros(cells, np.int32)
        self._of = np.empty((sequences, cells), np.int32)  # pages that are not written take no memory

    def extend(self, sequence: int, first: int, count: int) -> None:
        """A sequence gets `count` more, behind the `first` that it has."""
        free = self.free - count
        if count == 1:
            cell = self._of[sequence, first] = self._unused[free]
            self._holders[cell] = 1
        else:
            cells = self._of[sequence, first : first + count] = self._unused[free : self.free]
            self._holders[cells] = 1
        self.free = free

    def share(self, source: int, target: int, count: int) -> None:
        """An empty sequence gets the first `count` of another one."""
        cells = self._of[target, :count] = self._of[source, :count]
        self._holders[cells] += 1

    def most_shared(self, sequence: int, length: int, others: Mapping[int, int]) -> tuple[int, int]:
        """The sequence, of some with their lengths, that shares most with one, and how many cells from the first on."""
        best, own = (sequence, 0), self._of[sequence, :length]
        for other, size in others.items():
            both = min(length, size)  # what stands behind is of former times
            different = np.flatnonzero(self._of[other, :both] != own[:both])
            count = int(different[0]) if len(different) else both
            if count > best[1]:
                best = other, count
        return best

    def cut(self, sequence: int, length: int, before: int) -> None:
        """A sequence gives up all of its `before` but the first `length`."""
        cells = self._of[sequence, length:before]
        holders = self._holders[cells] - 1
        self._holders[cells] = holders
        freed = cells[holders == 0]
        self._unused[self.free : self.free + len(freed)] = freed
        self.free += len(freed)


class SeparateCells:
    """Cells that belong to one sequence each: counted, and never shared.

    Args:
        cells: How many there are of all sequences.
    """

    def __init__(self, cells: int) -> None:
        self.free = cells
        """Cells with nothing in them."""

    def extend(self, sequence: int, first: int, count: int) -> None:  # noqa: ARG002
        """A sequence gets `count` more."""
        self.free -= count

    def share(self, source: int, target: int, count: int) -> None:  # noqa: ARG002
        """An empty sequence gets as many of its own as another one has."""
        self.free -= count

    def most_shared(self, sequence: int, length: int, others: Mapping[int, int]) -> tuple[int, int]:  # noqa: ARG002
        """Nothing is shared with any."""
        return sequence, 0

    def cut(self, sequence: int, length: int, before: int) -> None:  # noqa: ARG002
        """A sequence gives up all of its `before` but the first `length`."""
        self.free += before - length
