"""Where proposals come from: a drafter of the engine, or a proposer without a model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from rsd_integrations.inprocess.draft_call import DraftCall
from rsd_integrations.inprocess.engine import post
from rsd_integrations.inprocess.runner import Runner
from rsd_integrations.inprocess.speculative_call import Source, SpeculativeRow
from rsd_integrations.speculation.proposals import Proposal
from rsd_integrations.speculation.proposers import ProposerState


class ProposerSource(Source):
    """A proposer without a model."""

    def __init__(self, state: ProposerState) -> None:
        self._state, self._told = state, 0

    def ask(self, row: SpeculativeRow, emitted: Sequence[int], count: int) -> None:
        self._state.accept(emitted[self._told :])
        self._told = len(emitted)
        row.propose(self._state.propose(count))

    def close(self, emitted: Sequence[int]) -> None:
        """There is nothing to be ended."""


class DrafterSource(Source):
    """A drafter: its row and the target's hand over to each other, by the threads that run the two models."""

    def __init__(self, call: DraftCall, drafter: Runner, target: Runner, prefix: int) -> None:
        """Draft by a call that nobody has started; of so many tokens is what both models read."""
        self.call = call
        self._drafter, self._target, self._room = drafter, target, drafter.context - prefix
        self._started = self._closed = False

    def ask(self, row: SpeculativeRow, emitted: Sequence[int], count: int) -> None:
        # The drafter reads all but the last of the tokens that it drafts.
        count = min(count, self._room - len(emitted) + 1)
        if count < 1:
            row.propose(Proposal(()))
            return
        row.resting = True
        if not self._started:
            self._started = True
            self.call.hand_over = partial(self._hand_over, row)
            self.call.on_failure = partial(self._fail, row)
            post(self._drafter, partial(self._drafter.start, self.call))
        post(self._drafter, partial(self.call.draft, tuple(emitted), count))

    def close(self, emitted: Sequence[int]) -> None:
        if self._closed:
            return
        self._closed = True
        if self._started:
            post(self._drafter, partial(self.call.end, tuple(emitted)))
        else:
            self.call.future.set_result(self.call.answer())

    def _hand_over(self, row: SpeculativeRow, tokens: tuple[int, ...], draft: Any) -> None:
        post(self._target, partial(row.propose, Proposal(tokens, draft=draft)))

    def _fail(self, row: SpeculativeRow, error: BaseException) -> None:
        post(self._target, partial(row.call.stop, error))
