"""Prompt lookup: proposes what followed the same tokens before."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from rsd_integrations.speculation.proposals import Proposal
from rsd_integrations.speculation.proposers import Proposer, TextState

TYPE = "i"
WIDTH = array(TYPE).itemsize
"""Bytes of a token."""


class Lookup(Proposer):
    """Prompt lookup decoding (github.com/apoorvumang/prompt-lookup-decoding), for texts that repeat themselves.

    The last n tokens are searched for in the prompt and the answer so far, then the last n - 1, and so on to one; the
    tokens after their latest earlier occurrence are proposed as a chain. At the end of the text, the chain continues
    with itself, so that a loop is proposed round after round.
    """

    kind: Literal["lookup"] = "lookup"
    n: Annotated[int, Field(ge=1, le=16)] = 3
    """Maximum length of the searched run of tokens."""

    def begin(self, prefix: Sequence[int], seed: int) -> LookupState:
        state = LookupState(self.n, seed)
        state.accept(prefix)
        return state


class LookupState(TextState):
    """All tokens so far, also as bytes, which are searched fastest.

    Args:
        longest: Maximum length of the searched run of tokens.
        seed: See `TextState`; nothing is drawn.
    """

    def __init__(self, longest: int, seed: int) -> None:
        super().__init__(seed)
        self._longest, self._bytes = longest, bytearray()

    def propose(self, count: int) -> Proposal:
        for size in range(min(self._longest, len(self.ids) - 1), 0, -1):
            place = self._last(size)
            if place is not None:
                found = self.ids[place + size : place + size + count]
                while len(found) < count:  # at the end of the text, it continues with itself
                    found += found[: count - len(found)]
                return Proposal(tuple(found))
        return Proposal(())

    def accept(self, ids: Sequence[int]) -> None:
        self.ids += ids
        self._bytes += array(TYPE, ids).tobytes()

    def truncate(self, count: int) -> None:
        del self.ids[count:], self._bytes[count * WIDTH :]

    def _last(self, size: int) -> int | None:
        """The latest earlier position of the last `size` tokens."""
        wanted, at = bytes(self._bytes[-size * WIDTH :]), len(self._bytes) - WIDTH
        while (at := self._bytes.rfind(wanted, 0, at)) >= 0:
            if at % WIDTH == 0:
                return at // WIDTH
            at += len(wanted) - 1  # not aligned to a token
        return None
