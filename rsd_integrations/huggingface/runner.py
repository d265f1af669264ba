"""One model of an engine: its KV store, and the calls whose rows share its forward passes."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from rsd_core import Sampling
from rsd_integrations.huggingface import attention
from rsd_integrations.huggingface.attention import Batch
from rsd_integrations.huggingface.bare_model import BareModel
from rsd_integrations.huggingface.calls import Call, Output, Row
from rsd_integrations.huggingface.compatibility import PROBE_IDS, close, explained, plain_output, survey_attention
from rsd_integrations.huggingface.context import context_of
from rsd_integrations.huggingface.fused_decoder import FusedDecoder
from rsd_integrations.huggingface.generate_call import GenerateRow
from rsd_integrations.huggingface.kv_store import CachedSequence, KVStore
from rsd_integrations.huggingface.memory import CACHE_SHARE, free_memory, has_weight_copy, total_memory
from rsd_integrations.huggingface.path_cache import PathCache
from rsd_integrations.huggingface.sampling import choose
from rsd_integrations.huggingface.score_call import ScoreRow

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)
PREFILL_CHUNK = 512
"""Most tokens that prefill adds to one forward pass; longer prefixes take several, with other rows between them."""
SAMPLED_AT_ONCE = 64
"""Most tokens that are sampled at once, which takes memory for some copies of their logits."""
AVERAGED_PASSES = 8
"""Forward passes that the time of one is averaged over."""

_creation = threading.Lock()
_runners: WeakValueDictionary[int, Runner] = WeakValueDictionary()
"""By the identity of the model, which a runner keeps alive."""


class ScheduledRow(NamedTuple):
    """A row's part of a forward pass."""

    row: Row
    cached: int
    new: int
    """Tokens that the pass computes, after the cached ones."""
    outputs: int
    """How many of them have an output that the row wants."""


@dataclass(slots=True)
class PassResult:
    """What rows go on with: outputs of a forward pass, and of earlier ones where a row finds them in the cache."""

    generating: list[tuple[GenerateRow, range]] = field(default_factory=list)
    """Rows that sample tokens, each with the places of its logits: several where tokens were guessed."""
    logits: list[Tensor] = field(default_factory=list)
    scored: list[ScoreRow] = field(default_factory=list)
    """Rows that were read to their end."""


