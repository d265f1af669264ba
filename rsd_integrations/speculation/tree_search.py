"""Monte Carlo tree search over a table of trigrams: the draft trees of ADED."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from random import Random

from rsd_integrations.speculation.ngram_table import Successors

LEVELS = 3
"""Search depth in tokens; each path is then extended by one."""
PATHS = 24
"""Number of most visited nodes whose paths are proposed."""
C1, C2 = 32.0, 8.0
"""Exploration constants, as in the released code (github.com/liuxukun2000/Adaptix at 241dad8)."""


class Place:
    """A node of the search tree: a token after those above it."""

    __slots__ = ("children", "pair", "parent", "total", "visits", "weight")

    def __init__(self, pair: tuple[int, int], weight: float, parent: Place | None) -> None:
        self.pair, self.weight, self.parent = pair, weight, parent
        self.children: list[Place] = []
        self.visits, self.total = 0, 0.0

    @property
    def tokens(self) -> tuple[int, ...]:
        """The tokens from below the root down to this one."""
        return () if self.parent is None else (*self.parent.tokens, self.pair[1])

    def below(self) -> Iterator[Place]:
        """The nodes below, level by level."""
        level = self.children
        while level:
            yield from level
            level = [child for place in level for child in place.children]

    def grow(self, table: Successors) -> None:
        """Add the successors as children."""
        last = self.pair[1]
        self.children = [Place((last, token), weight, self) for token, weight in table.successors(self.pair)]

    def best(self) -> Place:
        """The child to visit next: an unvisited one, or the best by PUCT.

        W / n + [c₁ + ln((N + c₂ + 1) / c₂)] · P · √N / (1 + n), with N the visits of the parent, n and W the visits and
        total score of the child, and P its weight.
        """
        wide = (C1 + math.log((self.visits + C2 + 1) / C2)) * math.sqrt(self.visits)
        best, most = self.children[0], -math.inf
        for child in self.children:
            if not child.visits:
                return child
            score = child.total / child.visits + wide * child.weight / (1 + child.visits)
            if score > most:
                best, most = child, score
        return best


def propose_tree(
    table: Successors, pair: tuple[int, int], size: int, iterations: int, random: Random
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A tree of at most `size` tokens after two given ones; tokens and parents as in `Proposal`.

    If all known successors fit, all are proposed; otherwise a search chooses (ADED, arXiv 2407.12021). The most visited
    nodes are proposed, each extended by its likeliest successor.

    Args:
        table: The successors of pairs.
        pair: The last two tokens.
        size: Maximum number of tokens, at least 1.
        iterations: Number of search iterations.
        random: Random numbers for rollouts.
    """
    root = Place(pair, 0.0, None)
    if not _grow_all(root, table, min(size, PATHS)):
        root = Place(pair, 0.0, None)
        for _ in range(iterations):
            _visit(root, table, random)
    places = sorted(root.below(), key=lambda place: -place.visits)[:PATHS]  # stable: upper nodes come first
    longer = ((place, table.successors(place.pair)) for place in places)
    paths = [place.tokens + tuple(token for token, _ in following[:1]) for place, following in longer]
    return _joined([*(place.tokens for place in places), *paths], size)


def _grow_all(root: Place, table: Successors, most: int) -> bool:
    """Add all successors below the root; False if there are more than `most`, so that some are missing."""
    level = [root]
    for _ in range(LEVELS):
        for place in level:
            place.grow(table)
            most -= len(place.children)
            if most < 0:
                return False
        level = [child for place in level for child in place.children]
    return True


def _visit(root: Place, table: Successors, random: Random) -> None:
    """One iteration: select, expand, roll out, and add the score to all nodes on the way."""
    way = [root]
    while way[-1].children:
        way.append(way[-1].best())
    if len(way) <= LEVELS:
        way[-1].grow(table)
        if way[-1].children:
            way.append(way[-1].best())
    score = 1.0 + sum(place.weight for place in way)
    pair = way[-1].pair
    for _ in range(LEVELS + 1 - len(way)):
        following = table.successors(pair)
        if not following:
            break
        ((token, weight),) = random.choices(following, [weight for _, weight in following])
        score, pair = score + weight, (pair[1], token)
    for place in way:
        place.visits += 1
        place.total += score


def _joined(paths: Sequence[tuple[int, ...]], size: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Join paths into one tree of at most `size` tokens; earlier paths take precedence."""
    known: dict[tuple[int, ...], int] = {(): -1}
    tokens, parents = list[int](), list[int]()
    for path in paths:
        for end in range(1, len(path) + 1):
            if path[:end] not in known and len(tokens) < size:
                known[path[:end]] = len(tokens)
                tokens.append(path[end - 1])
                parents.append(known[path[: end - 1]])
    return tuple(tokens), tuple(parents)
