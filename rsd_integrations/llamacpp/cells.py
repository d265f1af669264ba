"""Tracks which cells of a cache each sequence occupies, to know the free room without asking the library."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


class Cells:
    """Cells of a unified cache, one per token, which sequences share.

    Cell numbers here differ from the library's; only the number of free cells is the same.

    Args:
        cells: Number of cells.
        sequences: Maximum number of sequences.
    """

    def __init__(self, cells: int, sequences: int) -> None:
        self.free = cells
        """Free cells."""
        self._unused = np.arange(cells, dtype=np.int32)
        self._holders = np.zeros(cells, np.int32)
        self._of = np.empty((sequences, cells), np.int32)  # pages that are not written take no memory

    def extend(self, sequence: int, first: int, count: int) -> None:
        """Give a sequence `count` more cells, after its `first` ones."""
        free = self.free - count
        if count == 1:
            cell = self._of[sequence, first] = self._unused[free]
            self._holders[cell] = 1
        else:
            cells = self._of[sequence, first : first + count] = self._unused[free : self.free]
            self._holders[cells] = 1
        self.free = free

    def share(self, source: int, target: int, count: int) -> None:
        """Let an empty sequence share the first `count` cells of another."""
        cells = self._of[target, :count] = self._of[source, :count]
        self._holders[cells] += 1

    def most_shared(self, sequence: int, length: int, others: Mapping[int, int]) -> tuple[int, int]:
        """Which of several sequences, given their lengths, shares the longest prefix with one, and its length."""
        best, own = (sequence, 0), self._of[sequence, :length]
        for other, size in others.items():
            both = min(length, size)  # entries beyond are stale
            different = np.flatnonzero(self._of[other, :both] != own[:both])
            count = int(different[0]) if len(different) else both
            if count > best[1]:
                best = other, count
        return best

    def cut(self, sequence: int, length: int, before: int) -> None:
        """Cut a sequence of `before` cells to the first `length`."""
        cells = self._of[sequence, length:before]
        holders = self._holders[cells] - 1
        self._holders[cells] = holders
        freed = cells[holders == 0]
        self._unused[self.free : self.free + len(freed)] = freed
        self.free += len(freed)


class SeparateCells:
    """Cells that each belong to one sequence: counted, and never shared.

    Args:
        cells: Total number of cells.
    """

    def __init__(self, cells: int) -> None:
        self.free = cells
        """Cells with nothing in them."""

    def extend(self, sequence: int, first: int, count: int) -> None:  # noqa: ARG002
        """A sequence gets `count` more."""
        self.free -= count

    def share(self, source: int, target: int, count: int) -> None:  # noqa: ARG002
        """Give an empty sequence as many cells as another one has."""
        self.free -= count

    def most_shared(self, sequence: int, length: int, others: Mapping[int, int]) -> tuple[int, int]:  # noqa: ARG002
        """No sequence shares cells."""
        return sequence, 0

    def cut(self, sequence: int, length: int, before: int) -> None:  # noqa: ARG002
        """Cut a sequence of `before` cells to the first `length`."""
        self.free += before - length
