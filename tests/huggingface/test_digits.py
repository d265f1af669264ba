"""Integer products: as exact as their bits, the same in every batch, on processors with and without VNNI."""

import copy
import os
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path as Folder

import pytest
import torch
from torch import nn

from rsd_core import ConfigurationError, Path, Step, StepRequest, as_prompt
from rsd_core.blocking import wait_for
from rsd_integrations.embedded.models import load
from rsd_integrations.huggingface import (
    HuggingFaceGenerator,
    digits,
    dtypes,
    load_generator,
    load_likelihood,
    load_verifier,
)
from rsd_integrations.huggingface.digits import Digits, Int8Linear
from rsd_integrations.huggingface.linear import fused, output_head
from rsd_integrations.huggingface.runner import weights_of
from tests.huggingface.products import CASES, check, rows_of
from tests.huggingface.tiny import make_causal_lm, make_prm

INT8, PATH = "int8", Path(as_prompt("Mia has 45 apples."))


@pytest.mark.parametrize(("count", "rows"), CASES)
def test_a_product_is_that_of_its_digits_and_of_no_other_row(count: int, rows: int) -> None:
    check(count, rows)


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


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 2])
def test_copies_and_pickles_give_the_same(count: int) -> None:
    torch.manual_seed(4)
    product, x = Digits.of(torch.randn(digits.CHUNK + 40, 24), count, torch.randn(digits.CHUNK + 40)), rows_of(24)
    for other in (copy.deepcopy(product), pickle.loads(pickle.dumps(product))):
        assert torch.equal(other(x), product(x))


@pytest.mark.parametrize("instructions", ["DEFAULT", "AVX512_CORE", "AVX2_VNNI", "AVX2"])
def test_other_processors_are_exact_too_and_not_by_reference_code(instructions: str) -> None:
    """Without VNNI they add up products in 16 bits, which saturates for weights of 8."""
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": instructions, "ONEDNN_VERBOSE": "1"}
    if instructions == "AVX2":
        environment["ATEN_CPU_CAPABILITY"] = "avx2"
    program = "from tests.huggingface.products import CASES, check\nfor case in CASES: check(*case)"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    used = {line.split(",")[6] for line in done.stdout.splitlines() if "exec,cpu,matmul" in line}
    assert used
    assert not any(implementation.startswith("ref") for implementation in used), used


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
    texts = []
    for dtype in ("float32", INT8):
        model = load("target", dtype=dtype)
        assert isinstance(model, HuggingFaceGenerator)
        texts.append(wait_for(model.generate(question, StepRequest((0,), delimiter=None))).steps[0].text)
    assert texts[0] == texts[1]


def test_int8_layers_keep_no_weights_in_more_bits(tmp_path: Folder) -> None:
    model = load_generator(str(make_causal_lm(tmp_path / "lm")), dtype=INT8)
    layers = [module for module in model.model.modules() if isinstance(module, Int8Linear)]
    assert layers
    assert all(layer.product is None and layer.weight.is_meta for layer in layers)
    held = weights_of(model.model)
    assert held < 0.5 * 4 * model.model.num_parameters()  # embeddings and norms alone are in more bits
    with pytest.raises(ConfigurationError, match=r"int8 runs only in the engine.*dtype=bfloat16"):
        model.model(input_ids=torch.tensor([[1, 2]]))


def test_a_model_whose_runner_is_gone_is_loaded_again(tmp_path: Folder) -> None:
    folder = str(make_causal_lm(tmp_path / "lm"))
    kept = load_generator(folder, dtype=INT8).model
    model, again = load_generator(folder, dtype=INT8), load_generator(folder, dtype=INT8)
    assert model.model is not kept
    assert model.runner is again.runner
    assert wait_for(model.generate(PATH, StepRequest((5,), max_tokens=4))).steps[0].size > 0


def test_int8_is_refused_where_it_does_not_run() -> None:
    with pytest.raises(ConfigurationError, match="int8 runs only on a CPU, not on cuda; give device=cpu"):
        dtypes.named_dtype("int8", torch.device("cuda"))
