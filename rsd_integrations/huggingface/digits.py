"""Matrix products in 8-bit integers: weights in one or two digits, activations in two, sums exact.

A CPU with VNNI or AMX multiplies 8-bit numbers faster than any others, and reads them in half the time of bf16. One
digit is too coarse for activations, whose few large entries set the scale of a row: greedy tokens of SmolLM2 agree with
fp32's at 87 % of positions with one digit, and at 97 % with two, as in bf16. So each row is split into a coarse and a
fine digit and multiplied as two. For few rows, as in decoding, that is free, since reading the weights dominates. A
matrix in two digits has 15 bits, more than bf16's 8, in the same memory, and its products are in fp32: output heads are
stored this way.

oneDNN sums in int32, which is exact, and everything after that is elementwise. So results are batch-invariant. In torch
2.13 this is the fastest option at every number of rows: `_int_mm` reorders the weights at each call, weight-only
kernels (`_weight_int8pack_mm`) take ten times as long at 32 rows, fbgemm's dynamic layers have one scale for all rows,
and torchao's have no CPU kernels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from rsd_core import ConfigurationError

ACTIVATION = 127
"""Largest digit of an activation."""
ZERO = 128
"""Offset added to the digits of activations: x86-64 processors multiply unsigned by signed numbers. For two signed
ones, oneDNN 3.12 has only reference code on processors with VNNI or AVX-512 but without AMX: a hundred times slower or
worse."""
CHUNK = 16384
"""Rows of a weight matrix that are multiplied at once, so that their products are summed while in cache."""
REFUSED = "a model in int8 runs only in the engine and not in transformers; load it with dtype=bfloat16 or float32"
"""The error message when transformers is to run such a model."""
_BATCH_ROWS = 8
"""Rows for which oneDNN's layout is chosen."""


