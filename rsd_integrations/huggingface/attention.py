"""Attention of a packed batch: every token of every sequence in one forward pass, none of them padding.

A forward pass gets the new tokens of all its sequences end to end, as one row. Linear layers work on each token alone;
attention is where sequences differ. It is done here, by a function registered with transformers under `rsd`, so that
any architecture that takes its attention from there runs unchanged. Without a batch it is transformers' own
scaled-dot-product attention. TorchScript reads this file too; it wants annotations that are evaluated, so there is no
`from __future__ import annotations`.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from rsd_integrations.huggingface.kv_store import KVStore, LayerShape
from rsd_integrations.inprocess.calls import Tree

NAME = "rsd"
LAUNCH_BYTES_CPU, LAUNCH_BYTES_GPU = 4e5, 2e7
"""Bytes of keys and values that attention reads in the time that it takes to launch one more call of it."""
READY_MASK = torch.ones(1, 1, 1, 1)
"""Given as mask, so that transformers makes none: it takes one of four dimensions to be ready-made."""


class Piece(NamedTuple):
    """One attention call: neighbouring slots with one new token each, or one slot with several."""

    first: int
    end: int
    """The slots from the first one to before this."""
    start: int
    longest: int
    """The positions that are seen."""
    new: int
    """New tokens of each sequence."""
    tokens: int
    """New tokens of all of them."""
    mask: Tensor | None
    """What each token sees, as a bias [slots, 1, tokens, keys]; None where all see all, or plainly what is before."""
    queries: Tensor | None
    """Where idle slots lie between: the query that each slot is given; idle ones get any, and their results go."""
    active: Tensor | None
    """The slots among them that have a query of their own."""


class Places(NamedTuple):
    """Where the new keys and values of a batch go."""

    slots: Tensor
    positions: Tensor
    """Of each token."""
    in_text: Tensor
    """Which position of a text each token is at: another one than it is kept at for the nodes of a tree."""
    slot: int
    cached: int
    new: int
    """Of a batch of one sequence: its slot, its cached and its new tokens. No new ones where there are several."""


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keys: Tensor,
    values: Tensor,
    places: Places,
    pieces: list[Piece],
    scaling: float | None,
) -> Tensor:
    """Cache a layer's new keys and values, and attend to all there are of each sequence.

    Args:
        query: [tokens, heads, width], as are key and value, which may have fewer heads.
        key: See query.
        value: See query.
        keys: The cached ones, [slots, heads, length, width], as are values.
        values: See keys.
        places: Where the new ones go.
        pieces: The attention calls that cover the batch.
        scaling: Of the products of queries and keys.

    Returns:
        [tokens, heads, width].
    """
    if places.new == 0:
        keys.transpose(1, 2)[places.slots, places.positions] = key
        values.transpose(1, 2)[places.slots, places.positions] = value
    else:  # the same by slices, which take less time than indices
        end = places.cached + places.new
        keys[places.slot, :, places.cached : end] = key.transpose(0, 1)
        values[places.slot, :, places.cached : end] = value.transpose(0, 1)
    if len(pieces) == 1:
        return _attend(query, keys, values, pieces[0], scaling)
    parts: list[Tensor] = []
    begin = 0
    for piece in pieces:
        parts.append(_attend(query[begin : begin + piece.tokens], keys, values, piece, scaling))
        begin += piece.tokens
    return torch.cat(parts)


def _attend(query: Tensor, keys: Tensor, values: Tensor, piece: Piece, scaling: float | None) -> Tensor:
    keys = keys[piece.first : piece.end, :, piece.start : piece.longest]
    values = values[piece.first : piece.end, :, piece.start : piece.longest]
    mask, groups = piece.mask, query.shape[1] // keys.shape[1]
    if piece.new > 1:
        out = scaled_dot_product_attention(
            query.transpose(0, 1)[None], keys, values, mask, 0.0, mask is None, scale=scaling, enable_gqa=groups > 1
        )
        return out[0].transpose(0, 1)
    queries, active = piece.queries, piece.active
    if queries is not None:
        query = query.index_select(0, queries)
    # One new token each, the newest: it sees all that is cached, so no causal order is needed among queries. Then heads
    # that share keys may ask as several tokens of one head do, which spares copies of the keys for each of them.
    query = query.reshape(len(query), -1, groups, query.shape[-1]) if groups > 1 else query.unsqueeze(2)
    out = scaled_dot_product_attention(query, keys, values, mask, scale=scaling).flatten(1, 2)
    return out if active is None else out.index_select(0, active)


class Batch:
    """The sequences of one forward pass: where their tokens lie, and which attention calls cover them."""

    def __init__(
        self,
        store: KVStore,
        spans: Sequence[tuple[int, int, int]],
        ids: list[int],
        trees: Mapping[int, Tree] = MappingProxyType({}),
    ) -> None:
        """Arrange the sequences.

        Args:
            store: Where their keys and values are.
            spans: Slot, cached tokens and new tokens of each: those with one new token first, by slot.
            ids: The new tokens of all, end to end.
            trees: By the index of a sequence: what its last tokens are, where they are no chain. More than one of its
                tokens is new.
        """
        self.store = store
        device = store.keys[0].device
        if len(spans) == 1:
            ((slot, cached, new),) = alone = spans
            slots, positions = [slot] * new, list(range(cached, cached + new))
        else:
            alone = [(0, 0, 0)]
            slots = [slot for slot, _, new in spans for _ in range(new)]
            positions = [cached + i for _, cached, new in spans for i in range(new)]
        in_text = (
            [place for i, span in enumerate(spans) for place in _in_text(span, trees.get(i))] if trees else positions
        )
        # One transfer to the device for all of them.
        self.ids, token_slots, kept, self.positions = torch.tensor(
            [ids, slots, positions, in_text], device=device
        ).unbind()
        self.places = Places(token_slots, kept, self.positions, *alone[0])
        singles = [(slot, cached + 1) for slot, cached, new in spans if new == 1]
        launch = LAUNCH_BYTES_CPU if device.type == "cpu" else LAUNCH_BYTES_GPU
        self._spans = _neighbours(singles, launch * len(store.keys) / store.token_bytes)
        self._spans += [
            _Span(slot, [cached + new], new, None, trees.get(i))
            for i, (slot, cached, new) in enumerate(spans[len(singles) :], len(singles))
        ]
        self._pieces: dict[int | None, list[Piece]] = {}

    def pieces(self, window: int | None) -> list[Piece]:
        """The attention calls, where each token sees so many tokens, itself among them; None for all."""
        if window not in self._pieces:
            like = self.store.keys[0]
            self._pieces[window] = [span.piece(window, like.dtype, like.device) for span in self._spans]
        return self._pieces[window]

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, window: int | None
    ) -> Tensor:
        """Attention of a layer, by its index; see the function of this name."""
        keys, values = self.store.keys[layer], self.store.values[layer]
        return attend(query, key, value, keys, values, self.places, self.pieces(window), scaling)


class Survey:
    """Notes what each layer wants of attention, in place of a batch."""

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
            raise ValueError("its attention has a bias of positions, which is not supported here")
        layer: int = module.layer_idx  # type: ignore[assignment]
        self.shapes[layer] = LayerShape(key.shape[1], key.shape[3], value.shape[3])
        self.scalings[layer] = options.get("scaling")
        self.windows[layer] = options.get("sliding_window")


class _Span(NamedTuple):
    """What one attention call runs over: neighbouring slots with one new token each, or one slot with several."""

    first: int
    lengths: list[int]
    """Of the sequence in each slot, the new tokens among them; 1 where it is idle."""
    new: int
    active: list[int] | None
    """Which of the slots are not idle; None for all."""
    tree: Tree | None = None
    """What the last tokens of a lone slot are, where they are no chain."""

    def piece(self, window: int | None, dtype: torch.dtype, device: torch.device) -> Piece:
        """The call, for layers with such a window."""
        longest, start = max(self.lengths), 0
        if window is not None and window >= longest:
            window = None
        if window is not None and self.new == 1 and len(self.lengths) == 1:
            start, window = longest - window, None  # a lone token sees the window and nothing else: no mask is needed
        queries = active = None
        if self.active is not None:
            query_of_slot = [0] * len(self.lengths)
            for i, slot in enumerate(self.active):
                query_of_slot[slot] = i
            padding = [0] * (len(query_of_slot) - len(self.active))  # both lists in one transfer to the device
            queries, active = torch.tensor([query_of_slot, [*self.active, *padding]], device=device).unbind()
            active = active[: len(self.active)]
        return Piece(
            self.first,
            self.first + len(self.lengths),
            start,
            longest,
            self.new,
            self.new * len(self.lengths if self.active is None else self.active),
            self._mask(longest, window, dtype, device),
            queries,
            active,
        )

    def _mask(self, longest: int, window: int | None, dtype: torch.dtype, device: torch.device) -> Tensor | None:
        cached = longest - self.new
        if self.tree is not None:
            return _tree_mask(self.tree, cached, longest, window, dtype).to(device)
        if self.new > 1:
            if window is None and cached == 0:
                return None  # prefill from the start: `_attend` asks for causal attention by its flag
            # Token i, at position cached + i, sees what is not after it; with a window, its last `window` positions.
            mask = torch.full((self.new, longest), -torch.inf, dtype=dtype, device=device).triu_(cached + 1)
            if window is not None:
                mask += torch.full_like(mask, -torch.inf).tril_(cached - window)
            return mask[None, None]
        if window is None and min(self.lengths) == longest:
            return None  # equally long sequences: each sees all of its slot
        ends, positions = torch.tensor(self.lengths, device=device)[:, None], torch.arange(longest, device=device)
        visible = positions < ends if window is None else (positions < ends) & (positions >= ends - window)
        return torch.where(visible, 0.0, -torch.inf).to(dtype)[:, None, None]


def _in_text(span: tuple[int, int, int], tree: Tree | None) -> list[int]:
    """The positions in their text of a sequence's new tokens, given as slot, cached tokens and new tokens."""
    _, cached, new = span
    if tree is None:
        return list(range(cached, cached + new))
    depths = tree.depths
    return [i if i < tree.begin else tree.begin - 1 + depths[i - tree.begin] for i in range(cached, cached + new)]


