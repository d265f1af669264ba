"""Keys and values of many sequences in rectangular tensors per layer: slots × length."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from rsd_core import ConfigurationError
from rsd_integrations.inprocess.sequences import CachedSequence, Store


class SlotSequence(CachedSequence):
    """A sequence in a slot of a store."""

    __slots__ = ("_store", "done", "epoch", "slot")

    def __init__(self, store: KVStore) -> None:
        super().__init__()
        self._store = store
        self.slot: int | None = None
        """Index of the slot; None while nothing is cached."""
        self.epoch = 0
        """Generation of the store's tensors to which the slot belongs; slots of earlier ones are not returned."""
        self.done: list[int] = []
        """Number of tokens that each segment of layers has run, if some are deferred (early exit)."""

    def truncate(self, count: int) -> None:
        super().truncate(count)
        self.done = [min(tokens, count) for tokens in self.done]

    def gather(self, begin: int, chosen: Sequence[int]) -> None:
        ids, end = [self.ids[begin + i] for i in chosen], begin + len(chosen)
        if self.slot is not None and list(chosen) != list(range(len(chosen))):
            self._store.move(self.slot, begin, chosen)
        self.ids[begin:end] = ids
        self.truncate(end)

    def evict(self) -> None:
        slot, self.slot, self.ids, self.done, self.last_output = self.slot, None, [], [], None
        if slot is not None:
            self._store.freed.append((self.epoch, slot))

    def __del__(self) -> None:
        if self.slot is not None:
            self._store.freed.append((self.epoch, self.slot))  # in any thread, so the store handles it later


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Size of one token's keys and values in one layer."""

    heads: int
    key: int
    value: int


