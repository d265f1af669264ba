"""Products in whole numbers: as exact as their bits, alike for every batch, on processors with VNNI and without."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path as Folder

import numpy as np
import pytest
import torch
from torch import nn

from rsd_core import ConfigurationError, Path, Step, StepRequest, as_prompt
from rsd_core.blocking import wait_for
from rsd_integrations.embedded.models import load
from rsd_integrations.huggingface import digits, dtypes, load_generator, load_likelihood, load_verifier, memory
from rsd_integrations.huggingface.digits import CHUNK, Digits, Int8Linear
from rsd_integrations.huggingface.fused_decoder import _scripted
from rsd_integrations.huggingface.linear import fused, output_head
from tests.huggingface.tiny import make_causal_lm, make_prm

INT8, PATH = "int8", Path(as_prompt("Mia has 45 apples."))


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


@pytest.mark.parametrize(("count", "rows"), [(1, 60), (2, 60), (2, CHUNK + 40)])
@torch.no_grad()
def test_a_product_is_that_of_its_digits_and_of_no_other_row(count: int, rows: int) -> None:
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
    assert torch.equal(given, _scripted(made)(x))


@torch.no_grad()
def test_layers_are_fused_as_they_are_and_added_to_what_is_there() -> None:
    torch.manual_seed(2)
    layers = [Int8Linear(nn.Linear(40, size, bias=False)) for size in (24, 8)]
    x, onto = rows_of(40), torch.randn(33, 32)
    whole = fused(*layers, copy=True)
    assert isinstance(whole, Digits)
    assert torch.equal(whole(x), torch.cat([layer(x) for layer in layers], -1))
    assert torch.allclose(whole.onto(onto, x), onto + whole(x), atol=1e-6)


@torch.no_grad()
def test_an_output_head_in_bf16_gives_fp32() -> None:
    """Where bf16 rounds its logits the best ones tie; here none do."""
    torch.manual_seed(3)
    head, hidden = nn.Linear(64, 3000, bias=False, dtype=torch.bfloat16), torch.randn(50, 64)
    exact = hidden.double() @ head.weight.double().t()
    given, rounded = output_head(head, copy=True)(hidden), head(hidden.bfloat16())
    assert given.dtype == torch.float32
    assert (given - exact).norm() < 1e-3 * exact.norm()
    assert rounded.topk(2).values.diff().eq(0).any()
    assert not given.topk(2).values.diff().eq(0).any()
    assert given.argmax(-1).equal(exact.argmax(-1))


@pytest.mark.parametrize("isa", ["AVX2", "AVX512_CORE"])
def test_processors_without_vnni_are_exact_too(isa: str) -> None:
    """They add up products in 16 bits, which saturates for weights of 8."""
    test = f"{__file__}::test_a_product_is_that_of_its_digits_and_of_no_other_row"
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": isa, "ATEN_CPU_CAPABILITY": "avx2"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


def test_models_in_int8_write_and_judge_nearly_as_in_fp32(tmp_path: Folder) -> None:
    folder, judge = str(make_causal_lm(tmp_path / "lm")), str(make_prm(tmp_path / "prm"))
    step = Step("She buys 12.\n\n", "delimiter")
    loads = partial(load_likelihood, folder, how="mean"), partial(load_verifier, judge)
    for judged in loads:
        exact, reduced = (wait_for(judged(dtype=dtype).score(PATH, [step])).rewards[0] for dtype in ("float32", INT8))
        assert reduced == pytest.approx(exact, abs=0.02)
        assert reduced != exact
    model = load_generator(folder, dtype=INT8)
    assert model.runner.fused is not None
    alone = wait_for(model.generate(PATH, StepRequest((5,), max_tokens=12))).steps[0]
    beside = wait_for(model.generate(PATH, StepRequest((3, 4, 5), max_tokens=12))).steps[2]
    assert alone.size > 0
    assert alone.text == beside.text


def test_the_embedded_family_solves_the_same_in_int8() -> None:
    question = Path(as_prompt("Tom has 3 apples and buys 4 more. How many apples does he have?"))
    exact, reduced = (
        wait_for(load("target", dtype=dtype).generate(question, StepRequest((0,), delimiter=None))).steps[0].text
        for dtype in ("float32", INT8)
    )
    assert reduced == exact


def test_nothing_is_held_in_more_bits_beside_int8(tmp_path: Folder) -> None:
    model = load_generator(str(make_causal_lm(tmp_path / "lm")), dtype=INT8)
    layers = [module for module in model.model.modules() if isinstance(module, Int8Linear)]
    assert layers
    assert all(layer.product is None and layer.weight.is_meta for layer in layers)
    held = memory.weights_of(model.model)
    assert held < 0.5 * 4 * model.model.num_parameters()  # embeddings and norms alone are in more bits
    with pytest.raises(ConfigurationError, match=r"int8 runs in the engine alone.*dtype=bfloat16"):
        model.model(input_ids=torch.tensor([[1, 2]]))


def test_a_model_that_was_left_to_a_runner_which_is_gone_is_loaded_anew(tmp_path: Folder) -> None:
    folder = str(make_causal_lm(tmp_path / "lm"))
    kept = load_generator(folder, dtype=INT8).model
    model, again = load_generator(folder, dtype=INT8), load_generator(folder, dtype=INT8)
    assert model.model is not kept
    assert model.runner is again.runner
    assert wait_for(model.generate(PATH, StepRequest((5,), max_tokens=4))).steps[0].size > 0


def test_int8_is_refused_where_it_does_not_run() -> None:
    with pytest.raises(ConfigurationError, match="int8 runs on a CPU and not on cuda; give device=cpu"):
        dtypes.named_dtype("int8", torch.device("cuda"))
