"""N-grams as a proposer (ADED): a frozen table of a corpus, and over it what the request's own text has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr

from rsd_integrations.speculation.ngram_table import SUCCESSORS, NgramTable, Successor, Successors
from rsd_integrations.speculation.proposals import Proposal
from rsd_integrations.speculation.proposers import Proposer, ProposerState
from rsd_integrations.speculation.tree_search import propose_tree

GAIN, MOST = 0.25, 3.0
"""What a trigram's weight gains each time the request's text has it, and what it gains at most. In the released code
it gains 0.04 in each round in which it is among the last sixteen tokens, so that weights depend on how far the rounds
reach; 0.25 is that over some six rounds."""
PAIRS = 65_536
"""Pairs that a request's own text adds at most; the oldest are forgotten first."""


class Ngrams(Proposer):
    """Adaptive n-grams (ADED, arXiv 2407.12021): proposals without a model.

    What followed the last two tokens before is proposed: in a corpus, by a frozen table that `rsd ngrams` made, and in
    the request's own prompt and answer. Nothing goes from one request to another. As a chain the likeliest successors
    are proposed one after another, as a tree what a Monte-Carlo search finds, whose random numbers are keyed to the
    request's seed and the position.
    """

    kind: Literal["ngram"] = "ngram"
    table: str | None = None
    """File of the corpus's table; without one the request's own text is all that is known."""
    tree: bool = False
    """Whether a tree is proposed instead of a chain."""
    iterations: Annotated[int, Field(ge=1, le=10_000)] = 150
    """Of the search for a tree, where not all that is known fits into one."""
    _table: NgramTable | None = PrivateAttr(default=None)

    def model_post_init(self, _context: Any) -> None:
        if self.table is not None:
            self._table = NgramTable.read(Path(self.table))

    @property
    def vocabulary(self) -> str | None:
        return None if self._table is None else self._table.vocabulary

    def begin(self, prefix: Sequence[int], seed: int) -> NgramState:
        state = NgramState(self._table, self.iterations if self.tree else 0, seed)
        state.accept(prefix)
        return state


class NgramState(ProposerState):
    """The table of one request: the frozen one, and what the request's own text adds to it.

    Args:
        base: The frozen table, if any.
        iterations: Of the search for trees; 0 for chains.
        seed: The request's own.
    """

    def __init__(self, base: Successors | None, iterations: int, seed: int) -> None:
        self._base, self._iterations, self._seed = base, iterations, seed
        self._own: dict[tuple[int, int], dict[int, float]] = {}
        self._last: tuple[int, ...] = ()
        """The last two tokens, or as many as there are."""
        self._length = 0

    def propose(self, count: int) -> Proposal:
        if len(self._last) < 2:
            return Proposal(())
        pair = (self._last[0], self._last[1])
        if self._iterations:
            random = Random(f"{self._seed} {self._length}")
            return Proposal(*propose_tree(self, pair, count, self._iterations, random))
        tokens = list[int]()
        while len(tokens) < count and (following := self.successors(pair)):
            tokens.append(following[0][0])
            pair = (pair[1], tokens[-1])
        return Proposal(tuple(tokens))

    def accept(self, ids: Sequence[int]) -> None:
        for id_ in ids:
            if len(self._last) == 2:
                self._add((self._last[0], self._last[1]), id_)
            self._last = (*self._last[-1:], id_)
        self._length += len(ids)

    def successors(self, pair: tuple[int, int]) -> Sequence[Successor]:
        """The tokens that may follow, see `Successors`."""
        base = () if self._base is None else self._base.successors(pair)
        own = self._own.get(pair)
        if own is None:
            return base
        weights = dict(base)
        for token, gain in own.items():
            weights[token] = weights.get(token, 0.0) + gain
        return sorted(weights.items(), key=lambda item: (-item[1], item[0]))[:SUCCESSORS]

    def _add(self, pair: tuple[int, int], token: int) -> None:
        own = self._own.pop(pair, {})  # the pair counts as the youngest again
        own[token] = min(MOST, own.get(token, 0.0) + GAIN)
        if len(own) > SUCCESSORS:
            del own[min(own, key=lambda other: (other == token, own[other]))]
        self._own[pair] = own
        if len(self._own) > PAIRS:
            del self._own[next(iter(self._own))]
