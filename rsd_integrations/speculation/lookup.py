"""Prompt lookup: what followed the same words before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from rsd_integrations.speculation.proposals import Proposal
from rsd_integrations.speculation.proposers import Proposer, ProposerState


class Lookup(Proposer):
    """Prompt lookup decoding (github.com/apoorvumang/prompt-lookup-decoding), for texts that repeat themselves.

    The last n tokens are looked for in the prompt and the answer so far, then the last n - 1, and so on to one; what
    followed their latest earlier occurrence is proposed as a chain. Where that reaches the end of the text, it goes on
    with itself, so that a loop is proposed round after round.
    """

    kind: Literal["lookup"] = "lookup"
    n: Annotated[int, Field(ge=1, le=16)] = 3
    """Longest run of tokens that is looked for."""

    def begin(self, prefix: Sequence[int], seed: int) -> LookupState:  # noqa: ARG002 - nothing is drawn
        state = LookupState(range(self.n, 0, -1))
        state.accept(prefix)
        return state


class LookupState(ProposerState):
    """All tokens so far, and where each run of them was last."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = sizes
        """Lengths of the runs that are looked for, in that order."""
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        """By run: the place of the token that followed it last."""

    def propose(self, count: int) -> Proposal:
        ids = self._ids
        for size in self._sizes:
            place = self._after.get(tuple(ids[-size:])) if size <= len(ids) else None
            if place is not None:
                found = ids[place : place + count]
                while len(found) < count:  # it has reached the end, and goes on with what it proposes
                    found += found[: count - len(found)]
                return Proposal(tuple(found))
        return Proposal(())

    def accept(self, ids: Sequence[int]) -> None:
        for id_ in ids:
            place = len(self._ids)
            for size in self._sizes:
                if size <= place:
                    self._after[tuple(self._ids[place - size :])] = place
            self._ids.append(id_)
