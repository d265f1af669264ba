"""GGUF models in an engine: their forward passes and their sampling."""

from __future__ import annotations

from collections.abc import Sequence

from rsd_core import Sampling
from rsd_integrations.inprocess.calls import Output
from rsd_integrations.inprocess.generate_call import GenerateRow
from rsd_integrations.inprocess.runner import Runner, ScheduledRow
from rsd_integrations.inprocess.sequences import CachedSequence
from rsd_integrations.llamacpp.context import Context
from rsd_integrations.llamacpp.output import NumpyOutput, log_totals
from rsd_integrations.llamacpp.sampling import choose
from rsd_integrations.llamacpp.store import NumberedSequence, UnifiedStore

OUTPUT_BYTES = 2**26
"""Most bytes of logits of a forward pass."""


class LlamaRunner(Runner):
    """Runs a GGUF model: the rows of all callers in one `llama_decode`."""

    store: UnifiedStore

    def __init__(self, context: Context, most_cells: int, longest: int, alone: bool) -> None:
        """Take over a context.

        Args:
            context: An empty one.
            most_cells: What it may grow to.
            longest: Longest sequence, in tokens.
            alone: Every row is computed by itself, so that no row depends on what runs beside it.
        """
        model = context.model
        super().__init__(model.file.name, UnifiedStore(context, most_cells), longest, "cpu", context.threads)
        self.model, self.alone = model, alone
        self.most_outputs = max(1, OUTPUT_BYTES // (4 * model.vocab_size))

    def use_threads(self, count: int) -> None:
        self.store.context.use_threads(count)

    def _compute(self, scheduled: Sequence[ScheduledRow]) -> NumpyOutput:
        if not self.alone:
            return self._decode(scheduled)
        first, *others = (self._decode([part]) for part in scheduled)
        return first.joined(others) if others else first

    def _decode(self, scheduled: Sequence[ScheduledRow]) -> NumpyOutput:
        spans: list[tuple[int, int, Sequence[int]]] = []
        places: list[int] = []
        begin = 0
        for row, cached, new, outputs in scheduled:
            if outputs:
                places += [begin + position - cached for position in row.output_positions[:outputs]]
            spans.append((_number(row.sequence), cached, row.ids[cached : cached + new]))
            begin += new
        context = self.store.context
        if not context.decode(spans, places):
            raise RuntimeError(f"{self.kind}: no room for {begin} tokens that there was room for")
        self.store.settle()
        count = len(places)
        return NumpyOutput(context.hidden(count) if context.with_hidden else None, context.logits(count))

    def _sample(self, output: Output, rows: Sequence[tuple[GenerateRow, range]]) -> list[tuple[int, float]]:
        logits = output.logits
        sampled: list[tuple[int, float]] = []
        for row, places in rows:
            sampling: Sampling = row.call.request.sampling
            uniforms = row.uniforms(len(places)) if sampling.temperature else [0.0] * len(places)
            for place, uniform in zip(places, uniforms, strict=True):
                one = logits[place : place + 1]
                token = choose(one[0], sampling, uniform)
                sampled.append((token, float(one[0, token] - log_totals(one)[0])))
        return sampled


def _number(sequence: CachedSequence) -> int:
    assert isinstance(sequence, NumberedSequence)
    assert sequence.number is not None
    return sequence.number