class KVStore(Store):
    """A tensor [slots, heads, length, width] of keys and one of values per layer, grown by doubling within a budget.

    Adjacent slots are one view, so that attention over them needs no copy; the lowest free slot is taken first to keep
    sequences together.
    """

    def __init__(
        self,
        layers: Sequence[LayerShape],
        dtype: torch.dtype,
        device: torch.device,
        budget: float,
        context: int,
        deferred: int = 0,
    ) -> None:
        """Create a store without slots.

        Args:
            layers: Sizes of a token's keys and values.
            dtype: Dtype of keys and values.
            device: Device of all tensors.
            budget: Maximum size in bytes.
            context: Maximum sequence length.
            deferred: Width of the hidden state kept for each token, from which it continues in deeper layers later; 0
                if every token runs through all layers at once.

        Raises:
            ConfigurationError: The budget is too small for one sequence.
        """
        values = sum(layer.heads * (layer.key + layer.value) for layer in layers)
        self.token_bytes = dtype.itemsize * values + torch.float32.itemsize * deferred
        """Bytes of one token's keys and values, and of its hidden state if kept."""
        if budget < self.token_bytes * context:
            raise ConfigurationError(
                f"a cache of {budget / 1e6:,.1f} MB cannot hold one sequence of {context} tokens, which takes "
                f"{self.token_bytes * context / 1e6:,.1f} MB; raise cache_bytes"
            )
        self.budget, self.context, self.size = budget, context, f"{budget / 1e6:.4g} MB"
        self.slots = self.length = 0
        self.keys: list[Tensor] = [torch.empty(0, s.heads, 0, s.key, dtype=dtype, device=device) for s in layers]
        self.values: list[Tensor] = [torch.empty(0, s.heads, 0, s.value, dtype=dtype, device=device) for s in layers]
        self.states: list[Tensor] = [torch.empty(0, 1, 0, deferred, device=device)] if deferred else []
        """A tensor of fp32 hidden states, shaped like the others, if tokens are deferred."""
        self.freed: deque[tuple[int, int]] = deque()
        """Epochs and slots returned by any thread."""
        self._epoch = 0
        self._free: list[int] = []
        self._live: WeakValueDictionary[int, SlotSequence] = WeakValueDictionary()

    @property
    def bytes(self) -> int:
        """Size of the tensors."""
        return self.slots * self.length * self.token_bytes

    @property
    def live(self) -> list[SlotSequence]:
        return list(self._live.values())

    def sequence(self) -> SlotSequence:
        return SlotSequence(self)

    def reserve(self, sequence: CachedSequence, length: int) -> bool:
        assert isinstance(sequence, SlotSequence)
        sequence.touch()
        if length > self.length and not self._lengthen(sequence, length):
            return False
        if sequence.slot is None:
            sequence.slot = self._claim_slot(sequence)
            if sequence.slot is None:
                return False
            sequence.epoch = self._epoch
            self._live[sequence.slot] = sequence
        return True

    def branch(self, source: CachedSequence) -> SlotSequence | None:
        assert isinstance(source, SlotSequence)
        copy = SlotSequence(self)
        copy.activate(source.arrival[0])
        if not self.reserve(copy, len(source.ids)) or source.slot is None or copy.slot is None:
            return None
        for tensor in (*self.keys, *self.values, *self.states):
            tensor[copy.slot, :, : len(source.ids)] = tensor[source.slot, :, : len(source.ids)]
        copy.ids, copy.done, copy.last_output = list(source.ids), list(source.done), source.last_output
        return copy

    def move(self, slot: int, begin: int, chosen: Sequence[int]) -> None:
        """Compact some of a slot's tokens, given as offsets from `begin`, into consecutive positions from there."""
        sources = begin + torch.tensor(chosen, device=self.keys[0].device)
        for tensor in (*self.keys, *self.values):
            tensor[slot, :, begin : begin + len(chosen)] = tensor[slot, :, sources]

    def clear(self) -> None:
        for sequence in list(self._live.values()):
            sequence.evict()
        self._live.clear()
        self._resize(0, 0)

    def _claim_slot(self, wanted_by: CachedSequence) -> int | None:
        while self.freed:
            epoch, slot = self.freed.popleft()
            if epoch == self._epoch:
                heapq.heappush(self._free, slot)
        if self._free:
            return heapq.heappop(self._free)
        victim = self._victim(wanted_by)
        if (victim is None or not victim.passed_over) and self.slots < self._most_slots(self.length):
            self._resize(min(max(1, 2 * self.slots), self._most_slots(self.length)), self.length)
        elif victim is None:
            return None
        else:
            self._evict(victim)
        return self._claim_slot(wanted_by)

    def _lengthen(self, wanted_by: CachedSequence, length: int) -> bool:
        longer = min(self.context, max(64, 1 << (length - 1).bit_length()))
        slots = self._most_slots(longer)
        while len(self._live) > slots:
            victim = self._victim(wanted_by)
            if victim is None:
                return False
            self._evict(victim)
        self._resize(min(slots, max(1, self.slots)), longer)
        return True

    def _most_slots(self, length: int) -> int:
        return int(self.budget // (self.token_bytes * max(1, length)))

    def _evict(self, victim: CachedSequence) -> None:
        assert isinstance(victim, SlotSequence)
        slot = victim.slot
        super()._evict(victim)
        if slot is not None:
            self._live.pop(slot, None)

    def _resize(self, slots: int, length: int) -> None:
        """Move all live sequences into new tensors, in adjacent slots."""
        live = sorted(self._live.items())
        old = torch.tensor([slot for slot, _ in live], dtype=torch.long, device=self.keys[0].device)
        for tensors in (self.keys, self.values, self.states):
            for i, tensor in enumerate(tensors):
                # Zeros, since masked entries have weight zero, and zero times NaN would be NaN.
                moved = tensor.new_zeros(slots, tensor.shape[1], length, tensor.shape[3])
                both = min(self.length, length)
                moved[: len(live), :, :both] = tensor[old, :, :both]
                tensors[i] = moved
        self._epoch += 1
        self._live = WeakValueDictionary()
        for slot, (_, sequence) in enumerate(live):
            sequence.slot, sequence.epoch = slot, self._epoch
            self._live[slot] = sequence
        self._free = list(range(len(live), slots))
        self.slots, self.length = slots, length
