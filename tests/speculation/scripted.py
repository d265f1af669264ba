"""Proposers whose proposals are known: right as often as is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Literal

from rsd_integrations.speculation.proposals import Proposal
from rsd_integrations.speculation.proposers import Proposer, ProposerState


class Scripted(Proposer):
    """Proposes a known continuation, with mistakes, as a chain or as a tree.

    Args:
        text: The tokens that follow the prefix.
        right: How likely a proposed token is the known one.
        tree: Whether other tokens stand beside it, and go on as well.
        words: Other tokens are below this.
    """

    kind: Literal["scripted"] = "scripted"
    text: tuple[int, ...] = ()
    right: float = 0.8
    tree: bool = False
    words: int = 200

    def begin(self, prefix: Sequence[int], seed: int) -> ScriptedState:
        return ScriptedState(self, Random(f"{seed} {len(prefix)}"))


class ScriptedState(ProposerState):
    def __init__(self, script: Scripted, random: Random) -> None:
        self._script, self._random, self.emitted = script, random, list[int]()

    def accept(self, ids: Sequence[int]) -> None:
        self.emitted += ids

    def propose(self, count: int) -> Proposal:
        script, random = self._script, self._random
        known = script.text[len(self.emitted) : len(self.emitted) + count]
        tokens, parents, last = list[int](), list[int](), -1
        for token in known:
            others = [random.randrange(script.words) for _ in range(random.randrange(3))] if script.tree else []
            at = random.randrange(len(others) + 1)
            row = [
                *others[:at],
                token if random.random() < script.right else random.randrange(script.words),
                *others[at:],
            ]
            begin = len(tokens)
            tokens += row
            parents += [last] * len(row)
            last = begin + at
        if script.tree and tokens:  # a branch that continues next to the known text
            tokens += [random.randrange(script.words), random.randrange(script.words)]
            parents += [0, len(tokens) - 2]
        return Proposal(tuple(tokens), tuple(parents) if script.tree else None)
