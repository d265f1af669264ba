"""GGUF models in an engine: their forward passes and their sampling."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rsd_core import Sampling
from rsd_integrations.inprocess.calls import Output
from rsd_integrations.inprocess.generate_call import GenerateRow
from rsd_integrations.inprocess.runner import AVERAGED_PASSES, Runner, ScheduledRow
from rsd_integrations.inprocess.sequences import CachedSequence
from rsd_integrations.llamacpp.context import Context
from rsd_integrations.llamacpp.output import NumpyOutput, log_total
from rsd_integrations.llamacpp.sampling import choose
from rsd_integrations.llamacpp.store import NumberedSequence, UnifiedStore

OUTPUT_BYTES = 2**26
"""Most bytes of logits of a forward pass."""


class LlamaRunner(Runner):
    """Runs a GGUF model: the rows of all callers in one `llama_decode`."""

    store: UnifiedStore

    def __init__(self, context: Context, most_cells: int, longest: int) -> None:
        """Take over a context.

        Args:
            context: An empty one.
            most_cells: What it may grow to.
            longest: Longest sequence, in tokens.
        """
        model = context.model
        super().__init__(model.file.name, UnifiedStore(context, most_cells), longest, "cpu", context.threads)
        self.model = model
        self.most_outputs = max(1, OUTPUT_BYTES // (4 * model.vocab_size))

    def use_threads(self, count: int) -> None:
        self.store.context.use_threads(count)

    def step(self) -> None:
        if len(self._calls) == 1 and len(self._calls[0].rows) == 1:
            (row,) = self._calls[0].rows
            if isinstance(row, GenerateRow) and row.step.sampled and row.pending == 1 and self._decode_lone(row):
                return
        super().step()

    def _decode_lone(self, row: GenerateRow) -> bool:
        """One token of a row that nothing runs beside: the same as any step, without what batches need.

        A small model takes some thirty microseconds for a token, less than the bookkeeping of a batch.
        """
        began, call, sequence, ids = time.perf_counter(), row.call, row.sequence, row.ids
        position = len(ids) - 1
        if call.cancelled or not self.store.reserve(sequence, position + 1):
            return False
        logits = self.store.context.decode_one(_number(sequence), position, ids[position])
        self.store.settle()
        if logits is None:
            return False
        self.passes += 1
        sequence.last_output = None
        sequence.ids.append(ids[position])
        sampling = call.request.sampling
        token = choose(logits, sampling, row.uniforms(1)[0] if sampling.temperature else 0.0)
        sampled = token, float(logits[token]) - log_total(logits)
        row.output_positions.clear()
        seconds = time.perf_counter() - began
        self.pass_seconds += (seconds - self.pass_seconds) / AVERAGED_PASSES
        call.charge(position, 1, seconds)
        try:
            if row.extend((sampled,)):
                call.finish(row)
        except Exception as fault:  # a splitter's
            call.fail(fault)
        self._drop_ended()
        return True

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
        self._run(spans, places)
        self.store.settle()
        if context.with_hidden:
            return NumpyOutput(context.hidden(wanted), None)
        return NumpyOutput(None, context.logits(wanted))

    def _read_ahead(self, scheduled: Sequence[ScheduledRow]) -> list[ScheduledRow]:
        """Read what comes before the first output of each row; what is left.

        The library computes hidden states and logits of all tokens of a decode or of none, and logits of so many take
        more memory than a model.
        """
        ahead, left = list[tuple[int, int, Sequence[int]]](), list[ScheduledRow]()
        for row, cached, new, outputs in scheduled:
            end = row.output_positions[0] if outputs else cached + new
            if end > cached:
                ahead.append((_number(row.sequence), cached, row.ids[cached:end]))
            if outputs:
                left.append(ScheduledRow(row, end, cached + new - end, outputs))
        if ahead:
            self._run(ahead, ())
        return left

    def _run(self, spans: Sequence[tuple[int, int, Sequence[int]]], places: Sequence[int]) -> None:
        if not self.store.context.decode(spans, places):
            count = sum(len(ids) for _, _, ids in spans)
            raise RuntimeError(f"{self.kind}: no room for {count} tokens that there was room for")

    def _sample(self, output: Output, rows: Sequence[tuple[GenerateRow, range]]) -> list[tuple[int, float]]:
        logits = output.logits
        sampled: list[tuple[int, float]] = []
        for row, places in rows:
            sampling: Sampling = row.call.request.sampling
            uniforms = row.uniforms(len(places)) if sampling.temperature else [0.0] * len(places)
            for place, uniform in zip(places, uniforms, strict=True):
                one = logits[place]
                token = choose(one, sampling, uniform)
                sampled.append((token, float(one[token]) - log_total(one)))
        return sampled


def _number(sequence: CachedSequence) -> int:
    assert isinstance(sequence, NumberedSequence)
    assert sequence.number is not None
    return sequence.number
