"""Sources of proposals: a drafter in the engine, or a proposer without a model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from rsd_core import Path, Step
from rsd_integrations.inprocess.draft_call import DraftCall
from rsd_integrations.inprocess.engine import post, start
from rsd_integrations.inprocess.language_model import LanguageModel
from rsd_integrations.inprocess.proposer_states import ProposerStates
from rsd_integrations.inprocess.runner import Runner
from rsd_integrations.inprocess.speculative_call import Source, SpeculativeRow
from rsd_integrations.speculation.proposals import Proposal
from rsd_integrations.speculation.proposers import Proposer, ProposerState


class ProposerSource(Source):
    """A proposer without a model."""

    def __init__(
        self, states: ProposerStates, path: Path, proposer: Proposer, prefix: Sequence[int], seed: int
    ) -> None:
        """Propose tokens after a path with the ids `prefix`, from a state that is claimed on the first request."""
        self._states, self._path, self._proposer, self._prefix, self._seed = states, path, proposer, prefix, seed
        self._state: ProposerState | None = None
        self._told = 0

    def ask(self, row: SpeculativeRow, emitted: Sequence[int], count: int) -> None:
        state = self._state or self._states.claim(self._path, self._proposer, self._prefix, self._seed)
        self._state = None  # not kept if the proposer fails
        state.accept(emitted[self._told :])
        self._told = len(emitted)
        row.propose(state.propose(count))
        self._state = state

    def close(self, emitted: Sequence[int]) -> None:
        if self._state is not None:
            self._state.accept(emitted[self._told :])
            self._states.put(self._path, self._proposer, self._state)
            self._state = None


class DrafterSource(Source):
    """A drafter: its row and the target's exchange tokens in the threads that run the two models."""

    def __init__(self, call: DraftCall, drafter: Runner, target: Runner, prefix: Sequence[int]) -> None:
        """Draft with a call that has not been started, of a model for which the path has the ids `prefix`."""
        self.call = call
        self._drafter, self._target, self._prefix = drafter, target, prefix
        self._told = 0
        self._started = self._closed = False

    def ask(self, row: SpeculativeRow, emitted: Sequence[int], count: int) -> None:
        at, ids = self._read(emitted)
        # The drafter reads all its drafted tokens except the last.
        count = min(count, self._drafter.context - at - len(ids) + 1)
        if count < 1:
            row.propose(Proposal(()))
            return
        row.rest()
        if not self._started:
            self._started = True
            self.call.hand_over = partial(self._hand_over, row)
            self.call.on_failure = partial(self._fail, row)
            start(self._drafter, self.call)
        post(self._drafter, partial(self.call.draft, at, ids, count))

    def close(self, emitted: Sequence[int]) -> None:
        if self._closed:
            return
        self._closed = True
        if self._started:
            post(self._drafter, partial(self.call.end, *self._read(emitted)))
        else:
            self.call.future.set_result(self.call.answer())

    def _read(self, emitted: Sequence[int]) -> tuple[int, Sequence[int]]:
        """The drafter's input for the emitted tokens: the number of its unchanged ids, and the ids after them."""
        at, self._told = self._told, len(emitted)
        return len(self._prefix) + at, tuple(emitted[at:])

    def _proposal(self, tokens: tuple[int, ...], draft: Any) -> Proposal:
        """The proposal to the target for a draft."""
        return Proposal(tokens, draft=draft)

    def _hand_over(self, row: SpeculativeRow, tokens: tuple[int, ...], draft: Any) -> None:
        post(self._target, partial(row.propose, self._proposal(tokens, draft)))

    def _fail(self, row: SpeculativeRow, error: BaseException) -> None:
        post(self._target, partial(row.call.stop, error))


class TextSource(DrafterSource):
    """A drafter with another vocabulary: drafter and target exchange text.

    The distribution of its drafts in the target's tokens is unknown, so a token is kept if it is the target's own,
    which is exact whatever is proposed.
    """

    def __init__(
        self, call: DraftCall, drafter: LanguageModel, target: LanguageModel, path: Path, prefix: Sequence[int]
    ) -> None:
        """Draft after a path; otherwise like `DrafterSource`."""
        super().__init__(call, drafter.runner, target.runner, prefix)
        self._path, self._own, self._other = path, drafter, target
        self._begun = self._other.vocabulary.ids.begun(path)

    def _read(self, emitted: Sequence[int]) -> tuple[int, Sequence[int]]:
        text, _ = self._other.vocabulary.read(emitted, self._begun)
        written = self._path.extend(Step(text, "length")) if text else self._path
        return 0, self._own.vocabulary.ids(written, goes_on=True)[0]

    def _proposal(self, tokens: tuple[int, ...], draft: Any) -> Proposal:  # noqa: ARG002 - q is over other tokens
        ended = tokens[-1:] if tokens[-1] in self._own.eos_ids else ()
        text, _ = self._own.vocabulary.read(tokens[: len(tokens) - len(ended)])
        with self._other.vocabulary.ids.lock:
            ids = self._other.vocabulary.following(text) if text else []
        return Proposal((*ids, *sorted(self._other.eos_ids)[: len(ended)]))
