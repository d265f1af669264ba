"""Forward passes that end once exits agree; their tokens are deferred, and go deeper only when necessary.

The layers run in segments, one up to each head and one to the end. Where a step exits, its tokens stop: they have no
keys and values in the layers above, and keep the state from which they would continue. When a later step of the same
path goes deeper, its attention needs theirs, so they run the missing layers first, in the same pass. Prompts are
deferred too. Whether a step exits is decided by its own states, which depend only on path and step, so rewards are the
same as without deferral.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rsd_core import ConfigurationError, Path, Usage
from rsd_core.model import Model
from rsd_integrations.huggingface.attention import Batch
from rsd_integrations.huggingface.bare_model import BareModel
from rsd_integrations.huggingface.early_exit import Exits
from rsd_integrations.huggingface.heads import RewardHead
from rsd_integrations.huggingface.kv_store import SlotSequence
from rsd_integrations.huggingface.output import TorchOutput
from rsd_integrations.huggingface.runner import TorchRunner
from rsd_integrations.inprocess.calls import Output, Row
from rsd_integrations.inprocess.path_cache import PathCache
from rsd_integrations.inprocess.runner import PREFILL_CHUNK, ScheduledRow
from rsd_integrations.inprocess.score_call import RewardFunction, ScoreCall
from rsd_integrations.prm_formats import Layout

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FIRST = 1
"""The first head at which a pass may end: two in a row must agree."""


class DeferringCall(ScoreCall):
    """Scores candidates and counts the layers run for them."""

    def __init__(
        self,
        path: Path,
        cache: PathCache,
        prefix: list[int],
        prompt: int,
        layouts: Sequence[Layout],
        rewards: RewardFunction,
        model: Model,
        depth: int,
    ) -> None:
        """See `ScoreCall`; also takes the model that is charged and its number of layers."""
        super().__init__(path, cache, prefix, prompt, layouts, rewards)
        self._model, self._depth = model, depth
        self.shared = len(prefix)
        """Tokens that the candidates have in common."""
        self.layers = 0
        """Layers run, summed over tokens."""

    @property
    def usage(self) -> Usage:
        """The tokens of the call, charged by the layers run for them and for deferred tokens before them."""
        usage = super().usage
        if not usage.computed or self._model.flops_per_token is None:
            return usage
        worker = Model()
        worker.name, worker.price, worker.dtype = self._model.name, self._model.price, self._model.dtype
        worker.flops_per_token = self._model.flops_per_token * self.layers / (self._depth * usage.computed)
        return replace(usage, parts=((worker, usage),))


@dataclass(slots=True)
class _Read:
    """The position of a score, on its way up the layers."""

    row: _Deferred
    position: int
    odds: float = 0.0
    """The last head's output, as log odds."""
    reward: float = 0.0
    layers: int = 0
    """Layers run for the reward; 0 until there is one."""


@dataclass(slots=True, eq=False)
class _Deferred:
    """A row's part of a pass."""

    row: Row
    call: DeferringCall
    sequence: SlotSequence
    end: int
    """Tokens of the sequence, including the new ones."""
    layers: int = 0
    """Layers run in this pass, summed over its tokens."""


