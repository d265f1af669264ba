"""Runs torch models in an engine: their KV store, forward passes and sampling."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary, finalize

import torch
from torch import Tensor, nn

from rsd_core import Sampling
from rsd_integrations.huggingface import attention, digits, dtypes, loading, verification
from rsd_integrations.huggingface.attention import Batch
from rsd_integrations.huggingface.bare_model import BareModel
from rsd_integrations.huggingface.compatibility import PROBE_IDS, close, explained, plain_output, survey_attention
from rsd_integrations.huggingface.context import context_of
from rsd_integrations.huggingface.fused_decoder import FusedDecoder
from rsd_integrations.huggingface.kv_store import KVStore, SlotSequence
from rsd_integrations.huggingface.memory import free_memory, has_weight_copy, total_memory
from rsd_integrations.huggingface.output import TorchOutput
from rsd_integrations.huggingface.sampling import choose
from rsd_integrations.inprocess.calls import Call, Output, SampledRow, Tree
from rsd_integrations.inprocess.memory import CACHE_SHARE
from rsd_integrations.inprocess.runner import Runner, ScheduledRow
from rsd_integrations.inprocess.sequences import CachedSequence

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)
SAMPLED_AT_ONCE = 64
"""Maximum tokens sampled at once, since sampling takes memory for several copies of their logits."""

_creation = threading.Lock()
_runners: WeakValueDictionary[int, TorchRunner] = WeakValueDictionary()
"""By the `id` of the model, which a runner keeps alive."""


class TorchRunner(Runner):
    """Runs a torch model, fused if its architecture is supported, otherwise with its own modules."""

    device: torch.device
    store: KVStore

    @classmethod
    def of(cls, model: PreTrainedModel | BareModel, *, threads: int, budget: float | None = None) -> TorchRunner:
        """The runner of a model, shared by all users; arguments and errors as for a new one."""
        with _creation:
            runner = _runners.get(id(model))
            if runner is None:
                runner = _runners[id(model)] = cls(model, threads=threads, budget=budget)
            return runner

    @torch.inference_mode()
    def __init__(
        self, model: PreTrainedModel | BareModel, *, threads: int, budget: float | None = None, deferring: bool = False
    ) -> None:
        """Take over a model.

        Args:
            model: A causal language model, or its body.
            threads: Threads per operation on a CPU.
            budget: Bytes for keys and values; by default an eighth of the device's memory.
            deferring: Whether to keep a hidden state of each token too, for layers that run it later.

        Raises:
            ConfigurationError: The model is not supported: it caches something other than keys and values, or has
                custom attention.
        """
        self.model = model
        in_int8 = model.int8 if isinstance(model, BareModel) else digits.is_quantised(model)
        self.dtype = dtypes.dtype_name(torch.int8 if in_int8 else model.dtype)
        context = context_of(model.config)
        expected: Tensor | None = None
        if isinstance(model, BareModel):
            survey = model.survey()
        else:
            with explained(model):
                expected = plain_output(model)  # with its original attention
                if not torch.isfinite(expected).all():
                    raise ValueError(f"its output in {self.dtype} is not finite (is the download complete?)")
                attention.register()
                model.set_attn_implementation(attention.NAME)
                survey = survey_attention(model)
        shapes = [survey.shapes[layer] for layer in sorted(survey.shapes)]
        budget = budget or total_memory(model.device) / CACHE_SHARE
        deferred = model.config.hidden_size if deferring else 0
        store = KVStore(shapes, model.dtype, model.device, budget, context, deferred)
        super().__init__(type(model).__name__, store, context, model.device, threads)
        weights = weights_of(model)
        room = free_memory(model.device) - store.token_bytes * context
        self.fused = FusedDecoder.of(model, survey, has_weight_copy(weights, room, model.device))
        """Runs the model if its architecture is supported; None if its own modules do."""
        if self.fused is not None and expected is not None and not close(self._probe(), expected):
            logger.warning("%s runs its own modules, more slowly: fused, its results differ", type(model).__name__)
            self.fused = None
        if self.fused is not None and not isinstance(model, BareModel) and digits.release(model):
            finalize(self, loading.forget, id(model))  # unusable without this runner, even if referenced
        self._head: nn.Module | None = None
        self._head_inputs: list[Tensor] = []
        """The output head's input in the last forward pass of the modules."""
        if self.fused is None:
            assert expected is not None
            assert not isinstance(model, BareModel)
            self._head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
            if self._head is not None:
                self._head.register_forward_pre_hook(_capturing(self._head_inputs))
            with explained(model):
                if not close(self._probe(), expected):
                    raise ValueError("its results in a batch differ from those alone")

    def use_threads(self, count: int) -> None:
        if count != torch.get_num_threads():
            torch.set_num_threads(count)  # applies to this thread only

    @torch.inference_mode()
    def start(self, call: Call[Any]) -> None:
        super().start(call)

    @torch.inference_mode()
    def step(self) -> None:
        super().step()

    @torch.inference_mode()
    def fail(self, error: BaseException) -> None:
        super().fail(error)

    def _schedule(self) -> list[ScheduledRow]:
        # Ordered after room is reserved for all, since that moves slots.
        return sorted(super()._schedule(), key=_place)

    def _compute(self, scheduled: Sequence[ScheduledRow]) -> TorchOutput:
        ids: list[int] = []
        indices: list[int] = []
        spans: list[tuple[int, int, int]] = []
        trees: dict[int, Tree] = {}
        for row, cached, new, outputs in scheduled:
            if row.tree is not None and cached + new > row.tree.begin:
                trees[len(spans)] = row.tree
            indices += [len(ids) + position - cached for position in row.output_positions[:outputs]]
            ids += row.ids[cached : cached + new]
            spans.append((_slot(row.sequence), cached, new))
        return self._run(Batch(self.store, spans, ids, trees), indices)

    def _run(self, batch: Batch, indices: list[int]) -> TorchOutput:
        """Run one pass over a batch; returns outputs at some of its tokens."""
        output_indices: Tensor | None = None  # None if all are needed
        if len(indices) < len(batch.ids):
            output_indices = torch.tensor(indices, dtype=torch.long, device=batch.ids.device)
        if self.fused is not None:
            return TorchOutput(*self.fused(batch, output_indices))
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
            return TorchOutput(hidden if output_indices is None else hidden.index_select(0, output_indices), None)
        logits: Tensor = modules(**common, logits_to_keep=0 if output_indices is None else output_indices).logits
        return TorchOutput(self._head_inputs.pop(), logits[0])

    def _probe(self) -> Tensor:
        """The output after a few tokens, of which the last is run separately."""
        sequence = self.store.sequence()
        sequence.activate()
        self.store.reserve(sequence, len(PROBE_IDS))
        slot, before = sequence.slot or 0, len(PROBE_IDS) - 1
        self._run(Batch(self.store, [(slot, 0, before)], PROBE_IDS[:before]), [])
        output = self._run(Batch(self.store, [(slot, before, 1)], PROBE_IDS[before:]), [0])
        tensor = output.hidden if output.logits is None else output.logits
        assert tensor is not None
        return tensor

    def _sample(self, output: Output, rows: Sequence[tuple[SampledRow, range]]) -> list[tuple[int, float]]:
        logits = output.logits
        order = [place for _, places in rows for place in places]
        if order != list(range(logits.shape[0])):  # candidates may share logits
            logits = logits[order]
        possible = _possible(logits, [(row, len(places)) for row, places in rows])
        samplings: list[Sampling] = []
        uniforms: list[float] = []
        for row, places in rows:
            count, sampling = len(places), row.sampling
            samplings += [sampling] * count
            uniforms += row.uniforms(count) if sampling.temperature else [0.0] * count
        sampled: list[tuple[int, float]] = []
        for part, some in zip(*(of.split(SAMPLED_AT_ONCE) for of in (logits, possible)), strict=True):
            begin, end = len(sampled), len(sampled) + len(part)
            ids = choose(some, samplings[begin:end], uniforms[begin:end])
            logprobs = part.log_softmax(-1, dtype=torch.float32).gather(1, ids)
            if part.is_cpu:
                id_rows, logprob_rows = ids.tolist(), logprobs.tolist()
            else:
                # One transfer; ids are exact in fp32 too.
                id_rows, logprob_rows = torch.stack((ids, logprobs)).tolist()
            sampled += [(int(id_), logprob) for (id_,), (logprob,) in zip(id_rows, logprob_rows, strict=True)]
        verification.judge(logits, possible, rows, sampled)
        return sampled


