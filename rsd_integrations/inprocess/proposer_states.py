"""What proposers without a model know of paths, kept between steps and rolled back when one is rejected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from rsd_core import Path
from rsd_integrations.inprocess.path_cache import shared
from rsd_integrations.speculation.proposers import Proposer, ProposerState, TextState

IDLE_TOKENS = 2**20
"""Tokens that the idle states of a model know together, at most; with n-grams a token takes some hundred bytes."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class _Entry:
    proposer: Proposer
    state: TextState | None
    """None once it was claimed or dropped."""


class ProposerStates:
    """The states of proposers by path, as `PathCache` has the computed sequences; freed with the path.

    A state proposes what a new one would, and spares reading the whole path again for each step. Where there are too
    many, those that nobody has used for longest are dropped. Paths may die in any thread; everything else is done by
    the one that runs the model.
    """

    def __init__(self) -> None:
        self._entries: WeakKeyDictionary[Path, list[_Entry]] = WeakKeyDictionary()
        self._idle: WeakKeyDictionary[_Entry, None] = WeakKeyDictionary()
        """Those with a state, the one that has waited longest first."""

    def claim(self, path: Path, proposer: Proposer, prefix: Sequence[int], seed: int) -> ProposerState:
        """Take out a state that goes on after some tokens.

        Of those of the nearest path it is the one that knows most of the tokens, or else a new one.
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
        """Keep a state for what goes on from a path, unless it is of a kind that cannot be rolled back."""
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