class DeferringRunner(TorchRunner):
    """Runs the body of a reward model as deep as its exits require; passes return rewards, not states."""

    def __init__(
        self,
        model: PreTrainedModel | BareModel,
        head: RewardHead,
        exits: Exits,
        *,
        threads: int,
        budget: float | None = None,
    ) -> None:
        """Take over a body with its reward head and exits; otherwise like `TorchRunner`.

        Raises:
            ConfigurationError: The model does not run fused, so its passes cannot stop midway.
        """
        super().__init__(model, threads=threads, budget=budget, deferring=True)
        if self.fused is None:
            raise ConfigurationError(
                f"{type(model).__name__} runs its own modules, which cannot stop midway; exits need a plain "
                "Llama, Mistral, Qwen2 or Qwen3 body. Leave exits out."
            )
        self.depth = self.fused.depth
        """Layers of the body."""
        self.head, self.exits = head, exits
        self._segments = list(pairwise((0, *exits.rule.layers, self.depth)))
        self._row_layers: dict[int, int] = {}
        """Layers of the last pass, by the `id` of its rows, which refer to their calls and so are not kept."""
        self.tokens = self.layers = 0
        """Tokens computed so far, and layers run, summed over tokens."""
        self.read_at: Counter[int] = Counter()
        """Number of scores by the layers after which they were read."""

    @property
    def layers_share(self) -> float:
        """Layers computed so far as a share of full passes, in [0, 1]; 1 before the first pass."""
        return self.layers / (self.tokens * self.depth) if self.tokens else 1.0

    def _work(self, scheduled: Sequence[ScheduledRow]) -> Sequence[float]:
        return [self._row_layers[id(part.row)] for part in scheduled]

    def _compute(self, scheduled: Sequence[ScheduledRow]) -> TorchOutput:
        """Run one pass, as deep as each row needs.

        Returns:
            The reward at each output position and the layers run for it, [positions, 2], in place of hidden states.
        """
        rows, reads = list[_Deferred](), list[_Read]()
        for row, cached, new, outputs in scheduled:
            call, sequence = row.call, row.sequence
            assert isinstance(call, DeferringCall)
            assert isinstance(sequence, SlotSequence)
            sequence.done = sequence.done or [0] * len(self._segments)
            rows.append(_Deferred(row, call, sequence, cached + new))
            reads += [_Read(rows[-1], position) for position in row.output_positions[:outputs]]
        for index in range(len(self._segments)):
            waiting = [read for read in reads if not read.layers]
            if index <= FIRST:  # no pass ends before
                ends = {row: row.end for row in rows}
            else:  # the tokens that pending scores depend on
                ends = {read.row: read.position + 1 for read in waiting}
                self._run_shared(index, rows, waiting)
            self._run_segment(index, ends, waiting)
            if waiting:
                self._judge(index, waiting)
        self._row_layers = {id(one.row): one.layers for one in rows}
        for one in rows:
            one.call.layers += one.layers
            self.layers += one.layers
        self.tokens += sum(part.new for part in scheduled)
        self.read_at.update(read.layers for read in reads)
        found = torch.tensor([(read.reward, read.layers) for read in reads]).view(-1, 2)
        return TorchOutput(found, None)

    def _judge(self, index: int, reads: Sequence[_Read]) -> None:
        """Read scores after a segment: the last one's are the full model's, others count if two heads agree."""
        slots, positions = [_slot(read.row) for read in reads], [read.position for read in reads]
        states = self.store.states[0][slots, 0, positions]
        if index == len(self.exits.heads):
            for read, reward in zip(reads, self.head(states).tolist(), strict=True):
                read.reward, read.layers = reward, self.depth
            return
        odds = self.exits.log_odds(index, states)
        if index >= FIRST:
            before = torch.tensor([read.odds for read in reads], device=odds.device)
            agreed, rewards = self.exits.agree(before, odds).tolist(), odds.sigmoid().tolist()
            for read, over, reward in zip(reads, agreed, rewards, strict=True):
                if over:
                    read.reward, read.layers = reward, self.exits.rule.layers[index]
        for read, said in zip(reads, odds.tolist(), strict=True):
            read.odds = said

    def _run_shared(self, index: int, rows: Sequence[_Deferred], reads: Sequence[_Read]) -> None:
        """Run deferred tokens shared by the candidates of one call once for all of them.

        One of the candidates that go deeper runs them, and all get a copy, since any of them may be chosen.
        """
        families = defaultdict[DeferringCall, list[_Deferred]](list)
        for row in rows:
            families[row.call].append(row)
        copies: list[tuple[_Deferred, _Deferred]] = []
        ends: dict[_Deferred, int] = {}
        for call, family in families.items():
            own = [read for read in reads if read.row.call is call]
            if own and len(family) > 1:
                leader = max([read.row for read in own], key=lambda row: row.sequence.done[index])
                ends[leader] = call.shared  # no score is read before this
                copies += [(leader, row) for row in family if row is not leader]
        self._run_segment(index, ends, ())
        begin, end = self._segments[index]
        tensors = [*self.store.keys[begin:end], *self.store.values[begin:end], *self.store.states]
        for leader, row in copies:
            done = row.sequence.done[index]
            count = min(row.call.shared, row.sequence.done[index - 1])  # fewer if the row had no room yet
            if done < count:
                for tensor in tensors:
                    tensor[_slot(row), :, done:count] = tensor[_slot(leader), :, done:count]
                row.sequence.done[index] = count

    def _run_segment(self, index: int, ends: Mapping[_Deferred, int], reads: Sequence[_Read]) -> None:
        """Run a segment over each row's tokens that have not run it, up to the given end, and store their states.

        In the last segment, states are computed and stored only at the reads.
        """
        assert self.fused is not None
        (begin, end), kept = self._segments[index], self.store.states[0]
        wanted = {(read.row, read.position) for read in reads}
        for part in _chunks([(row, row.sequence.done[index], to) for row, to in ends.items()]):
            batch = Batch(
                self.store,
                [(_slot(row), start, stop - start) for row, start, stop in part],
                [id_ for row, start, stop in part for id_ in row.row.ids[start:stop]],
            )
            slots, positions = batch.places.slots, batch.places.positions
            x = kept[slots, 0, positions] if index else self.fused.embed(batch)
            indices: Tensor | None = None
            if end == self.depth:
                places = [(row, place) for row, start, stop in part for place in range(start, stop)]
                indices = torch.tensor([i for i, place in enumerate(places) if place in wanted], dtype=torch.long)
                indices = indices.to(x.device)
                slots, positions = slots[indices], positions[indices]
            kept[slots, 0, positions], _ = self.fused.run(batch, x, begin, end, indices)
            for row, start, stop in part:
                row.sequence.done[index] = stop
                row.layers += (end - begin) * (stop - start)


def rewards(candidates: Sequence[tuple[Output, Layout]]) -> list[float]:
    """Rewards of candidates, from the outputs of a `DeferringRunner`."""
    return [reward for output, _ in candidates for reward in output.hidden[:, 0].tolist()]


def _chunks(spans: Iterable[tuple[_Deferred, int, int]]) -> Iterator[list[tuple[_Deferred, int, int]]]:
    """Split spans of rows into batches of at most a pass's tokens, ordered as batches require."""
    chunk: list[tuple[_Deferred, int, int]] = []
    room = PREFILL_CHUNK
    for row, start, stop in spans:
        while start < stop:
            until = min(stop, start + room)
            chunk.append((row, start, until))
            room -= until - start
            start = until
            if not room:
                yield sorted(chunk, key=_place)
                chunk, room = [], PREFILL_CHUNK
    if chunk:
        yield sorted(chunk, key=_place)


def _place(part: tuple[_Deferred, int, int]) -> tuple[bool, int]:
    """Sort key: rows with one token first, by slot, as batches require."""
    row, start, stop = part
    return stop - start > 1, _slot(row)


def _slot(row: _Deferred) -> int:
    return row.sequence.slot or 0