class Runner:
    """Runs one model for everybody who calls it: all rows that are scheduled share each forward pass.

    Once it is made, it is used by one thread of the engine at a time, and by nobody else.
    """

    @classmethod
    def of(cls, model: PreTrainedModel | BareModel, *, threads: int, budget: float | None = None) -> Runner:
        """The runner of a model, shared by all who use it; arguments and errors as for a new one."""
        with _creation:
            runner = _runners.get(id(model))
            if runner is None:
                runner = _runners[id(model)] = cls(model, threads=threads, budget=budget)
            return runner

    @torch.inference_mode()
    def __init__(self, model: PreTrainedModel | BareModel, *, threads: int, budget: float | None = None) -> None:
        """Take over a model.

        Args:
            model: A causal language model, or the body of one.
            threads: For each operation on a CPU.
            budget: Bytes for keys and values; by default an eighth of the device's memory.

        Raises:
            ConfigurationError: The model does not work this way: it keeps something other than keys and values, or
                its attention is of its own making.
        """
        self.model, self.device, self.threads = model, model.device, threads
        self.context = context_of(model.config)
        self.cache = PathCache()
        """For all who read paths as their own tokens; a verifier with an input format has a cache of its own."""
        self.passes = 0
        """Forward passes so far."""
        self.pass_seconds = 1e-3
        """Seconds that a forward pass took lately."""
        self._calls: list[Call[Any]] = []
        expected: Tensor | None = None
        if isinstance(model, BareModel):
            survey = model.survey()
        else:
            with explained(model):
                expected = plain_output(model)  # with the attention it was made for
                attention.register()
                model.set_attn_implementation(attention.NAME)
                survey = survey_attention(model)
        shapes = [survey.shapes[layer] for layer in sorted(survey.shapes)]
        self.store = KVStore(
            shapes, model.dtype, model.device, budget or total_memory(model.device) / CACHE_SHARE, self.context
        )
        weights = float(model.num_parameters() * model.dtype.itemsize)
        room = free_memory(model.device) - self.store.token_bytes * self.context
        self.fused = FusedDecoder.of(model, survey, has_weight_copy(weights, room, model.device))
        """Runs the model where it is of a plain kind; None where its own modules do."""
        if self.fused is not None and expected is not None and not close(self._probe(), expected):
            logger.warning(
                "%s runs by its own modules, more slowly: fused, it gives other results", type(model).__name__
            )
            self.fused = None
        self._head: nn.Module | None = None
        self._head_inputs: list[Tensor] = []
        """What the last forward pass by the modules gave to the output head."""
        if self.fused is None:
            assert expected is not None
            assert not isinstance(model, BareModel)
            self._head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
            if self._head is not None:
                self._head.register_forward_pre_hook(_capturing(self._head_inputs))
            with explained(model):
                if not close(self._probe(), expected):
                    raise ValueError("its results in a batch are others than alone")

    @property
    def waiting_rows(self) -> int:
        """Rows that wait for a forward pass."""
        return sum(len(call.rows) for call in self._calls)

    def start(self, call: Call[Any]) -> None:
        """Take a call in."""
        self._calls.append(call)
        call.start(self.store)

    def fail(self, error: BaseException) -> None:
        """End all calls with an error, each with the work it had done."""
        calls, self._calls = self._calls, []
        if calls:
            kind = type(self.model).__name__
            logger.warning("%d calls of %s failed: %s: %s", len(calls), kind, type(error).__name__, error)
            logger.debug("where they failed; the KV cache is cleared", exc_info=error)
        for call in calls:
            call.fail(error)
        self.store.clear()

    def step(self) -> None:
        """One forward pass: a token for every row that decodes, a chunk of prefill for the others."""
        # Cancelled calls end here, before rows are looked at, so that none of a pass is of an ended call.
        for call in self._calls:
            if call.cancelled:
                call.interrupt()
        self._drop_ended()
        began = time.perf_counter()
        scheduled = self._schedule()
        cached = [row for call in self._calls for row in call.rows if not row.pending]
        output = self._forward(scheduled) if scheduled else None
        try:
            result = self._collect(scheduled, output)
            self._collect_cached(cached, result)
            if not (scheduled or result.generating or result.scored) and self._calls:
                raise RuntimeError("rows wait, and none of them can run")
            sampled = iter(_sample(result))
            faulty = _set_rewards([row for row in result.scored if row.layout is not None])
        finally:  # whatever fails after the forward pass, its tokens were computed
            self._charge(scheduled, time.perf_counter() - began)
        for row, places in result.generating:
            tokens = list(itertools.islice(sampled, len(places)))
            try:
                if row.call not in faulty and row.extend(tokens):
                    row.call.finish(row)
            except Exception as fault:  # a splitter's, and no fault of the model: others who share it go on
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
        """Share out the time of a pass by the tokens that each row computed."""
        if scheduled:
            self.pass_seconds += (seconds - self.pass_seconds) / AVERAGED_PASSES
        share = seconds / max(1, sum(part.new for part in scheduled))
        for row, cached, new, _ in scheduled:
            row.call.charge(cached, new, share * new)

    def _drop_ended(self) -> None:
        self._calls = [call for call in self._calls if call.rows]

    def _schedule(self) -> list[ScheduledRow]:
        """The rows of the next forward pass, earliest arrivals first as long as there is room; in a batch's order."""
        scheduled: list[ScheduledRow] = []
        room = PREFILL_CHUNK
        for row in sorted((row for call in self._calls for row in call.rows), key=attrgetter("sequence.arrival")):
            new = row.pending
            if new > 1:
                new = min(new, room)
                room -= new
            cached = len(row.sequence.ids)
            if new > 0 and self.store.reserve(row.sequence, cached + new):
                scheduled.append(ScheduledRow(row, cached, new, bisect_left(row.output_positions, cached + new)))
        # After the loop, since slots move when room is made.
        return sorted(scheduled, key=lambda part: (part.new > 1, part.row.sequence.slot))

    def _collect(self, scheduled: list[ScheduledRow], output: Output | None) -> PassResult:
        """Hand out what a forward pass gave."""
        result = PassResult()
        if output is not None and output.logits is not None:
            result.logits.append(output.logits)
        begin = 0
        for row, _, _, count in scheduled:
            end = begin + count
            if isinstance(row, GenerateRow) and count:
                del row.output_positions[:count]
                result.generating += [(twin, range(begin, end)) for twin in row.call.fork(row, self.store)]
            elif isinstance(row, ScoreRow):
                if count and output is not None:
                    row.add(output.part(begin, end), count)
                if not row.pending:
                    result.scored.append(row)
            begin = end
        return result

    def _collect_cached(self, rows: list[Row], result: PassResult) -> None:
        """Add rows that need no forward pass: all that they want is cached."""
        for row in rows:
            if row.pending:  # preempted for a row of this pass
                continue
            if isinstance(row, ScoreRow):
                result.scored.append(row)
            elif isinstance(row, GenerateRow):
                begin = sum(part.shape[0] for part in result.logits)
                result.logits.append(row.sequence.last_output.logits)
                result.generating += [(twin, range(begin, begin + 1)) for twin in row.call.fork(row, self.store)]

    def _forward(self, scheduled: list[ScheduledRow]) -> Output:
        """Outputs at all wanted positions, in the order of the rows."""
        ids: list[int] = []
        indices: list[int] = []
        spans: list[tuple[int, int, int]] = []
        for row, cached, new, outputs in scheduled:
            indices += [len(ids) + position - cached for position in row.output_positions[:outputs]]
            new_ids = row.ids[cached : cached + new]
            ids += new_ids
            spans.append((row.sequence.slot or 0, cached, new))
            if row.sequence.last_output is not None:
                row.sequence.last_output = None
            row.sequence.ids += new_ids
        self.passes += 1
        return self._run(Batch(self.store, spans, ids), indices)

    def _run(self, batch: Batch, indices: list[int]) -> Output:
        """One pass over a batch; outputs at some of its tokens."""
        output_indices: Tensor | None = None  # where all are, nothing has to be picked
        if len(indices) < len(batch.ids):
            output_indices = torch.tensor(indices, dtype=torch.long, device=batch.ids.device)
        if self.fused is not None:
            return Output(*self.fused(batch, output_indices))
        common = {
            "input_ids": batch.ids[None],
            "attention_mask": attention.READY_MASK,
            "position_ids": batch.positions[None],
            "use_cache": False,
            "batch": batch,
        }
        modules: Any = self.model
        if self._head is None:
            hidden: Tensor = modules(**common).last_hidden_state[0]
            return Output(hidden if output_indices is None else hidden.index_select(0, output_indices), None)
        logits: Tensor = modules(**common, logits_to_keep=0 if output_indices is None else output_indices).logits
        return Output(self._head_inputs.pop(), logits[0])

    def _probe(self) -> Tensor:
        """The output after a few tokens, the last of them on its own."""
        sequence = CachedSequence(self.store)
        sequence.activate()
        self.store.reserve(sequence, len(PROBE_IDS))
        slot, before = sequence.slot or 0, len(PROBE_IDS) - 1
        self._run(Batch(self.store, [(slot, 0, before)], PROBE_IDS[:before]), [])
        output = self._run(Batch(self.store, [(slot, before, 1)], PROBE_IDS[before:]), [0])
        tensor = output.hidden if output.logits is None else output.logits
        assert tensor is not None
        return tensor


