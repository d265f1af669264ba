"""Runs one model of an engine, whose calls share its forward passes."""

from __future__ import annotations

import itertools
import logging
import time
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, NamedTuple

from rsd_integrations.inprocess.calls import Call, Output, Row, SampledRow
from rsd_integrations.inprocess.path_cache import PathCache
from rsd_integrations.inprocess.score_call import ScoreRow
from rsd_integrations.inprocess.sequences import Store

logger = logging.getLogger(__name__)
PREFILL_CHUNK = 512
"""Maximum prefill tokens in one forward pass; longer prefixes take several, together with other rows."""
AVERAGED_PASSES = 8
"""Number of forward passes over which their time is averaged."""


class ScheduledRow(NamedTuple):
    """A row's part of a forward pass."""

    row: Row
    cached: int
    new: int
    """Tokens computed in the pass, after the cached ones."""
    outputs: int
    """Number of outputs that the row needs from them."""


@dataclass(slots=True)
class PassResult:
    """What rows continue with: outputs of a forward pass, or of earlier ones if a row finds them in the cache."""

    generating: list[tuple[SampledRow, range]] = field(default_factory=list)
    """Rows that sample tokens, each with the positions of its logits: several if tokens were guessed."""
    outputs: list[Output] = field(default_factory=list)
    """The outputs that these positions index, in order."""
    scored: list[ScoreRow] = field(default_factory=list)
    """Rows that were read completely."""


