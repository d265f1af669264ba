"""Linear layers over copies of their weights: the layers' own results, in every layout and for any rows."""

import pytest
import torch
from torch import nn

from rsd_integrations.huggingface import linear
from rsd_integrations.huggingface.linear import Linear


def some_layers(bias: bool, dtype: torch.dtype) -> list[nn.Linear]:
    torch.manual_seed(0)
    return [nn.Linear(40, size, bias=bias, dtype=dtype) for size in (24, 8, 56)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layout", ["plain", "transposed", "blocks"])
@torch.no_grad()
def test_it_gives_what_the_layers_give(
    layout: str, bias: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "BLOCKS_FROM", 0 if layout == "blocks" else 10**9)
    layers = some_layers(bias, dtype)
    made = Linear(*layers, copy=layout != "plain")
    assert (made.blocks is not None) == (layout == "blocks" and linear.has_blocks(dtype))
    near = 1e-5 if dtype is torch.float32 else 0.02
    for rows in (1, 2, 7, 33):
        x, onto = torch.randn(rows, 40, dtype=dtype), torch.randn(rows, 88, dtype=dtype)
        wanted = torch.cat([layer(x) for layer in layers], -1)
        assert torch.allclose(made(x), wanted, rtol=near, atol=near)
        if not bias:
            before = onto.clone()
            assert torch.allclose(made.onto(onto, x), wanted + onto, rtol=near, atol=2 * near)
            assert torch.equal(onto, before)


def test_blocks_are_known_to_this_build() -> None:
    assert linear.has_blocks(torch.float32) == torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


def test_no_copy_is_made_unless_asked_for() -> None:
    layers = some_layers(False, torch.float32)
    made = Linear(*layers, copy=False)
    assert made.columns.data_ptr() == layers[0].weight.data_ptr()