def _capturing(inputs: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """A hook that knows the list and not the runner: a model that nobody uses has to be freed at once."""

    def capture(_head: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs[:] = [args[0][0]]

    return capture


def _sample(result: PassResult) -> list[tuple[int, float]]:
    """What each row that decodes takes at its places: tokens with their log-probabilities."""
    if not result.generating:
        return []
    logits = result.logits[0] if len(result.logits) == 1 else torch.cat(result.logits)
    order = [place for _, places in result.generating for place in places]
    if order != list(range(logits.shape[0])):  # twins sample from the same logits
        logits = logits[order]
    samplings: list[Sampling] = []
    uniforms: list[float] = []
    for row, places in result.generating:
        count, sampling = len(places), row.call.request.sampling
        samplings += [sampling] * count
        uniforms += row.uniforms(count) if sampling.temperature else [0.0] * count
    sampled: list[tuple[int, float]] = []
    for part in logits.split(SAMPLED_AT_ONCE):  # type: ignore[no-untyped-call]
        begin, end = len(sampled), len(sampled) + len(part)
        ids = choose(part, samplings[begin:end], uniforms[begin:end])
        logprobs = part.log_softmax(-1, dtype=torch.float32).gather(1, ids)
        if part.is_cpu:
            id_rows, logprob_rows = ids.tolist(), logprobs.tolist()
        else:
            # One trip; ids are whole numbers in fp32 too.
            id_rows, logprob_rows = torch.stack((ids, logprobs)).tolist()
        sampled += [(int(id_), logprob) for (id_,), (logprob,) in zip(id_rows, logprob_rows, strict=True)]
    return sampled


def _set_rewards(rows: Sequence[ScoreRow]) -> dict[Call[Any], Exception]:
    """Set the rewards of rows that were read, in one go for each verifier; the calls whose verifier failed.

    A reward head that fails is no fault of the model, so that others who share it go on.
    """
    groups = defaultdict(list)
    for row in rows:
        groups[row.call.rewards].append(row)
    faulty: dict[Call[Any], Exception] = {}
    for rewards_of, group in groups.items():
        try:
            rewards = rewards_of([(Output.joined(row.outputs), row.layout) for row in group if row.layout is not None])
            for row, reward in zip(group, rewards, strict=True):
                row.reward = reward
        except Exception as error:
            logger.warning("the rewards of %d candidates failed: %s: %s", len(group), type(error).__name__, error)
            logger.debug("where they failed", exc_info=error)
            faulty |= dict.fromkeys((row.call for row in group), error)
    return faulty
