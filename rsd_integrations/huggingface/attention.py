"""Attention of a packed batch: every token of every sequence in one forward pass, none of them padding.

A forward pass gets the new tokens of all its sequences end to end, as one row. Linear layers neither know nor care.
Attention is told apart here, by a function registered with transformers under `rsd`, so that any architecture that
takes its attention from there runs unchanged. Without a batch it is transformers' own scaled-dot-product attention.
"""

from __future__ import annotations

from collections.abc import Sequence as Rows
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rsd_integrations.huggingface.kv_store import KVStore, LayerShape

NAME = "rsd"
GAP = 2
"""Idle slots between two busy ones that attention runs over as well, since that is cheaper than another call."""
PREPARED = torch.ones(1, 1, 1, 1)
"""Given as mask, so that transformers makes none: one of four dimensions is taken to be ready-made."""


class Batch:
    """The sequences of one forward pass: where their tokens lie, and which attention calls cover them."""

    def __init__(self, store: KVStore, spans: Rows[tuple[int, int, int]], ids: list[int]) -> None:
        """Arrange (slot, tokens known, tokens new) of each sequence; single tokens come first, by slot.

        The new tokens of all sequences are given end to end.
        """
        self.store = store
        device = store.keys[0].device
        rows = [slot for slot, _, new in spans for _ in range(new)]
        places = [known + i for _, known, new in spans for i in range(new)]
        self.ids, self.slots, self.positions = torch.tensor([ids, rows, places], device=device)  # one trip
        singles = [(slot, known + 1) for slot, known, new in spans if new == 1]
        self._pieces: list[_Piece] = _windows(singles, device)
        at = len(singles)
        for slot, known, new in spans[at:]:
            self._pieces.append(_Piece(slot, [known + new], at, new, None, device))
            at += new

    def attend(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> Tensor:
        """Keep the new keys and values, and attend to all there are of each sequence."""
        layer: int = module.layer_idx  # type: ignore[assignment]
        keys, values = self.store.keys[layer], self.store.values[layer]
        keys[self.slots, :, self.positions] = key[0].transpose(0, 1)
        values[self.slots, :, self.positions] = value[0].transpose(0, 1)
        found = [piece.attend(module, query, keys, values, options) for piece in self._pieces]
        return found[0] if len(found) == 1 else torch.cat(found, 1)


class Survey:
    """Notes what each layer asks of attention, in place of a batch."""

    def __init__(self) -> None:
        self.shapes: dict[int, LayerShape] = {}
        self.options: dict[int, dict[str, Any]] = {}

    def attend(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> Tensor:
        """Plain causal attention."""
        layer: int = module.layer_idx  # type: ignore[assignment]
        self.shapes[layer] = LayerShape(key.shape[1], key.shape[3], value.shape[3])
        self.options[layer] = {name: options.get(name) for name in ("scaling", "dropout", "sliding_window")}
        out: Tensor = sdpa_attention_forward(module, query, key, value, None, **options)[0]
        return out


class _Piece:
    """One attention call: neighbouring slots with one new token each, or one slot with several."""

    def __init__(
        self, first: int, lengths: list[int], at: int, new: int, busy: list[int] | None, device: torch.device
    ) -> None:
        self._slots = slice(first, first + len(lengths))
        self._lengths, self._longest = lengths, max(lengths)
        self._new = new
        self._device = device
        count = len(lengths) if busy is None else len(busy)
        self._tokens = slice(at, at + count * new)
        # Gaps ask with some other sequence's query; what they get is left out again.
        asked, self._busy = [at] * len(lengths), None
        if busy is not None:
            for i, place in enumerate(busy):
                asked[place] = at + i
            self._asked, self._busy = torch.tensor([asked, [*busy, *[0] * (len(asked) - len(busy))]], device=device)
            self._busy = self._busy[: len(busy)]

    def attend(self, module: nn.Module, query: Tensor, keys: Tensor, values: Tensor, options: dict[str, Any]) -> Tensor:
        """Attention output [1, tokens, heads, width]."""
        window: int | None = options.get("sliding_window")
        start = 0
        if window is not None and window < self._longest and len(self._lengths) == 1 and self._new == 1:
            start = self._longest - window  # a lone token sees the window and nothing else: no mask is needed
        if self._new > 1:
            asking = query[:, :, self._tokens]
        elif self._busy is None:
            asking = query[0, :, self._tokens].transpose(0, 1).unsqueeze(2)
        else:
            asking = query[0].index_select(1, self._asked).transpose(0, 1).unsqueeze(2)
        seen = keys[self._slots, :, start : self._longest], values[self._slots, :, start : self._longest]
        mask = None if start else self._mask(window, query.dtype)
        out: Tensor = sdpa_attention_forward(module, asking, *seen, mask, **options)[0]
        if self._busy is not None:
            out = out.index_select(0, self._busy)
        return out.flatten(0, 1).unsqueeze(0)

    def _mask(self, window: int | None, dtype: torch.dtype) -> Tensor | None:
        if window is not None and window < self._longest:
            return _as_bias(self._seen & (self._distance < window), dtype)
        return self._bias(dtype)

    def _bias(self, dtype: torch.dtype) -> Tensor | None:
        if self._plain:
            return None
        if self._made is None:
            self._made = _as_bias(self._seen, dtype)
        return self._made

    _made: Tensor | None = None

    @property
    def _plain(self) -> bool:
        """Whether no mask is needed: all of one length and one token each, or a sequence from its beginning."""
        if self._new == 1:
            return min(self._lengths) == self._longest
        return self._new == self._longest

    @cached_property
    def _distance(self) -> Tensor:
        """How far each key lies before each query [slots, 1, queries, keys]; negative after it."""
        ends = torch.tensor(self._lengths, device=self._device)[:, None] - self._new
        places = ends + torch.arange(self._new, device=self._device)
        return (places[..., None] - torch.arange(self._longest, device=self._device))[:, None]

    @property
    def _seen(self) -> Tensor:
        return self._distance >= 0


def _as_bias(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf)


def _windows(singles: list[tuple[int, int]], device: torch.device) -> list[_Piece]:
    """Attention calls over single tokens, given as (slot, length) in order of their slots."""
    pieces: list[_Piece] = []
    begin = 0
    for i in range(1, len(singles) + 1):
        if i == len(singles) or singles[i][0] - singles[i - 1][0] > GAP + 1:
            first, last = singles[begin][0], singles[i - 1][0]
            lengths = [1] * (last - first + 1)
            for slot, length in singles[begin:i]:
                lengths[slot - first] = length
            busy = None if len(lengths) == i - begin else [slot - first for slot, _ in singles[begin:i]]
            pieces.append(_Piece(first, lengths, begin, 1, busy, device))
            begin = i
    return pieces


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    batch: Batch | Survey | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """The function that transformers calls in every layer."""
    if batch is None:
        out: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return out
    return batch.attend(module, query, key, value, options), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
