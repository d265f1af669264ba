"""Reward models in bf16."""

from pathlib import Path as Folder
from typing import Any

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, GraniteConfig, GraniteForCausalLM

from rsd_core import ConfigurationError
from rsd_integrations.huggingface import load_verifier
from tests.huggingface.reward_models import CASES, _options, granite_sequences, llama, make, plain, save
from tests.inprocess.test_reward_models import QUESTION, STEPS, extended, one

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


def test_logits_that_a_model_scales_are_scaled(tmp_path: Folder) -> None:
    """Granite's reward is a probability of its own words, and not of logits four times as large."""
    torch.manual_seed(0)
    model: Any = GraniteForCausalLM(GraniteConfig(**_options(llama()), logits_scaling=4.0))
    folder = save(model, llama(), tmp_path / "granite")
    verifier = load_verifier(str(folder), format="granite-prm", dtype="float32")
    ids, at = granite_sequences(QUESTION, STEPS[:1])[0]
    with torch.inference_mode():
        logits = model.eval()(torch.tensor([ids])).logits[0, at]
    wanted = logits[[plain(llama(), word)[0] for word in "YN"]].softmax(-1)[0]
    assert one(verifier, extended([]), STEPS[0]) == pytest.approx(float(wanted), abs=1e-5)
    assert abs(float(wanted) - float((4 * logits[[plain(llama(), w)[0] for w in "YN"]]).softmax(-1)[0])) > 1e-2


def test_logits_that_a_model_bends_are_refused(tmp_path: Folder) -> None:
    folder = save(Gemma2ForCausalLM(Gemma2Config(**_options(llama(), head_dim=32))), llama(), tmp_path / "gemma")
    with pytest.raises(ConfigurationError, match=r"'gemma2' cap their logits.* judge,mode=yes_no"):
        load_verifier(str(folder), format="granite-prm")
