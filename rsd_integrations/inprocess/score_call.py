"""Scores candidates for the step that follows a path: one row per candidate, after one for their shared prefix."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from rsd_core import Path, Scores, Usage
from rsd_integrations.inprocess.calls import Call, Output, Row
from rsd_integrations.inprocess.path_cache import PathCache
from rsd_integrations.inprocess.sequences import CachedSequence, Store
from rsd_integrations.prm_formats import Layout

RewardFunction = Callable[[Sequence[tuple[Output, Layout]]], Sequence[float]]
"""Maps the model's outputs at the read positions of some candidates to their rewards."""


class ScoreRow(Row):
    """One candidate being read; or, without a layout, the prefix that several candidates share."""

    call: ScoreCall

    def __init__(
        self,
        call: ScoreCall,
        sequence: CachedSequence,
        ids: list[int],
        output_positions: Iterable[int],
        layout: Layout | None,
    ) -> None:
        super().__init__(call, sequence, ids, output_positions)
        self.layout = layout
        self.reward = 0.0
        self.outputs: list[Output] = []
        """The outputs at the read positions so far."""
        self._last_position = -1
        """The last of those positions."""
        cached = len(sequence.ids)
        if self.output_positions and self.output_positions[0] < cached:
            # Hidden states and logits are kept only for a sequence's last token. If an earlier one is needed, it is
            # computed again with everything after it.
            if sequence.last_output is not None and self.output_positions[0] == cached - 1:
                self.add(sequence.last_output, 1)
            else:
                sequence.truncate(self.output_positions[0])

    def add(self, output: Output, count: int) -> None:
        """Add the outputs at the next `count` read positions, at least one."""
        self._last_position = self.output_positions[count - 1]
        self.outputs.append(output)
        del self.output_positions[:count]

    def keep_last_output(self) -> None:
        """Keep the output at the sequence's end, from which the next call may continue.

        A row that was cancelled, or preempted since, ends elsewhere and keeps nothing.
        """
        if self.outputs and self._last_position == len(self.sequence.ids) - 1:
            self.sequence.last_output = self.outputs[-1].last()


class ScoreCall(Call[Scores]):
    """Scores candidates for the step that follows a path. Their shared prefix is computed once."""

    def __init__(
        self,
        path: Path,
        cache: PathCache,
        prefix: list[int],
        prompt: int,
        layouts: Sequence[Layout],
        rewards: RewardFunction,
    ) -> None:
        """Request scores.

        Args:
            path: The path that the candidates follow.
            cache: The computed sequences of paths.
            prefix: Ids of the path.
            prompt: Number of prompt ids among them.
            layouts: The input of each candidate, at least one.
            rewards: Maps outputs to rewards; equal functions are called once for all candidates.
        """
        super().__init__(path, cache)
        self.rewards = rewards
        self._prefix, self._prompt, self._layouts = prefix, prompt, layouts
        self._candidates: list[ScoreRow] = []
        self._scored = 0

    def start(self, store: Store) -> None:
        alone = self._layouts[0].feed if len(self._layouts) == 1 else ()
        sequence = self.cache.claim(self.path, [*self._prefix, *alone]) or store.sequence()
        if len(self._layouts) == 1:
            self._add(sequence, self._layouts[0])
            self.reused = len(sequence.ids)
            return
        looks_back = any(-1 in layout.read for layout in self._layouts)
        row = ScoreRow(self, sequence, self._prefix, [len(self._prefix) - 1] if looks_back else [], None)
        self.rows.append(row)
        self.reused = len(sequence.ids)
        if not row.pending:
            self.fork(row, store)

    def fork(self, row: ScoreRow, store: Store) -> None:
        """Create a row per candidate after the prefix is computed; one without room for a copy computes it itself."""
        self.rows.remove(row)
        row.keep_last_output()  # before the sequence is copied: candidates may be scored by it
        copies = [store.branch(row.sequence) for _ in self._layouts[1:]]
        for sequence, layout in zip((row.sequence, *copies), self._layouts, strict=True):
            self._add(sequence or store.sequence(), layout)

    def charge(self, cached: int, new: int, seconds: float) -> None:
        super().charge(cached, new, seconds)
        self._scored += max(0, cached + new - max(cached, self._prompt))

    def finish(self, row: Row) -> None:
        assert isinstance(row, ScoreRow)
        row.keep_last_output()
        if row.layout is not None:  # roll back tokens fed only to read the score
            row.sequence.truncate(len(self._prefix) + len(row.layout.kept))
        super().finish(row)

    def answer(self) -> Scores:
        rewards = tuple(row.reward for row in self._candidates)
        return Scores(rewards, self.usage)

    @property
    def usage(self) -> Usage:
        prefix = len(self._prefix) + max(len(layout.kept) for layout in self._layouts)
        return Usage(prefix, self.computed, self.reused, 0, self._scored, self.seconds)

    def release(self) -> None:
        self._candidates.clear()

    def _add(self, sequence: CachedSequence, layout: Layout) -> None:
        begin = len(self._prefix)
        positions = [begin + offset for offset in layout.read]
        row = ScoreRow(self, sequence, [*self._prefix, *layout.feed], positions, layout)
        self._candidates.append(row)
        self.rows.append(row)
