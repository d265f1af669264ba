"""Keys and values of paths, kept between calls and rolled back when a step is rejected."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

from transformers import DynamicCache

from rsd_core import Path


@dataclass(slots=True)
class Computed:
    """Keys and values of some tokens."""

    ids: list[int]
    state: DynamicCache

    def keep(self, count: int) -> None:
        """Roll back to the first `count` tokens."""
        if count < len(self.ids):
            self.state.crop(count - len(self.ids))  # a negative count drops from the end in every version
            del self.ids[count:]


class PathCache:
    """The computed tokens of each path, freed with the path.

    A call takes the entry of the nearest ancestor, rolls it back to what it shares with the wanted ids, and puts the
    result under its own path. A rejected step, whose tokens follow the path in the entry, is dropped that way as
    soon as the target's step takes its place. Used by one thread only.
    """

    def __init__(self) -> None:
        self._entries: WeakKeyDictionary[Path, Computed] = WeakKeyDictionary()

    def take(self, path: Path, ids: list[int], at_most: int) -> Computed:
        """The longest computed prefix of `ids` known for the path, of at most so many tokens."""
        for node in path.up():
            found = self._entries.pop(node, None)
            if found is not None:
                found.keep(min(_shared(found.ids, ids), at_most))
                return found
        return Computed([], DynamicCache())

    def put(self, path: Path, computed: Computed) -> None:
        """Keep computed tokens under a path."""
        self._entries[path] = computed


def _shared(a: list[int], b: list[int]) -> int:
    """Length of the common prefix."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))
