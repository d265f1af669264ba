"""Attention of a packed batch: every token of every sequence in one forward pass, none of them padding.

A forward pass gets the new tokens of all its sequences end to end, as one row. Linear layers neither know nor care.
Attention is told apart here, by a function registered with transformers under `rsd`, so that any architecture that
takes its attention from there runs unchanged. Without a batch it is transformers' own scaled-dot-product attention.
"""

from __future__ import annotations

from collections.abc import Sequence as Rows
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
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
        self.ids, self.slots, self.positions = torch.tensor([ids, rows, places], device=device).unbind()  # one trip
        singles = [(slot, known + 1) for slot, known, new in spans if new == 1]
        self._pieces: list[_Piece] = _windows(singles, device)
        self._pieces += [_Piece(slot, [known + new], new, None, device) for slot, known, new in spans[len(singles) :]]
        self._only = spans[0] if len(spans) == 1 else None

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, window: int | None
    ) -> Tensor:
        """Keep the new keys and values, and attend to all there are of each sequence.

        Args:
            layer: Its index.
            query: [tokens, heads, width], as are key and value, which may have fewer heads.
            key: See query.
            value: See query.
            scaling: Of the products of queries and keys.
            window: How many tokens each token sees, itself among them; None for all.

        Returns:
            [tokens, heads, width].
        """
        keys, values = self.store.keys[layer], self.store.values[layer]
        if self._only is None:
            keys[self.slots, :, self.positions] = key
            values[self.slots, :, self.positions] = value
        else:  # the same in less time
            slot, known, new = self._only
            keys[slot, :, known : known + new] = key.transpose(0, 1)
            values[slot, :, known : known + new] = value.transpose(0, 1)
        if len(self._pieces) == 1:
            return self._pieces[0].attend(query, keys, values, scaling, window)
        parts = query.split_with_sizes([piece.tokens for piece in self._pieces])
        pairs = zip(self._pieces, parts, strict=True)
        return torch.cat([piece.attend(part, keys, values, scaling, window) for piece, part in pairs])


class Survey:
    """Notes what each layer asks of attention, in place of a batch."""

    def __init__(self) -> None:
        self.shapes: dict[int, LayerShape] = {}
        self.scalings: dict[int, float | None] = {}
        self.windows: dict[int, int | None] = {}

    def note(self, module: nn.Module, key: Tensor, value: Tensor, options: dict[str, Any]) -> None:
        """Note a layer's call.

        Raises:
            ValueError: It asks for more than scaled products in a window.
        """
        if options.get("position_bias") is not None:
            raise ValueError("its attention has a bias of positions, which is not known here")
        layer: int = module.layer_idx  # type: ignore[assignment]
        self.shapes[layer] = LayerShape(key.shape[1], key.shape[3], value.shape[3])
        self.scalings[layer] = options.get("scaling")
        self.windows[layer] = options.get("sliding_window")


class _Piece:
    """One attention call: neighbouring slots with one new token each, or one slot with several."""

    def __init__(self, first: int, lengths: list[int], new: int, busy: list[int] | None, device: torch.device) -> None:
        self._slots = slice(first, first + len(lengths))
        self._lengths, self._longest = lengths, max(lengths)
        self._new = new
        self._device = device
        self.tokens = new * (len(lengths) if busy is None else len(busy))
        self._busy = None
        if busy is not None:
            # Gaps ask with some other sequence's query; what they get is left out again.
            asked = [0] * len(lengths)
            for i, place in enumerate(busy):
                asked[place] = i
            self._asked, self._busy = torch.tensor([asked, [*busy, *[0] * (len(asked) - len(busy))]], device=device)
            self._busy = self._busy[: len(busy)]
        self._masks: dict[int | None, Tensor | None] = {}
        """By window."""

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, scaling: float | None, window: int | None) -> Tensor:
        """Attention output for its own tokens, as in `Batch.attend`."""
        longest, start = self._longest, 0
        if window is not None and window >= longest:
            window = None
        if window is not None and self._new == 1 and len(self._lengths) == 1:
            start, window = longest - window, None  # a lone token sees the window and nothing else: no mask is needed
        if window not in self._masks:
            self._masks[window] = self._mask(window, query.dtype)
        keys, values = keys[self._slots, :, start:longest], values[self._slots, :, start:longest]
        mask, groups = self._masks[window], query.shape[1] // keys.shape[1]
        if self._new > 1:
            out = scaled_dot_product_attention(
                query.transpose(0, 1)[None], keys, values, mask, 0.0, mask is None, scale=scaling, enable_gqa=groups > 1
            )
            return out[0].transpose(0, 1)
        if self._busy is not None:
            query = query.index_select(0, self._asked)
        # Heads that share keys ask as several tokens of one head would.
        query = query.reshape(len(query), -1, groups, query.shape[-1]) if groups > 1 else query.unsqueeze(2)
        out = scaled_dot_product_attention(query, keys, values, mask, scale=scaling).flatten(1, 2)
        return out if self._busy is None else out.index_select(0, self._busy)

    def _mask(self, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """What each token sees, as a bias [slots, 1, tokens, keys]; None where causal attention is told by its kind."""
        if window is None and (min(self._lengths) == self._longest if self._new == 1 else self._new == self._longest):
            return None
        ends = torch.tensor(self._lengths, device=self._device)[:, None] - self._new
        places = ends + torch.arange(self._new, device=self._device)
        before = (places[..., None] - torch.arange(self._longest, device=self._device))[:, None]
        unseen = before < 0 if window is None else (before < 0) | (before >= window)
        return torch.zeros(unseen.shape, dtype=dtype, device=self._device).masked_fill_(unseen, -torch.inf)


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
            pieces.append(_Piece(first, lengths, 1, busy, device))
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
    """The function that transformers calls in every layer, with [1, heads, tokens, width]."""
    if not isinstance(batch, Batch):
        if batch is not None:
            batch.note(module, key, value, options)
        out: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return out
    layer: int = module.layer_idx  # type: ignore[assignment]
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    return batch.attend(layer, query, key, value, options.get("scaling"), options.get("sliding_window"))[None], None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