def _tree_mask(tree: Tree, cached: int, longest: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """What each of the last tokens of a sequence sees: what is before the tree, its ancestors in it, and itself."""
    begin = tree.begin
    nodes = torch.eye(longest - begin, dtype=torch.bool)
    for node, parent in enumerate(tree.parents):
        if parent >= 0:
            nodes[node] |= nodes[parent]
    # Only rows of new tokens: of a long text, a square would take longer than the pass.
    visible = torch.ones(longest - cached, longest, dtype=torch.bool).tril_(cached)
    visible[max(0, begin - cached) :, begin:] = nodes[max(0, cached - begin) :]
    if window is not None:
        at = torch.tensor(_in_text((0, 0, longest), tree))
        visible &= at[cached:, None] - at < window
    return torch.where(visible, 0.0, -torch.inf).to(dtype)[None, None]


def _neighbours(singles: list[tuple[int, int]], launch: float) -> list[_Span]:
    """What attention calls over single tokens run over, given as (slot, length) in order of their slots.

    A call reads as much of every slot as of its longest one, and the idle slots in between as well. So a sequence has
    a call with those before it where that reads less than they and it apart, and the launch of one more call, which is
    worth so many tokens.
    """
    spans: list[_Span] = []
    group: list[tuple[int, int]] = []
    first = last = longest = 0
    for slot, length in singles:
        most = max(longest, length)
        if group and (slot - first + 1) * most > (last - first + 1) * longest + length + launch:
            spans.append(_together(group))
            group, most = [], length
        if not group:
            first = slot
        group.append((slot, length))
        last, longest = slot, most
    return [*spans, _together(group)] if group else spans


def _together(group: list[tuple[int, int]]) -> _Span:
    """One call for some sequences, given as in `_neighbours`."""
    first, last = group[0][0], group[-1][0]
    lengths = [1] * (last - first + 1)
    for slot, length in group:
        lengths[slot - first] = length
    active = None if len(lengths) == len(group) else [slot - first for slot, _ in group]
    return _Span(first, lengths, 1, active)


def forward(
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
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        if batch is not None:
            batch.note(module, key, value, options)
        out: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return out
    layer: int = module.layer_idx  # type: ignore[assignment]
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    return batch.attend(layer, query, key, value, options.get("scaling"), options.get("sliding_window"))[None], None


@cache
def register() -> None:
    """Make this attention known to transformers, for models that run by their own modules."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)
