"""Attention over a packed batch: all tokens of all sequences in one forward pass, without padding.

A forward pass gets the new tokens of all its sequences concatenated into one row. Linear layers process each token
separately; only attention depends on the sequence. It is computed here, by a function registered with transformers as
`rsd`, so that any architecture that takes its attention from that registry runs unchanged. Without a batch it is
transformers' own scaled-dot-product attention. TorchScript also compiles this file and needs evaluated annotations, so
there is no `from __future__ import annotations`.
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
"""Bytes of keys and values that attention reads in the time needed to launch one more call."""
READY_MASK = torch.ones(1, 1, 1, 1)
"""Passed as the mask to keep transformers from building one: it uses a four-dimensional mask unchanged."""


class Piece(NamedTuple):
    """One attention call: adjacent slots with one new token each, or one slot with several."""

    first: int
    end: int
    """The end of the slots, exclusive."""
    start: int
    longest: int
    """The range of visible positions."""
    new: int
    """New tokens per sequence."""
    tokens: int
    """New tokens of all sequences."""
    mask: Tensor | None
    """Attention bias [slots, 1, tokens, keys]; None if attention is full or plainly causal."""
    queries: Tensor | None
    """With idle slots in between: the index of each slot's query; idle slots get any query and their results are
    dropped."""
    active: Tensor | None
    """The slots that are not idle."""


class Places(NamedTuple):
    """Where the new keys and values of a batch go."""

    slots: Tensor
    positions: Tensor
    """Of each token, in the cache."""
    in_text: Tensor
    """The position of each token in its text, which differs from its position in the cache for the nodes of a tree."""
    slot: int
    cached: int
    new: int
    """For a batch of one sequence: its slot, its cached and its new tokens. All 0 for several sequences."""


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
    """Cache a layer's new keys and values, and attend to all cached ones of each sequence.

    Args:
        query: [tokens, heads, width], like key and value, which may have fewer heads.
        key: See query.
        value: See query.
        keys: The cached keys, [slots, heads, length, width], like values.
        values: See keys.
        places: Where the new keys and values go.
        pieces: The attention calls that cover the batch.
        scaling: Scale of the products of queries and keys.

    Returns:
        [tokens, heads, width].
    """
    if places.new == 0:
        keys.transpose(1, 2)[places.slots, places.positions] = key
        values.transpose(1, 2)[places.slots, places.positions] = value
    else:  # the same with slices, which are faster than indices
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
    # One new token each, which sees everything cached, so queries need no causal order. Heads that share keys can then
    # be passed as several tokens of one head, which avoids copying the keys for each of them.
    query = query.reshape(len(query), -1, groups, query.shape[-1]) if groups > 1 else query.unsqueeze(2)
    out = scaled_dot_product_attention(query, keys, values, mask, scale=scaling).flatten(1, 2)
    return out if active is None else out.index_select(0, active)


class Batch:
    """The sequences of one forward pass: the places of their tokens, and the attention calls that cover them."""

    def __init__(
        self,
        store: KVStore,
        spans: Sequence[tuple[int, int, int]],
        ids: list[int],
        trees: Mapping[int, Tree] = MappingProxyType({}),
    ) -> None:
        """Arrange the sequences.

        Args:
            store: Holds their keys and values.
            spans: Slot, cached tokens and new tokens of each sequence: those with one new token first, by slot.
            ids: The new tokens of all sequences, concatenated.
            trees: By sequence index, the tree formed by its last tokens if they are not a chain. Such a sequence has
                more than one new token.
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
        # One transfer to the device for all.
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
        """The attention calls for a window of this many tokens, including the current one; None for no window."""
        if window not in self._pieces:
            like = self.store.keys[0]
            self._pieces[window] = [span.piece(window, like.dtype, like.device) for span in self._spans]
        return self._pieces[window]

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, window: int | None
    ) -> Tensor:
        """Attention of a layer, given by its index (see the function of this name)."""
        keys, values = self.store.keys[layer], self.store.values[layer]
        return attend(query, key, value, keys, values, self.places, self.pieces(window), scaling)


