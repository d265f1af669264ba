"""N-grams as a proposer (ADED): a fixed table of a corpus, combined with the request's own text."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr

from rsd_integrations.speculation.ngram_table import SUCCESSORS, NgramTable, Successor, Successors
from rsd_integrations.speculation.proposals import Proposal
from rsd_integrations.speculation.proposers import Proposer, TextState
from rsd_integrations.speculation.tree_search import propose_tree

GAIN, MOST = 0.25, 3.0
"""Gain of a trigram's weight for each occurrence in the request's text, and the maximum gain. In the released code it
gains 0.04 in each round in which it is among the last sixteen tokens, so that weights depend on the length of rounds;
0.25 corresponds to about six rounds."""
LATEST = 64
"""Number of latest occurrences of a pair in the request's own text that count."""


class Ngrams(Proposer):
    """Adaptive n-grams (ADED, arXiv 2407.12021): proposals without a model.

    Proposes what followed the last two tokens before: in a corpus, by a fixed table made with `rsd ngrams`, and in the
    request's own prompt and answer. Requests do not affect each other. A chain consists of the likeliest successors,
    one after another, a tree of what a Monte Carlo search finds, with random numbers keyed to the request's seed and
    the position.
    """

    kind: Literal["ngram"] = "ngram"
    table: str | None = None
    """File of the corpus's table; without one, only the request's own text is used."""
    tree: bool = False
    """Whether a tree is proposed instead of a chain."""
    iterations: Annotated[int, Field(ge=1, le=10_000)] = 150
    """Iterations of the search for a tree, if not all known successors fit into one."""
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


class NgramState(TextState):
    """The table of one request: the fixed one, extended by the request's own text.

    Args:
        base: The fixed table, if any.
        iterations: Iterations of the search for trees; 0 for chains.
        seed: See `TextState`.
    """

    def __init__(self, base: Successors | None, iterations: int, seed: int) -> None:
        super().__init__(seed)
        self._base, self._iterations = base, iterations
        self._latest: dict[tuple[int, int], int] = {}
        """The latest position of each pair that has a successor."""
        self._before = array("q")
        """The previous position of the pair at each position, or -1; needed to roll back the text."""

    def propose(self, count: int) -> Proposal:
        if len(self.ids) < 2:
            return Proposal(())
        pair = (self.ids[-2], self.ids[-1])
        if self._iterations:
            random = Random(f"{self.seed} {len(self.ids)}")
            return Proposal(*propose_tree(self, pair, count, self._iterations, random))
        tokens = list[int]()
        while len(tokens) < count and (following := self.successors(pair)):
            tokens.append(following[0][0])
            pair = (pair[1], tokens[-1])
        return Proposal(tuple(tokens))

    def accept(self, ids: Sequence[int]) -> None:
        self.ids += ids
        for place in range(len(self._before), len(self.ids) - 2):
            pair = (self.ids[place], self.ids[place + 1])
            self._before.append(self._latest.get(pair, -1))
            self._latest[pair] = place

    def truncate(self, count: int) -> None:
        while len(self._before) > max(0, count - 2):
            before, place = self._before.pop(), len(self._before)
            pair = (self.ids[place], self.ids[place + 1])
            if before < 0:
                del self._latest[pair]
            else:
                self._latest[pair] = before
        del self.ids[count:]

    def successors(self, pair: tuple[int, int]) -> Sequence[Successor]:
        """The tokens that may follow (see `Successors`)."""
        base = () if self._base is None else self._base.successors(pair)
        own = self._own(pair)
        if not own:
            return base
        weights = dict(base)
        for token, gain in own.items():
            weights[token] = weights.get(token, 0.0) + gain
        return sorted(weights.items(), key=lambda item: (-item[1], item[0]))[:SUCCESSORS]

    def _own(self, pair: tuple[int, int]) -> dict[int, float]:
        """The gains from the request's own text, read from its end until there are too many successors."""
        gains, place = dict[int, float](), self._latest.get(pair, -1)
        for _ in range(LATEST):
            if place < 0:
                break
            token = self.ids[place + 2]
            if token not in gains and len(gains) == SUCCESSORS:
                break
            gains[token] = min(MOST, gains.get(token, 0.0) + GAIN)
            place = self._before[place]
        return gains
