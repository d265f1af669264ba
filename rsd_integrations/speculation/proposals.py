"""Proposals of tokens, which the target verifies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Proposal:
    """Tokens proposed after a context: a chain, or a tree in topological order (parents before their children)."""

    tokens: tuple[int, ...]
    parents: tuple[int, ...] | None = None
    """Index in `tokens` of each token's parent, -1 for the context itself; None for a chain."""
    draft: Tensor | None = None
    """q [tokens, vocabulary]: the distribution from which each token was sampled, after the same temperature, top-k and
    top-p as the target's. None if nothing was sampled (n-grams, a drafter under greedy decoding)."""

    def __post_init__(self) -> None:
        if self.parents is not None:
            if len(self.parents) != len(self.tokens):
                raise ValueError(f"{len(self.tokens)} tokens have {len(self.parents)} parents: give one for each")
            for i, parent in enumerate(self.parents):
                if not -1 <= parent < i:
                    raise ValueError(f"token {i} has the parent {parent}: it must come before, in [-1, {i - 1}]")
            if self.draft is not None:
                raise ValueError("a tree of sampled tokens has no lossless rule here: propose a chain, or omit q")

    def __len__(self) -> int:
        return len(self.tokens)