class Survey:
    """Records each layer's attention options; passed in place of a batch."""

    def __init__(self) -> None:
        self.shapes: dict[int, LayerShape] = {}
        self.scalings: dict[int, float | None] = {}
        self.windows: dict[int, int | None] = {}

    def note(self, module: nn.Module, key: Tensor, value: Tensor, options: dict[str, Any]) -> None:
        """Record a layer's call.

        Raises:
            ValueError: It needs more than scaled dot products in a window.
        """
        if options.get("position_bias") is not None:
            raise ValueError("its attention has a position bias, which is not supported here")
        layer: int = module.layer_idx  # type: ignore[assignment]
        self.shapes[layer] = LayerShape(key.shape[1], key.shape[3], value.shape[3])
        self.scalings[layer] = options.get("scaling")
        self.windows[layer] = options.get("sliding_window")


class _Span(NamedTuple):
    """The extent of one attention call: adjacent slots with one new token each, or one slot with several."""

    first: int
    lengths: list[int]
    """Length of the sequence in each slot, including new tokens; 1 for an idle slot."""
    new: int
    active: list[int] | None
    """The slots that are not idle; None for all."""
    tree: Tree | None = None
    """The tree formed by the last tokens of a lone slot if they are not a chain."""

    def piece(self, window: int | None, dtype: torch.dtype, device: torch.device) -> Piece:
        """The call for layers with this window."""
        longest, start = max(self.lengths), 0
        if window is not None and window >= longest:
            window = None
        if window is not None and self.new == 1 and len(self.lengths) == 1:
            start, window = longest - window, None  # a lone token sees exactly the window: no mask needed
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
                return None  # prefill from the start: `_attend` sets the causal flag
            # Token i, at position cached + i, sees everything up to itself; with a window, its last `window` positions.
            mask = torch.full((self.new, longest), -torch.inf, dtype=dtype, device=device).triu_(cached + 1)
            if window is not None:
                mask += torch.full_like(mask, -torch.inf).tril_(cached - window)
            return mask[None, None]
        if window is None and min(self.lengths) == longest:
            return None  # sequences of equal length: each sees its whole slot
        ends, positions = torch.tensor(self.lengths, device=device)[:, None], torch.arange(longest, device=device)
        visible = positions < ends if window is None else (positions < ends) & (positions >= ends - window)
        return torch.where(visible, 0.0, -torch.inf).to(dtype)[:, None, None]


def _in_text(span: tuple[int, int, int], tree: Tree | None) -> list[int]:
    """The text positions of a sequence's new tokens; the span is slot, cached tokens and new tokens."""
    _, cached, new = span
    if tree is None:
        return list(range(cached, cached + new))
    depths = tree.depths
    return [i if i < tree.begin else tree.begin - 1 + depths[i - tree.begin] for i in range(cached, cached + new)]


def _tree_mask(tree: Tree, cached: int, longest: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """The mask of a sequence's last tokens: each sees everything before the tree, its ancestors in it, and itself."""
    begin = tree.begin
    nodes = torch.eye(longest - begin, dtype=torch.bool)
    for node, parent in enumerate(tree.parents):
        if parent >= 0:
            nodes[node] |= nodes[parent]
    # Only rows of new tokens: for a long text, a square mask would take longer than the pass.
    visible = torch.ones(longest - cached, longest, dtype=torch.bool).tril_(cached)
    visible[max(0, begin - cached) :, begin:] = nodes[max(0, cached - begin) :]
    if window is not None:
        at = torch.tensor(_in_text((0, 0, longest), tree))
        visible &= at[cached:, None] - at < window
    return torch.where(visible, 0.0, -torch.inf).to(dtype)[None, None]


def _neighbours(singles: list[tuple[int, int]], launch: float) -> list[_Span]:
    """Group single tokens, given as (slot, length) in order of slots, into attention calls.

    A call reads every slot in its range, including idle ones, up to the longest length. So a sequence joins the
    previous group if that costs less than separate calls and one more launch, whose cost is `launch` tokens.
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
    """One call for a group of sequences, given as in `_neighbours`."""
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
    """The attention function that transformers calls in every layer, with [1, heads, tokens, width]."""
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
    """Register this attention with transformers, for models that run their own modules."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)