def _possible(logits: Tensor, rows: Sequence[tuple[SampledRow, int]]) -> Tensor:
    """Logits at the rows' outputs, with tokens forbidden by a grammar masked."""
    begin, masked = 0, False
    for row, count in rows:
        if row.place is not None:
            logits, masked = logits if masked else logits.clone(), True
            for i, allowed in enumerate(row.allowed(logits.shape[-1], count), begin):
                logits[i].masked_fill_(torch.from_numpy(~allowed).to(logits.device), -torch.inf)
        begin += count
    return logits


def _place(part: ScheduledRow) -> tuple[bool, int]:
    """Sort key: decoding rows by slot, so that adjacent ones are one view; the others after them."""
    return part.new > 1, _slot(part.row.sequence)


def _slot(sequence: CachedSequence) -> int:
    assert isinstance(sequence, SlotSequence)
    return sequence.slot or 0


def _capturing(inputs: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """A hook that refers to the list but not to the runner, so that an unused model is freed at once."""

    def capture(_head: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs[:] = [args[0][0]]

    return capture


def weights_of(model: PreTrainedModel | BareModel) -> float:
    """Bytes of a model's weights, without copies."""
    if isinstance(model, nn.Module):
        return float(sum(weight.numel() * weight.itemsize for weight in model.parameters()))
    return float(model.num_parameters() * model.dtype.itemsize)
