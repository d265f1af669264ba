"""Products in whole numbers of 8 bits: weights in one or two digits, activations in two, sums exact.

A CPU with VNNI or AMX multiplies 8-bit numbers faster than any others, and reads them in half the time of bf16. One
digit is too coarse for activations, whose few large entries set the scale of a row: greedy tokens of SmolLM2 agree with
fp32's in 87 % of places with one digit, and in 97 % with two, as in bf16. So each row is split into a coarse and a fine
digit and multiplied as two. While few rows are decoded that costs nothing, since reading the weights takes the time. A
matrix in two digits has 15 bits, more than bf16's 8, in the same memory, and gives fp32: so output heads are kept.

oneDNN adds up in int32, which is exact, and all that follows is done entry by entry. So what a row gives depends on no
other row, to the bit. Of what torch 2.13 has, this is the fastest at every number of rows: `_int_mm` orders the weights
anew at each call, weight-only kernels (`_weight_int8pack_mm`) take ten times as long at 32 rows, the dynamic layers of
fbgemm have one scale for all rows, and torchao's have no kernels of their own on CPUs.
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
"""What is added to the digits of activations: x86-64 processors multiply unsigned numbers by signed ones. For two
signed ones oneDNN 3.12 has only reference code on those with VNNI or AVX-512 but without AMX: a hundred times
slower or worse."""
CHUNK = 16384
"""Rows of a weight matrix that are multiplied at once: what comes out of them is added up while it is in cache."""
REFUSED = "a model in int8 runs in the engine alone, and not by transformers; load it with dtype=bfloat16 or float32"
"""What is said of it where transformers is to run it."""
_BATCH_ROWS = 8
"""Rows that oneDNN's layout is chosen for."""


class Digits(nn.Module):
    """x · Wᵀ + b in fp32, of one layer or of several that read the same input: what they give lies side by side."""

    def __init__(self, weights: Sequence[Tensor], scales: Sequence[Tensor], bias: Tensor | None) -> None:
        """Take over digits of a matrix.

        Args:
            weights: One or two digits [rows, width] in int8, the coarse one first.
            scales: What a step of each is worth, for every row.
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
        """A matrix in so many digits, 1 or 2."""
        return cls(*split_weight(weight, count), None if bias is None else bias.detach().float())

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"chunks": [chunk.to_dense().t() for chunk in self.chunks]}  # oneDNN's layout is no data

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, chunks=[_packed(chunk.contiguous()) for chunk in state["chunks"]])

    def forward(self, x: Tensor) -> Tensor:
        """For every row of x."""
        product, scale = self._product(x)
        bias = self.bias
        return product.mul_(scale) if bias is None else torch.addcmul(bias, product, scale)

    def onto(self, sum_: Tensor, x: Tensor) -> Tensor:
        """What it gives, added to something in fp32; for layers without bias."""
        product, scale = self._product(x)
        return torch.addcmul(sum_, product, scale)

    def _product(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The product, but for the scale of each row of x."""
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
        """What a chunk gives for the coarse digits of all rows, and for the fine ones after them, as one."""
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
    """Digits of a weight matrix, and what a step of each is worth for every row."""
    weight = weight.detach()
    scale = weight.abs().amax(1).float().clamp_min(1e-30) / largest_weight()
    digits, scales = [], []
    for part, step in zip(torch.split(weight, CHUNK), torch.split(scale, CHUNK), strict=True):
        steps = part / step[:, None]  # in fp32, whatever the weights are in
        coarse = steps.round()
        some = [coarse] if count == 1 else [coarse, (steps - coarse).mul_(2 * largest_weight()).round_()]
        digits.append([one.to(torch.int8) for one in some])
    scales = [scale, scale / (2 * largest_weight())][:count]
    return [torch.cat(parts) for parts in zip(*digits, strict=True)], scales


@cache
def largest_weight() -> int:
    """Largest digit of a weight.

    Without VNNI, processors add two products in 16 bits and saturate; then weights have 7 bits, with which no sum of
    two can be too large. Told by trying the largest numbers.

    Raises:
        ConfigurationError: This build of torch has no oneDNN, or its products of whole numbers are not exact here.
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
    """Whether this build and this CPU have them."""
    try:
        return largest_weight() > 0
    except ConfigurationError:
        return False


class Int8Linear(nn.Module):
    """A linear layer of a model, its weights in int8."""

    def __init__(self, layer: Any) -> None:
        """Take over the weight and bias of a layer on a CPU."""
        super().__init__()
        self.product: Digits | None = Digits.of(layer.weight, 1, layer.bias)
        # Without numbers: what the model is counted by.
        self.weight = nn.Parameter(torch.empty(layer.weight.shape, dtype=torch.int8, device="meta"), False)
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """For every row of x, in its dtype."""
        out: Tensor = self.held()(x.reshape(-1, x.shape[-1])).to(x.dtype)
        return out.view(*x.shape[:-1], -1)

    def held(self) -> Digits:
        """Its weights.

        Raises:
            ConfigurationError: They have gone to the fused pass.
        """
        if self.product is None:
            raise ConfigurationError(REFUSED)
        return self.product


def check_layers(body: nn.Module, model: str) -> None:
    """Refuse a model whose layers are not mostly linear ones, such as a mixture of experts.

    Args:
        body: Its modules, with or without numbers.
        model: Its name, for messages.

    Raises:
        ConfigurationError: More than a tenth of the weights of its layers would stay in more bits.
    """
    sizes: Counter[type[nn.Module]] = Counter()
    for module in body.modules():
        if not isinstance(module, nn.Embedding):
            sizes[type(module)] += sum(one.numel() for one in module.parameters(recurse=False) if one.dim() > 1)
    total, left = sizes.total(), sizes.total() - sizes.pop(nn.Linear, 0)
    if left > total / 10:
        kind, _ = sizes.most_common(1)[0]
        raise ConfigurationError(
            f"{model}: dtype int8 is for linear layers, and {left / total:.0%} of the weights of its layers are in "
            f"others, {kind.__name__} first, which would stay in more bits; choose bfloat16, or a GGUF file (gguf:)"
        )


def quantise(body: nn.Module) -> None:
    """Put the linear layers of a model's body on a CPU into int8, each in place, so that none is held twice."""
    for module in list(body.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, Int8Linear(child))


def fused(layers: Sequence[Int8Linear]) -> Digits:
    """Layers that read the same input as one."""
    if len(layers) == 1:
        return layers[0].held()
    products = [layer.held() for layer in layers]
    weight = torch.cat([product.chunks[0].to_dense().t() for product in products])
    scale = torch.cat([product.scales[0] for product in products]) * ACTIVATION
    biases = [product.bias for product in products if product.bias is not None]
    return Digits([weight], [scale], torch.cat(biases) if biases else None)


def is_quantised(model: nn.Module) -> bool:
    """Whether layers of a model are in int8."""
    return any(isinstance(module, Int8Linear) for module in model.modules())


def release(model: nn.Module) -> bool:
    """Leave the weights to the fused pass; whether there are any."""
    layers = [module for module in model.modules() if isinstance(module, Int8Linear)]
    for layer in layers:
        layer.product = None
    return bool(layers)
