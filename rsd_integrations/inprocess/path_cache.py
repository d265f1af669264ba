"""The computed sequences of paths, kept between calls and rolled back when a step is rejected."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from rsd_core import Path
from rsd_integrations.inprocess.sequences import CachedSequence


class PathCache:
    """The sequences that were computed for each path, freed with the path.

    A call claims the one that shares most with what it wants from the nearest ancestor, rolled back to what is shared,
    and puts the result under its own path. A rejected step, whose tokens follow the path in its sequence, is dropped
    that way as soon as the target's step takes its place. Of several candidates, the one that was chosen is found by
    its tokens; the others are the first to go when room is needed. Paths may die in any thread; everything else is
    done by the one that runs the model.
    """

    def __init__(self) -> None:
        self._sequences: WeakKeyDictionary[Path, list[CachedSequence]] = WeakKeyDictionary()

    def claim(self, path: Path, ids: list[int]) -> CachedSequence | None:
        """Take out a sequence with the longest computed prefix of `ids` known for the path."""
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
    """Length of the common prefix of two lists, or of two tuples."""
    low, high = 0, min(len(a), len(b))
    middle = high  # mostly one goes on with the other
    while low < high:
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
        middle = (low + high + 1) // 2
    return low