class Runner(ABC):
    """Runs one model for all callers: scheduled rows share each forward pass.

    After its creation, only one thread of the engine uses it at a time.
    """

    dtype: str | None = None
    """Dtype of the model's weights, if its library reports it."""

    def __init__(self, name: str, store: Store, context: int, device: object, threads: int) -> None:
        """Create a runner without calls.

        Args:
            name: The model, for the log.
            store: The store of its keys and values.
            context: Maximum sequence length in tokens.
            device: Its device; models on one device take turns, or share its cores.
            threads: Threads per operation on a CPU.
        """
        self.kind, self.store, self.context, self.device, self.threads = name, store, context, device, threads
        self.cache = PathCache()
        """For users that read paths as plain tokens; a verifier with an input format has a separate cache."""
        self.passes = 0
        """Forward passes so far."""
        self.most_outputs = 2**31
        """Maximum positions with outputs in a forward pass, for libraries that allocate memory for them."""
        self.pass_seconds = 1e-3
        """Recent average of seconds per forward pass."""
        self._calls: list[Call[Any]] = []
        self._stuck = False
        """Whether resting rows left no room for any row in the last pass: all wait until one of these continues."""

    @abstractmethod
    def use_threads(self, count: int) -> None:
        """Set the number of threads from the next forward pass on."""

    @abstractmethod
    def _compute(self, scheduled: Sequence[ScheduledRow]) -> Output:
        """Run one forward pass; returns the outputs at all requested positions, in the order of the rows."""

    @abstractmethod
    def _sample(self, output: Output, rows: Sequence[tuple[SampledRow, range]]) -> list[tuple[int, float]]:
        """Sample tokens for decoding rows at their positions of an output, with log-probabilities."""

    @property
    def waiting_rows(self) -> int:
        """Number of rows that wait for a forward pass and may get one."""
        return 0 if self._stuck else sum(not row.resting for call in self._calls for row in call.rows)

    @property
    def resting_rows(self) -> int:
        """Rows that wait for another model."""
        return sum(row.resting for call in self._calls for row in call.rows)

    def start(self, call: Call[Any]) -> None:
        """Accept a call."""
        self._calls.append(call)
        call.start(self.store)

    def fail(self, error: BaseException) -> None:
        """End all calls with an error, each with its work so far."""
        calls, self._calls = self._calls, []
        if calls:
            logger.warning("%d calls of %s failed: %s: %s", len(calls), self.kind, type(error).__name__, error)
            logger.debug("where they failed; the KV cache is cleared", exc_info=error)
        for call in calls:
            call.fail(error)
        self.store.clear()

    def step(self) -> None:
        """Run one forward pass: a token for every decoding row, a chunk of prefill for the others."""
        # Cancelled calls end here, before rows are scheduled, so that no row of a pass belongs to an ended call.
        for call in self._calls:
            if call.cancelled:
                call.interrupt()
        self._drop_ended()
        began = time.perf_counter()
        scheduled = self._schedule()
        cached = [row for call in self._calls for row in call.rows if not (row.pending or row.resting)]
        output = self._forward(scheduled) if scheduled else None
        try:
            result = self._collect(scheduled, output)
            self._collect_cached(cached, result)
            self._stuck = not (scheduled or result.generating or result.scored) and self._calls != []
            if self._stuck and not any(row.resting for call in self._calls for row in call.rows):
                raise RuntimeError("rows wait, and none of them can run")
            sampled = iter(self._sample_all(result))
            faulty = _set_rewards([row for row in result.scored if row.layout is not None])
        finally:  # even if something fails after the forward pass, its tokens were computed
            self._charge(scheduled, time.perf_counter() - began)
        for row, places in result.generating:
            tokens = list(itertools.islice(sampled, len(places)))
            try:
                if row.call not in faulty and row.extend(tokens):
                    row.call.finish(row)
            except Exception as fault:  # the splitter's fault, not the model's: other callers continue
                faulty[row.call] = fault
        for call, error in faulty.items():
            call.fail(error)
        for reader in result.scored:
            if reader.call in faulty:
                continue
            if reader.layout is None:
                reader.call.fork(reader, self.store)
            else:
                reader.call.finish(reader)
        self._drop_ended()

    def _charge(self, scheduled: list[ScheduledRow], seconds: float) -> None:
        """Divide the time of a pass by each row's work."""
        if scheduled:
            self._note(1, seconds)
        work = self._work(scheduled)
        share = seconds / max(1, sum(work))
        for (row, cached, new, _), own in zip(scheduled, work, strict=True):
            row.call.charge(cached, new, share * own)

    def _work(self, scheduled: Sequence[ScheduledRow]) -> Sequence[float]:
        """Each row's work in the last pass, in any unit: here its tokens."""
        return [part.new for part in scheduled]

    def _note(self, passes: int, seconds: float) -> None:
        """Count forward passes, and update their average time."""
        self.passes += passes
        if passes:
            self.pass_seconds += (seconds / passes - self.pass_seconds) / AVERAGED_PASSES

    def _drop_ended(self) -> None:
        self._calls = [call for call in self._calls if call.rows]

    def _schedule(self) -> list[ScheduledRow]:
        """The rows of the next forward pass, oldest requests first, as long as there is room."""
        scheduled: list[ScheduledRow] = []
        room, outputs_left = PREFILL_CHUNK, self.most_outputs
        rows = (row for call in self._calls for row in call.rows if not row.resting)
        for row in sorted(rows, key=attrgetter("sequence.arrival")):
            new = row.pending
            cached = len(row.sequence.ids)
            if new > 1:
                if not (row.whole and cached >= row.output_positions[0]):
                    new = min(new, room)
                room = max(0, room - new)
            outputs = bisect_left(row.output_positions, cached + new)
            if row.whole and outputs < len(row.output_positions):
                new, outputs = min(new, row.output_positions[0] - cached), 0
            if outputs > outputs_left:  # up to the first excess output
                outputs = outputs_left
                new = row.output_positions[outputs] - cached
            if new > 0 and self.store.reserve(row.sequence, cached + new):
                outputs_left -= outputs
                scheduled.append(ScheduledRow(row, cached, new, outputs))
        return scheduled

    def _collect(self, scheduled: list[ScheduledRow], output: Output | None) -> PassResult:
        """Distribute the outputs of a forward pass."""
        result = PassResult()
        if output is not None and output.logits is not None:
            result.outputs.append(output)
        begin = 0
        for row, _, _, count in scheduled:
            end = begin + count
            if isinstance(row, SampledRow) and count:
                del row.output_positions[:count]
                result.generating += [(twin, range(begin, end)) for twin in row.ready(self.store)]
            elif isinstance(row, ScoreRow):
                if count and output is not None:
                    row.add(output.part(begin, end), count)
                if not row.pending:
                    result.scored.append(row)
            begin = end
        return result

    def _collect_cached(self, rows: list[Row], result: PassResult) -> None:
        """Add rows that need no forward pass, since everything they need is cached."""
        for row in rows:
            if row.pending:  # preempted for a row of this pass
                continue
            if isinstance(row, ScoreRow):
                result.scored.append(row)
            elif isinstance(row, SampledRow):
                begin = sum(len(part) for part in result.outputs)
                result.outputs.append(row.sequence.last_output)
                result.generating += [(twin, range(begin, begin + 1)) for twin in row.ready(self.store)]

    def _forward(self, scheduled: list[ScheduledRow]) -> Output:
        """Run the scheduled rows."""
        output = self._compute(scheduled)
        for row, cached, new, _ in scheduled:
            row.sequence.last_output = None
            row.sequence.ids += row.ids[cached : cached + new]
        return output

    def _sample_all(self, result: PassResult) -> list[tuple[int, float]]:
        if not result.generating:
            return []
        first, *others = result.outputs
        return self._sample(first.joined(others) if others else first, result.generating)


def _set_rewards(rows: Sequence[ScoreRow]) -> dict[Call[Any], Exception]:
    """Set the rewards of rows, all at once for each verifier; returns the calls whose verifier failed.

    A failing reward head is not the model's fault, so other callers continue.
    """
    groups = defaultdict(list)
    for row in rows:
        groups[row.call.rewards].append(row)
    faulty: dict[Call[Any], Exception] = {}
    for rewards_of, group in groups.items():
        try:
            rewards = rewards_of([(_joined(row.outputs), row.layout) for row in group if row.layout is not None])
            for row, reward in zip(group, rewards, strict=True):
                row.reward = reward
        except Exception as error:
            logger.warning("the rewards of %d candidates failed: %s: %s", len(group), type(error).__name__, error)
            logger.debug("where they failed", exc_info=error)
            faulty |= dict.fromkeys((row.call for row in group), error)
    return faulty


def _joined(outputs: Sequence[Output]) -> Output:
    return outputs[0] if len(outputs) == 1 else outputs[0].joined(outputs[1:])
