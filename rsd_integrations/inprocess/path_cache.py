"""Caches the computed sequences of paths between calls, and rolls them back when a step is rejected."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from rsd_core import Path
from rsd_integrations.inprocess.sequences import CachedSequence


class PathCache:
    """The computed sequences of each path, freed with the path.

    A call claims the sequence of the nearest ancestor with the longest shared prefix, rolled back to that prefix, and
    puts the result under its own path. This drops a rejected step, whose tokens follow the path in its sequence, as
    soon as the target's step replaces it. Of several candidates, the chosen one is found by its tokens; the others are
    evicted first when room is needed. Paths may be freed in any thread; everything else happens in the one that runs
    the model.
    """

    def __init__(self) -> None:
        self._sequences: WeakKeyDictionary[Path, list[CachedSequence]] = WeakKeyDictionary()

    def claim(self, path: Path, ids: list[int]) -> CachedSequence | None:
        """Remove and return a sequence with the longest computed prefix of `ids` known for the path."""
        for node in path.up():
            cached = [sequence for sequence in self._sequences.pop(node, ()) if sequence.ids]
            if cached:
                lengths = [shared(sequence.ids, ids) for sequence in cached]
                best = cached.pop(max(range(len(cached)), key=lengths.__getitem__))
                if cached:
                    for sequence in cached:
                        sequence.passed_over = True
                    self._sequences[node] = cached
                best.truncate(max(lengths))
                best.passed_over = False
                return best
        return None

    def put(self, path: Path, sequence: CachedSequence) -> None:
        """Cache a sequence under a path."""
        self._sequences.setdefault(path, []).append(sequence)


def shared(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common prefix of two lists or two tuples."""
    low, high = 0, min(len(a), len(b))
    middle = high  # mostly one goes on with the other
    while low < high:
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
        middle = (low + high + 1) // 2
    return low
