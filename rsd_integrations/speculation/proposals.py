"""What a proposer hands to the target for verification."""

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
    """Index in `tokens` of each token's parent, -1 where it follows the context itself; None for a chain."""
    draft: Tensor | None = None
    """q [tokens, vocabulary]: the distribution each token was drawn from, after the same temperature, top-k and top-p
    as the target's. None where nothing was drawn (n-grams, a drafter under greedy decoding)."""

    def __post_init__(self) -> None:
        if self.parents is not None:
            if len(self.parents) != len(self.tokens):
                raise ValueError(f"{len(self.tokens)} tokens have {len(self.parents)} parents: give one for each")
            for i, parent in enumerate(self.parents):
                if not -1 <= parent < i:
                    raise ValueError(f"token {i} has the parent {parent}: it has to come before, in [-1, {i - 1}]")
            if self.draft is not None:
                raise ValueError("a tree of drawn tokens has no lossless rule here: propose a chain, or leave out q")

    def __len__(self) -> int:
        return len(self.tokens)
