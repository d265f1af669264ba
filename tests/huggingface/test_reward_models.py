"""Reward models in bf16."""

from pathlib import Path as Folder

import pytest
import torch

from rsd_integrations.huggingface import load_verifier
from tests.huggingface.reward_models import CASES, make
from tests.inprocess.test_reward_models import STEPS, extended, one

pytestmark = pytest.mark.filterwarnings("ignore:.*not initialized.*")


@pytest.mark.parametrize("name", CASES)
def test_the_body_runs_in_bf16_and_the_head_in_fp32(tmp_path: Folder, name: str) -> None:
    folder = make(name, tmp_path / name)
    model = load_verifier(str(folder), **CASES[name].options)
    half = load_verifier(str(folder), dtype="bfloat16", **CASES[name].options)
    assert {p.dtype for p in half.body.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in half.head.parameters()} == {torch.float32}
    assert all(b.dtype == torch.float32 for n, b in half.body.named_buffers() if "inv_freq" in n)
    assert one(half, extended([]), STEPS[0]) == pytest.approx(one(model, extended([]), STEPS[0]), abs=0.2)
