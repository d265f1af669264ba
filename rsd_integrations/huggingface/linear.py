"""Linear layers with copies of their weights in the layouts that a CPU multiplies fastest."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from rsd_integrations.huggingface import digits
from rsd_integrations.huggingface.digits import Digits, Int8Linear

BLOCKS_FROM = 100_000
"""Number of weights from which oneDNN's blocks pay off: below, preparing the call takes longer than it saves."""
_BATCH_ROWS = 8
"""Rows for which the blocks are chosen."""


class Linear(nn.Module):
    """x · Wᵀ + b, of one layer or of several with the same input, whose outputs are concatenated.

    Layers keep views of the fused weight. CPU matrix libraries are slow at the few rows of decoding, by how much
    depends on the vendor; so if memory allows there is also a copy, in oneDNN's blocks or transposed.
    """

    def __init__(self, *layers: nn.Linear, copy: bool) -> None:
        """Take over layers; with `copy`, spend memory on a separate layout."""
        super().__init__()
        self.bias = None if layers[0].bias is None else _fused([layer.bias for layer in layers])
        weight = layers[0].weight.detach() if len(layers) == 1 else _fused([layer.weight for layer in layers])
        self.blocks: Tensor | None = None
        self.columns = weight.t()
        if copy and weight.numel() >= BLOCKS_FROM and has_blocks(weight.dtype):
            self.blocks = torch.ops.mkldnn._reorder_linear_weight.default(weight, _BATCH_ROWS)
            self.columns = weight.new_empty(0)  # unused, and does not keep the weight in memory
        elif copy:
            self.columns = self.columns.contiguous()

    def forward(self, x: Tensor) -> Tensor:
        """Apply to every row of x, in the weights' dtype."""
        blocks, bias, x = self.blocks, self.bias, x.to(self.columns.dtype)
        if blocks is not None:
            out: Tensor = torch.ops.mkldnn._linear_pointwise(x, blocks, bias, "none", [], "")
            return out
        return torch.mm(x, self.columns) if bias is None else torch.addmm(bias, x, self.columns)

    def onto(self, sum_: Tensor, x: Tensor) -> Tensor:
        """The output added to an fp32 tensor; for layers without bias."""
        if self.blocks is None and x.dtype == sum_.dtype:
            return torch.addmm(sum_, x, self.columns)
        return sum_ + self.forward(x)


class WideLinear(nn.Module):
    """x · Wᵀ in fp32 from weights in fewer bits, if the device's matrix library supports it."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.columns = weight.detach().t()

    def forward(self, x: Tensor) -> Tensor:
        """Apply to every row of x."""
        return torch.mm(x.to(self.columns.dtype), self.columns, out_dtype=torch.float32)


def fused(*layers: nn.Module, copy: bool) -> Linear | Digits:
    """Fuse layers that read the same input, in fp32 or fewer bits."""
    if isinstance(layers[0], Int8Linear):
        return digits.fused([layer for layer in layers if isinstance(layer, Int8Linear)])
    linear: Any = layers
    return Linear(*linear, copy=copy)


def output_head(layer: nn.Linear, copy: bool) -> nn.Module:
    """An output head with fp32 logits, whatever the weights' dtype: in bf16 the largest would tie.

    On a CPU, whose library rounds outputs to the weights' dtype, each weight is stored as two integers.
    """
    weight = layer.weight
    if weight.dtype == torch.float32 or layer.bias is not None:
        return Linear(layer, copy=copy)
    if weight.is_cpu and digits.available():
        return Digits.of(weight, 2)
    return WideLinear(weight) if _widens(weight.dtype, weight.device) else Linear(layer, copy=copy)


def _fused(parts: Sequence[Tensor]) -> Tensor:
    """Weights or biases of several layers as one tensor, of which the layers keep views."""
    whole = torch.cat([part.detach() for part in parts])
    for part, view in zip(parts, whole.split_with_sizes([len(part) for part in parts]), strict=True):
        part.data = view
    return whole


@cache
def _widens(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a device can compute products of this dtype in fp32; determined by trying."""
    some = torch.ones(16, 16, dtype=dtype, device=device)
    try:
        return torch.mm(some, some, out_dtype=torch.float32).dtype == torch.float32
    except (RuntimeError, NotImplementedError):
        return False


@cache
def has_blocks(dtype: torch.dtype) -> bool:
    """Whether this build and this CPU have oneDNN's blocks for a dtype; determined by trying."""
    try:
        torch.ops.mkldnn._reorder_linear_weight.default(torch.zeros(16, 16, dtype=dtype), _BATCH_ROWS)
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return True
