"""Integer products against their definition, for processes that import little."""

import numpy as np
import torch

from rsd_integrations.huggingface import digits
from rsd_integrations.huggingface.digits import CHUNK, Digits
from rsd_integrations.huggingface.fused_decoder import SCRIPTED, _scripted

CASES = ((1, 60), (2, 60), (2, CHUNK + 40))
"""Digits of a weight, and rows of a matrix: in one piece and in several."""


def rows_of(width: int) -> torch.Tensor:
    """Rows of all sorts: zeros, tiny ones, one with an outlier."""
    torch.manual_seed(0)
    x = torch.randn(33, width)
    x[3], x[4], x[5, 0] = 0.0, x[4] * 1e-6, 500.0
    return x


def reference(x: torch.Tensor, weights: list[torch.Tensor], scales: list[torch.Tensor]) -> np.ndarray:
    """The product by the definition: every activation in steps of 1/(127 · 254) of its row's largest, in int64."""
    largest = np.abs(x.numpy()).max(1, keepdims=True).clip(1e-30)
    steps = x.numpy() * (np.float32(127) / largest)
    coarse = np.rint(steps)
    fine = np.rint((steps - coarse) * np.float32(254))
    total = np.zeros((len(x), len(weights[0])))
    for weight, scale in zip(weights, scales, strict=True):
        whole = weight.numpy().astype(np.int64).T
        sums = coarse.astype(np.int64) @ whole + (fine.astype(np.int64) @ whole) / 254
        total += sums * scale.numpy()
    return np.asarray(total * largest / 127)


@torch.no_grad()
def check(count: int, rows: int) -> None:
    """A product is that of its digits, as near to the exact one as their bits, and depends on no other row."""
    torch.manual_seed(1)
    weight, bias, x = torch.randn(rows, 72), torch.randn(rows), rows_of(72)
    before = weight.clone()
    made = Digits.of(weight, count, bias)
    assert torch.equal(weight, before)
    given = made(x)
    assert given.dtype == torch.float32
    wanted = reference(x, *digits.split_weight(weight, count)) + bias.numpy()
    assert np.allclose(given.numpy(), wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max(1, keepdims=True))
    bits = 7 if digits.largest_weight() == 127 else 6
    near = 2.0 ** -(bits if count == 1 else 2 * bits)
    exact = x.double() @ weight.double().t() + bias
    scale = x.norm(dim=1, keepdim=True) * weight.norm(dim=1) + bias.abs()
    assert ((given - exact).abs() / scale).max() < near
    assert torch.equal(given, torch.cat([made(row[None]) for row in x]))
    scripted = _scripted(made)
    assert isinstance(scripted, torch.jit.ScriptModule) or not SCRIPTED
    assert torch.equal(given, scripted(x))
