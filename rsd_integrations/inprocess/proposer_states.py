"""Keeps the states of proposers without a model between steps, and rolls them back when a step is rejected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from rsd_core import Path
from rsd_integrations.inprocess.path_cache import shared
from rsd_integrations.speculation.proposers import Proposer, ProposerState, TextState

IDLE_TOKENS = 2**20
"""Maximum tokens of all idle states of a model; with n-grams a token takes a few hundred bytes."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class _Entry:
    proposer: Proposer
    state: TextState | None
    """None after it was claimed or dropped."""


class ProposerStates:
    """The states of proposers by path, like the computed sequences in `PathCache`; freed with the path.

    A state makes the same proposals as a new one, without reading the whole path again for each step. If there are too
    many, the least recently used are dropped. Paths may be freed in any thread; everything else happens in the one that
    runs the model.
    """

    def __init__(self) -> None:
        self._entries: WeakKeyDictionary[Path, list[_Entry]] = WeakKeyDictionary()
        self._idle: WeakKeyDictionary[_Entry, None] = WeakKeyDictionary()
        """Entries with a state, longest idle first."""

    def claim(self, path: Path, proposer: Proposer, prefix: Sequence[int], seed: int) -> ProposerState:
        """Remove and return a state for continuing after `prefix`.

        It is the state of the nearest path with the longest shared prefix, or else a new one.
        """
        for node in path.up():
            entries = [entry for entry in self._entries.get(node, ()) if entry.proposer == proposer]
            lengths = {entry: shared(entry.state.ids, prefix) for entry in entries if entry.state is not None}
            if lengths:
                state = self._take(max(lengths, key=lengths.__getitem__))
                state.seed = seed
                state.truncate(max(lengths.values()))
                state.accept(prefix[len(state.ids) :])
                return state
        return proposer.begin(prefix, seed)

    def put(self, path: Path, proposer: Proposer, state: ProposerState) -> None:
        """Keep a state for steps after a path, unless its kind cannot be rolled back."""
        if not isinstance(state, TextState):
            return
        entry = _Entry(proposer, state)
        self._entries[path] = [other for other in self._entries.get(path, ()) if other.state is not None] + [entry]
        self._idle[entry] = None
        lengths = {other: len(other.state.ids) for other in self._idle if other.state is not None}
        excess = sum(lengths.values()) - IDLE_TOKENS
        for oldest, length in lengths.items():
            if excess <= 0:
                break
            self._take(oldest)
            excess -= length

    def _take(self, entry: _Entry) -> TextState:
        state, entry.state = entry.state, None
        assert state is not None
        del self._idle[entry]
        return state
