"""GGUF models in an engine: forward passes and sampling."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsd_core import Sampling
from rsd_integrations.inprocess.calls import Call, Output, SampledRow
from rsd_integrations.inprocess.generate_call import GenerateRow
from rsd_integrations.inprocess.runner import Runner, ScheduledRow
from rsd_integrations.inprocess.sequences import CachedSequence
from rsd_integrations.llamacpp.context import Context
from rsd_integrations.llamacpp.output import NumpyOutput, log_total
from rsd_integrations.llamacpp.sampling import choose
from rsd_integrations.llamacpp.store import NumberedSequence, UnifiedStore

logger = logging.getLogger(__name__)
OUTPUT_BYTES = 2**26
"""Maximum bytes of logits per forward pass."""
LONE_SECONDS = 0.001
"""How long a row decodes alone before the engine looks for others."""


class LlamaRunner(Runner):
    """Runs a GGUF model: the rows of all callers in one `llama_decode`."""

    store: UnifiedStore

    def __init__(self, context: Context, most_cells: int, longest: int) -> None:
        """Take over a context.

        Args:
            context: An empty one.
            most_cells: Its maximum size.
            longest: Maximum sequence length in tokens.
        """
        model = context.model
        super().__init__(model.file.name, UnifiedStore(context, most_cells), longest, "cpu", context.threads)
        self.model = model
        self.batch_invariant = context.separate
        """Whether rows are bitwise independent of the rest of the batch."""
        self._has_told = False
        self.most_outputs = max(1, OUTPUT_BYTES // (4 * model.vocab_size))

    def use_threads(self, count: int) -> None:
        self.store.context.use_threads(count)

    def start(self, call: Call[Any]) -> None:
        super().start(call)
        if not (self.batch_invariant or self._has_told) and len(self._calls) > 1:
            self._has_told = True
            logger.info(
                "%s: concurrent requests change the last digits of each other's numbers, and now and then a word; "
                "batch_invariant=true prevents that if the file's types allow it",
                self.kind,
            )

    def step(self) -> None:
        if len(self._calls) == 1 and len(self._calls[0].rows) == 1:
            (row,) = self._calls[0].rows
            if (
                isinstance(row, GenerateRow)
                and row.step.sampled
                and row.pending == 1
                and not row.call.cancelled
                and self._decode_lone(row)
            ):
                return
        super().step()

    def _decode_lone(self, row: GenerateRow) -> bool:
        """Decode tokens of a row that runs alone: the same results as by steps, without batch overhead.

        A small model takes about thirty microseconds per token, less than the bookkeeping of a batch. False if there is
        no room.
        """
        call, sequence, ids, context = row.call, row.sequence, row.ids, self.store.context
        number, sampling, first = _number(sequence), row.call.request.sampling, len(ids) - 1
        sequence.touch()
        sequence.last_output = None
        began, over = time.perf_counter(), False
        until, fault = began + LONE_SECONDS, None
        try:
            while not (over or call.cancelled or fault or time.perf_counter() > until):
                position = len(ids) - 1
                logits = context.decode_one(number, position, ids[position])
                if logits is None:
                    break
                sequence.ids.append(ids[position])
                uniform = row.uniforms(1)[0] if sampling.temperature else 0.0
                token = choose(_possible(row, logits), sampling, uniform)
                largest = logits.max() if sampling.temperature else logits[token]
                try:
                    over = row.append(token, float(logits[token]) - log_total(logits, largest))
                except Exception as error:  # a splitter's
                    fault = error
        finally:
            computed, seconds = len(sequence.ids) - first, time.perf_counter() - began
            self._note(computed, seconds)
            call.charge(first, computed, seconds)
        row.output_positions = [len(ids) - 1]
        if fault is not None:
            call.fail(fault)
        elif over:
            call.finish(row)
        self._drop_ended()
        return computed > 0

    def _compute(self, scheduled: Sequence[ScheduledRow]) -> NumpyOutput:
        context = self.store.context
        wanted = sum(part.outputs for part in scheduled)
        if context.with_hidden and wanted and sum(part.new for part in scheduled) > self.most_outputs:
            scheduled = self._read_ahead(scheduled)
        spans: list[tuple[int, int, Sequence[int]]] = []
        places: list[int] = []
        begin = 0
        for row, cached, new, outputs in scheduled:
            if outputs:
                places += [begin + position - cached for position in row.output_positions[:outputs]]
            spans.append((_number(row.sequence), cached, row.ids[cached : cached + new]))
            begin += new
        self._decode(spans, places)
        self.store.settle()
        if context.with_hidden:
            return NumpyOutput(context.hidden(wanted), None)
        return NumpyOutput(None, context.logits(wanted))

    def _read_ahead(self, scheduled: Sequence[ScheduledRow]) -> list[ScheduledRow]:
        """Read the tokens before the first output of each row; return the rest.

        The library computes hidden states and logits for all tokens of a decode or none, and that many logits take more
        memory than a model.
        """
        ahead, left = list[tuple[int, int, Sequence[int]]](), list[ScheduledRow]()
        for row, cached, new, outputs in scheduled:
            end = row.output_positions[0] if outputs else cached + new
            if end > cached:
                ahead.append((_number(row.sequence), cached, row.ids[cached:end]))
            if outputs:
                left.append(ScheduledRow(row, end, cached + new - end, outputs))
        if ahead:
            self._decode(ahead, ())
        return left

    def _decode(self, spans: Sequence[tuple[int, int, Sequence[int]]], places: Sequence[int]) -> None:
        if not self.store.context.decode(spans, places):
            count = sum(len(ids) for _, _, ids in spans)
            raise RuntimeError(f"{self.kind}: no room for {count} tokens although room was reserved")

    def _sample(self, output: Output, rows: Sequence[tuple[SampledRow, range]]) -> list[tuple[int, float]]:
        logits = output.logits
        sampled: list[tuple[int, float]] = []
        for row, places in rows:
            sampling: Sampling = row.sampling
            uniforms = row.uniforms(len(places)) if sampling.temperature else [0.0] * len(places)
            for place, uniform in zip(places, uniforms, strict=True):
                one = logits[place]
                token = choose(_possible(row, one), sampling, uniform)
                sampled.append((token, float(one[token]) - log_total(one, one.max())))
        return sampled


def _possible(row: SampledRow, logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits of what a row may write next."""
    return logits if row.place is None else np.where(row.place.allowed(len(logits)), logits, np.float32(-np.inf))


def _number(sequence: CachedSequence) -> int:
    assert isinstance(sequence, NumberedSequence)
    assert sequence.number is not None
    return sequence.number