class Digits(nn.Module):
    """x · Wᵀ + b in fp32, of one layer or of several with the same input, whose outputs are concatenated."""

    def __init__(self, weights: Sequence[Tensor], scales: Sequence[Tensor], bias: Tensor | None) -> None:
        """Take over a matrix in digits.

        Args:
            weights: One or two digits [rows, width] in int8, the coarse one first.
            scales: The value of one unit of each digit, per row.
            bias: In fp32.
        """
        super().__init__()
        self.rows, self.bias, self.two = weights[0].shape[0], bias, len(weights) == 2
        self.largest, self.zero = float(ACTIVATION), ZERO  # TorchScript knows no globals
        size = CHUNK if self.two else self.rows
        self.chunks = [
            _packed(torch.cat(part)) for part in zip(*[torch.split(weight, size) for weight in weights], strict=True)
        ]
        steps = zip(*[torch.split(scale, size) for scale in scales], strict=True)
        self.scales = [torch.cat(step) / self.largest for step in steps]
        self.zeros = torch.zeros(len(self.scales[0]), dtype=torch.long)

    @classmethod
    def of(cls, weight: Tensor, count: int, bias: Tensor | None = None) -> Digits:
        """A matrix in 1 or 2 digits."""
        return cls(*split_weight(weight, count), None if bias is None else bias.detach().float())

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"chunks": [chunk.to_dense().t() for chunk in self.chunks]}  # its layout is opaque

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, chunks=[_packed(chunk.contiguous()) for chunk in state["chunks"]])

    def forward(self, x: Tensor) -> Tensor:
        """Apply to every row of x."""
        product, scale = self._product(x)
        bias = self.bias
        return product.mul_(scale) if bias is None else torch.addcmul(bias, product, scale)

    def onto(self, sum_: Tensor, x: Tensor) -> Tensor:
        """The output added to an fp32 tensor; for layers without bias."""
        product, scale = self._product(x)
        return torch.addcmul(sum_, product, scale)

    def _product(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The unscaled product, and the scale of each row of x."""
        rows = x.shape[0]
        scale = x.abs().amax(-1, keepdim=True).float().clamp_min_(1e-30)
        steps = x * (self.largest / scale)
        coarse = steps.round()
        fine = steps.sub_(coarse).mul_(2 * self.largest).round_()
        digits = torch.empty(2 * rows, x.shape[1], dtype=torch.uint8)
        digits[:rows].copy_(coarse.add_(self.zero))
        digits[rows:].copy_(fine.add_(self.zero))
        if not self.two:
            return self._sum(digits, 0), scale
        out, begin = torch.empty(rows, self.rows, dtype=torch.float32), 0
        for i in range(len(self.chunks)):
            product = self._sum(digits, i)
            size = product.shape[1] // 2
            torch.add(product[:, :size], product[:, size:], out=out[:, begin : begin + size])
            begin += size
        return out, scale

    def _sum(self, digits: Tensor, chunk: int) -> Tensor:
        """The combined products of a chunk with the digits of all rows, coarse ones first, then fine ones."""
        scales, rows = self.scales[chunk], digits.shape[0] // 2
        zeros = self.zeros[: scales.shape[0]]
        both = torch.ops.onednn.qlinear_pointwise(
            digits, 1.0, self.zero, self.chunks[chunk], scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return torch.add(both[:rows], both[rows:], alpha=1 / (2 * self.largest))


def _packed(weight: Tensor) -> Tensor:
    """Digits in oneDNN's layout."""
    packed: Tensor = torch.ops.onednn.qlinear_prepack(weight, [_BATCH_ROWS, weight.shape[1]])
    return packed


def split_weight(weight: Tensor, count: int) -> tuple[list[Tensor], list[Tensor]]:
    """The digits of a weight matrix, and the value of one unit of each, per row."""
    weight = weight.detach()
    scale = weight.abs().amax(1).float().clamp_min(1e-30) / largest_weight()
    digits, scales = [], []
    for part, step in zip(torch.split(weight, CHUNK), torch.split(scale, CHUNK), strict=True):
        steps = part / step[:, None]  # in fp32, whatever the weights' dtype
        coarse = steps.round()
        some = [coarse] if count == 1 else [coarse, (steps - coarse).mul_(2 * largest_weight()).round_()]
        digits.append([one.to(torch.int8) for one in some])
    scales = [scale, scale / (2 * largest_weight())][:count]
    return [torch.cat(parts) for parts in zip(*digits, strict=True)], scales


@cache
def largest_weight() -> int:
    """Largest digit of a weight.

    Without VNNI, processors add two products in 16 bits and saturate; weights then have 7 bits, so that no sum of two
    can overflow. Determined by trying the largest numbers.

    Raises:
        ConfigurationError: This build of torch has no oneDNN, or its integer products are not exact on this processor.
    """
    for largest in (127, 63):
        weight = torch.full((16, 64), largest, dtype=torch.int8)
        x = torch.full((2, 64), ZERO + ACTIVATION, dtype=torch.uint8)
        try:
            packed = _packed(weight)
            found = torch.ops.onednn.qlinear_pointwise(
                *(x, 1.0, ZERO, packed, torch.ones(16), torch.zeros(16, dtype=torch.long), None, 1.0, 0),
                *(torch.float32, "none", [], ""),
            )
        except (RuntimeError, AttributeError, NotImplementedError) as error:
            raise ConfigurationError(
                "dtype int8 needs torch with oneDNN on this processor; choose bfloat16 or float32"
            ) from error
        if found.eq(64 * largest * ACTIVATION).all():
            return largest
    raise ConfigurationError(
        "oneDNN's sums of 8-bit products are not exact on this processor, as dtype int8 needs; choose float32"
    )


@cache
def available() -> bool:
    """Whether this build and this CPU have such products."""
    try:
        return largest_weight() > 0
    except ConfigurationError:
        return False


class Int8Linear(nn.Module):
    """A linear layer with weights in int8."""

    def __init__(self, layer: Any) -> None:
        """Take over the weight and bias of a layer on a CPU."""
        super().__init__()
        self.product: Digits | None = Digits.of(layer.weight, 1, layer.bias)
        # Without data: only for counting the model's weights.
        self.weight = nn.Parameter(torch.empty(layer.weight.shape, dtype=torch.int8, device="meta"), False)
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """Apply to every row of x, in the dtype of x."""
        out: Tensor = self.held()(x.reshape(-1, x.shape[-1])).to(x.dtype)
        return out.view(*x.shape[:-1], -1)

    def held(self) -> Digits:
        """Its weights.

        Raises:
            ConfigurationError: The fused pass has taken them over.
        """
        if self.product is None:
            raise ConfigurationError(REFUSED)
        return self.product


def check_layers(body: nn.Module, model: str) -> None:
    """Refuse a model whose layers are not mostly linear, such as a mixture of experts.

    Args:
        body: Its modules, with or without data.
        model: Its name, for messages.

    Raises:
        ConfigurationError: More than a tenth of its layers' weights would not be in int8.
    """
    sizes: Counter[type[nn.Module]] = Counter()
    for module in body.modules():
        if not isinstance(module, nn.Embedding):
            sizes[type(module)] += sum(one.numel() for one in module.parameters(recurse=False) if one.dim() > 1)
    total, left = sizes.total(), sizes.total() - sizes.pop(nn.Linear, 0)
    if left > total / 10:
        kind, _ = sizes.most_common(1)[0]
        raise ConfigurationError(
            f"{model}: dtype int8 is for linear layers, but {left / total:.0%} of its layers' weights are in "
            f"others, {kind.__name__} first, which would not be in int8; choose bfloat16, or a GGUF file (gguf:)"
        )


def quantise(body: nn.Module) -> None:
    """Convert the linear layers of a model's body on a CPU to int8, each in place, so that none is in memory twice."""
    for module in list(body.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, Int8Linear(child))


def fused(layers: Sequence[Int8Linear]) -> Digits:
    """Fuse layers that read the same input."""
    if len(layers) == 1:
        return layers[0].held()
    products = [layer.held() for layer in layers]
    weight = torch.cat([product.chunks[0].to_dense().t() for product in products])
    scale = torch.cat([product.scales[0] for product in products]) * ACTIVATION
    biases = [product.bias for product in products if product.bias is not None]
    return Digits([weight], [scale], torch.cat(biases) if biases else None)


def is_quantised(model: nn.Module) -> bool:
    """Whether a model has layers in int8."""
    return any(isinstance(module, Int8Linear) for module in model.modules())


def release(model: nn.Module) -> bool:
    """Leave the int8 weights to the fused pass; returns whether there are any."""
    layers = [module for module in model.modules() if isinstance(module, Int8Linear)]
    for layer in layers:
        layer.product = None
    return bool(layers)
