"""Linear layers over copies of their weights in the layouts that a CPU multiplies fastest."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor, nn

BLOCKS_FROM = 100_000
"""Entries from which oneDNN's blocks pay: below, preparing its call takes longer than it saves."""
_BATCH_ROWS = 8
"""Rows that the blocks are chosen for."""


class Linear(nn.Module):
    """x · Wᵀ + b, of one layer or of several that read the same input: what they give lies side by side.

    Layers keep views of the fused weight. A CPU's matrix library is slow at the few rows that decoding has, by how
    much depends on its maker; so where memory allows there is a copy beside it, in oneDNN's blocks or transposed.
    """

    def __init__(self, *layers: nn.Linear, copy: bool) -> None:
        """Take over layers; with `copy`, spend memory on a layout of its own."""
        super().__init__()
        self.bias = None if layers[0].bias is None else _fused([layer.bias for layer in layers])
        weight = layers[0].weight.detach() if len(layers) == 1 else _fused([layer.weight for layer in layers])
        self.blocks: Tensor | None = None
        self.columns = weight.t()
        if copy and weight.numel() >= BLOCKS_FROM and _has_blocks(weight.dtype):
            self.blocks = torch.ops.mkldnn._reorder_linear_weight.default(weight, _BATCH_ROWS)
            self.columns = weight.new_empty(0)  # not used, and nothing here keeps the weight in memory
        elif copy:
            self.columns = self.columns.contiguous()

    def forward(self, x: Tensor) -> Tensor:
        """For every row of x."""
        blocks, bias = self.blocks, self.bias
        if blocks is not None:
            out: Tensor = torch.ops.mkldnn._linear_pointwise(x, blocks, bias, "none", [], "")
            return out
        return torch.mm(x, self.columns) if bias is None else torch.addmm(bias, x, self.columns)

    def onto(self, sum_: Tensor, x: Tensor) -> Tensor:
        """What it gives, added to something; for layers without bias."""
        return torch.addmm(sum_, x, self.columns) if self.blocks is None else self.forward(x).add_(sum_)


def _fused(parts: Sequence[Tensor]) -> Tensor:
    """Weights or biases of some layers as one tensor, of which the layers keep views."""
    whole = torch.cat([part.detach() for part in parts])
    for part, view in zip(parts, whole.split_with_sizes([len(part) for part in parts]), strict=True):
        part.data = view
    return whole


@cache
def _has_blocks(dtype: torch.dtype) -> bool:
    """Whether this build and this CPU have oneDNN's blocks for a dtype; told by trying."""
    try:
        torch.ops.mkldnn._reorder_linear_weight.default(torch.zeros(16, 16, dtype=dtype), _BATCH_ROWS)
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return True
