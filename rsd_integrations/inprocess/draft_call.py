"""Drafts for a speculating target: a row that rests while its draft is verified."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rsd_core import Generation, Path, Sampling, Usage
from rsd_integrations.inprocess.calls import Call, SampledRow
from rsd_integrations.inprocess.generate_call import Numbers
from rsd_integrations.inprocess.path_cache import PathCache, shared
from rsd_integrations.inprocess.sequences import CachedSequence, Store

Draft = Callable[[tuple[int, ...], Any], None]
"""Receives a draft: its tokens, and q if they were sampled; see `Proposal.draft`."""


class DraftRow(SampledRow):
    """The one row of a `DraftCall`."""

    call: DraftCall

    def __init__(self, call: DraftCall, sequence: CachedSequence, prefix: Sequence[int]) -> None:
        super().__init__(call, sequence, list(prefix), ())
        self.sampling = call.sampling
        self.rest()
        self.draft: Any = None
        """q of the present draft's tokens, if they are sampled: set by the runner."""
        self._prefix = self._settled = len(prefix)
        """Number of ids before the draft."""
        self._count = 0

    def begin(self, at: int, ids: Sequence[int], count: int) -> None:
        """Draft `count` tokens after `ids`, which follow the first `at` ids."""
        right = self.settle(at, ids)
        self._settled, self._count, self.draft = len(self.ids), count, None
        self.sequence.truncate(min(right, self._settled - 1))  # the last drafted token was never computed
        self.output_positions = [self._settled - 1]
        self.wake()

    def settle(self, at: int, ids: Sequence[int]) -> int:
        """Replace the draft by the tokens that the target emitted; returns the length up to which the two agree."""
        before, end = self.ids[at:], len(self.ids)
        self.ids[at:] = ids
        right = at + shared(before, self.ids[at:])
        self.call.discarded += end - max(right, self._settled)
        return right

    def uniforms(self, count: int) -> list[float]:
        position = len(self.ids) - self._prefix
        return self.call.numbers(position, position + count)

    def extend(self, sampled: Sequence[tuple[int, float]]) -> bool:
        ((token, _),) = sampled
        self.ids.append(token)
        self.call.generated += 1
        if len(self.ids) - self._settled == self._count or token in self.call.eos_ids:
            self.rest()
            self.call.hand_over(tuple(self.ids[self._settled :]), self.draft)
        else:
            self.output_positions = [len(self.ids) - 1]
        return False


class DraftCall(Call[Generation]):
    """Drafts after a path for as long as the target continues it; ends on request."""

    def __init__(
        self,
        path: Path,
        cache: PathCache,
        prefix: Sequence[int],
        seed: int,
        sampling: Sampling,
        eos_ids: frozenset[int],
    ) -> None:
        """Prepare to draft.

        Args:
            path: The path that the target continues.
            cache: The drafter's computed sequences.
            prefix: Ids of the path.
            seed: Seed of the step; drafts have separate random numbers.
            sampling: The target's sampling.
            eos_ids: Ids that end a draft.
        """
        super().__init__(path, cache)
        self.sampling, self.eos_ids, self.generated, self.discarded = sampling, eos_ids, 0, 0
        self.numbers = Numbers(f"{seed} draft")
        self.hand_over: Draft
        """Receives each draft: set by the requester, like `on_failure`."""
        self.on_failure: Callable[[BaseException], None]
        self._prefix = prefix

    def start(self, store: Store) -> None:
        sequence = self.cache.claim(self.path, list(self._prefix)) or store.sequence()
        sequence.truncate(len(self._prefix) - 1)
        self.reused = len(sequence.ids)
        self.rows.append(DraftRow(self, sequence, self._prefix))

    def draft(self, at: int, ids: Sequence[int], count: int) -> None:
        """Draft `count` tokens after `ids`, unless the call has ended.

        Args:
            at: Number of unchanged ids of the path and of the tokens emitted since.
            ids: The ids after them.
            count: Number of tokens to draft.
        """
        for row in self.rows:
            assert isinstance(row, DraftRow)
            row.begin(at, ids, count)

    def end(self, at: int, ids: Sequence[int]) -> None:
        """Stop drafting; the ids are given as in `draft`."""
        for row in tuple(self.rows):
            assert isinstance(row, DraftRow)
            row.settle(at, ids)
            self.finish(row)

    def fail(self, error: BaseException) -> None:
        super().fail(error)
        self.on_failure(error)

    def answer(self) -> Generation:
        return Generation((), self.usage)

    @property
    def usage(self) -> Usage:
        return Usage(
            len(self._prefix), self.computed, self.reused, self.generated, seconds=self.seconds,
            discarded=self.discarded,
        )  # fmt: skip

    def release(self) -> None:
        """Nothing to drop: only the requester refers to the call."""
