"""The dtype of models by default."""

import json
from pathlib import Path as Folder
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2Model, Qwen3MoeConfig, Qwen3MoeForCausalLM

from rsd_core import ConfigurationError, DraftOnly, Limits, Path, Settings, Step, StepRequest, as_prompt
from rsd_core.blocking import wait_for
from rsd_integrations.embedded.models import load as embedded
from rsd_integrations.huggingface import (
    dtypes,
    load_generator,
    load_likelihood,
    load_shared,
    load_verifier,
    loading,
    memory,
)
from rsd_integrations.huggingface.digits import Int8Linear
from rsd_integrations.huggingface.from_pretrained import load_causal_lm
from tests.benchmarks.reduced_precision import divergence, logits
from tests.cli.test_cli import rsd
from tests.huggingface.reward_models import CASES, make
from tests.huggingface.test_shared import with_head
from tests.huggingface.tiny import make_causal_lm, make_prm, tokenizer

CPU = torch.device("cpu")


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model is large."""
    monkeypatch.setattr(dtypes, "LARGE", 1000)


@pytest.mark.parametrize("able", [True, False])
@pytest.mark.usefixtures("large")
def test_large_models_run_in_what_the_processor_multiplies(
    tmp_path: Folder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, able: bool
) -> None:
    monkeypatch.setattr(dtypes, "multiplies_bf16", lambda: able)
    caplog.set_level("INFO", "rsd_integrations.huggingface.dtypes")
    wanted = torch.bfloat16 if able else torch.float32
    writer, reader = str(make_causal_lm(tmp_path / "lm")), str(make_prm(tmp_path / "prm"))
    model, verifier = load_generator(writer), load_verifier(reader)
    runners = [one.runner for one in (model, verifier, load_likelihood(writer))]
    assert {runner.model.dtype for runner in runners} == {wanted}
    said = f"{writer} runs in {dtypes.dtype_name(wanted)} on cpu: this processor"
    told = [record.getMessage() for record in caplog.records if record.name == dtypes.__name__]
    assert [said in message for message in told] == [True, False, True]
    path = Path(as_prompt("Mia has 45 apples."))
    (step,) = wait_for(model.generate(path, StepRequest((0,), max_tokens=8))).steps
    assert step.size > 0
    (reward,) = wait_for(verifier.score(path, [Step("She buys 12.\n\n", "delimiter")])).rewards
    exact = load_verifier(reader, dtype="float32")
    assert reward == pytest.approx(
        wait_for(exact.score(path, [Step("She buys 12.\n\n", "delimiter")])).rewards[0], abs=0.05 if able else 1e-6
    )


def test_small_models_run_in_fp32_on_a_cpu(tmp_path: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dtypes, "multiplies_bf16", lambda: True)
    folder = make_causal_lm(tmp_path / "lm")
    assert load_generator(str(folder)).model.dtype == torch.float32
    assert load_generator(str(folder), dtype="bfloat16").model.dtype == torch.bfloat16
    assert dtypes.default_dtype(torch.device("cuda"), loading.shards(folder, "lm"), "lm") == torch.bfloat16


@pytest.mark.parametrize(
    ("abilities", "able"), [({"avx2": True}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True)]
)
def test_what_the_processor_multiplies_is_detected_by_its_abilities_and_not_by_time(
    monkeypatch: pytest.MonkeyPatch, abilities: dict[str, bool], able: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: abilities, raising=False)
    monkeypatch.setattr(dtypes, "has_blocks", lambda _: True)
    assert dtypes.multiplies_bf16.__wrapped__() is able
    monkeypatch.setattr(dtypes, "has_blocks", lambda _: False)  # a build of torch without oneDNN
    assert not dtypes.multiplies_bf16.__wrapped__()


def test_in_bf16_the_engine_is_nearer_to_fp32_than_the_modules_of_transformers(tmp_path: Folder) -> None:
    """Over ids that the model writes; `tests.benchmarks.reduced_precision` has the same on real weights."""
    folder = make_causal_lm(tmp_path / "lm", hidden_size=64, num_hidden_layers=4, vocab_size=2000)
    ids = torch.randint(0, 2000, (200,), generator=torch.Generator().manual_seed(0)).tolist()
    ours = {name: load_generator(str(folder), dtype=name).runner for name in ("float32", "bfloat16")}
    modules = load_causal_lm(folder, torch.bfloat16, CPU)
    with torch.inference_mode():
        plain = modules(torch.tensor([ids])).logits[0].float()
    exact, near = (logits(runner, ids) for runner in ours.values())
    assert 0 < divergence(exact, near).mean() < 0.8 * divergence(exact, plain).mean()


@pytest.mark.parametrize("load", [load_generator, load_likelihood, load_verifier])
def test_an_unknown_dtype_is_refused_before_anything_is_fetched(load: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"dtype 'int4' is unknown; choose one of float32, .*, float16, int8"):
        load("no/such-model", dtype="int4")


def in_bf16(folder: Folder) -> Folder:
    """The checkpoint with all its numbers in bf16."""
    for file in folder.glob("*.safetensors"):
        save_file({key: tensor.bfloat16() for key, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    for file in (*folder.glob("*.bin"), *folder.glob("*.pt")):
        torch.save({key: tensor.bfloat16() for key, tensor in torch.load(file).items()}, file)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_a_reward_head_is_in_fp32_whatever_its_weights_and_its_body_are_in(tmp_path: Folder, name: str) -> None:
    """Rewards near a threshold are not to be rounded to three digits."""
    make(name, tmp_path / name)
    model = load_verifier(str(in_bf16(tmp_path / name)), dtype="bfloat16", **CASES[name].options)
    assert {weight.dtype for weight in model.head.parameters()} == {torch.float32}
    assert {weight.dtype for weight in model.body.parameters()} == {torch.bfloat16}
    (reward,) = wait_for(
        model.score(Path(as_prompt("Mia has 45 apples.")), [Step("She buys 12.\n\n", "delimiter")])
    ).rewards
    assert reward is not None
    assert torch.tensor(reward).bfloat16().item() != reward


def test_a_shared_reward_head_is_in_fp32(tmp_path: Folder) -> None:
    model = load_shared(str(in_bf16(with_head(make_causal_lm(tmp_path / "lm")))), dtype="bfloat16")
    assert {weight.dtype for weight in model.head.parameters()} == {torch.float32}


def test_a_body_of_other_dtypes_than_asked_for_is_refused(tmp_path: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Qwen2Model, "_keep_in_fp32_modules_strict", {"norm"})
    folder = str(make_prm(tmp_path / "prm"))
    with pytest.raises(
        ConfigurationError, match=r"weights in .*torch\.float32.* although torch\.bfloat16 was requested"
    ):
        load_verifier(folder, dtype="bfloat16")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "npu:x"])
def test_a_device_that_is_not_there_is_reported_in_one_line(device: str) -> None:
    with pytest.raises(ConfigurationError, match=f"device '{device}' cannot be used here") as caught:
        loading.choose_device(device)
    assert "\n" not in str(caught.value)
    assert loading.choose_device("cpu") == CPU


def moe(folder: Folder) -> Folder:
    """A mixture of experts, whose weights are three-dimensional once they are loaded."""
    config = Qwen3MoeConfig(
        vocab_size=len(tokenizer()),
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=256,
    )
    Qwen3MoeForCausalLM(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def test_int8_is_refused_where_most_weights_would_stay_in_more_bits(tmp_path: Folder) -> None:
    """Before they are read; `rsd plan` promises nothing else."""
    folder = str(moe(tmp_path / "moe"))
    told = r"int8 is for linear layers, but \d+% of its layers' weights are in others, Qwen3MoeExperts first"
    with pytest.raises(ConfigurationError, match=told):
        load_generator(folder, dtype="int8")
    with pytest.raises(ConfigurationError, match=told):
        rsd("plan", f"hf,dtype=int8:{folder}")
    assert load_generator(folder, dtype="bfloat16").dtype == "bfloat16"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_what_models_run_in_is_reported(tmp_path: Folder, dtype: str) -> None:
    folder, judge = str(make_causal_lm(tmp_path / "lm")), str(make_prm(tmp_path / "prm"))
    models: list[Any] = [load_generator(folder, dtype=dtype), load_likelihood(folder, dtype=dtype)]
    models += [load_verifier(judge, dtype=dtype), embedded("draft", dtype=dtype)]
    assert [model.dtype for model in models] == [dtype] * 4
    decoder = DraftOnly(drafter=models[0], settings=Settings(limits=Limits(max_tokens=4)))
    data: Any = json.loads(json.dumps(decoder.run("Mia has 45 apples.").to_dict()))
    assert data["ledger"]["drafter"]["dtype"] == dtype


def test_weights_of_int8_are_counted_as_they_are_held(tmp_path: Folder) -> None:
    folder = make_causal_lm(tmp_path / "lm", num_hidden_layers=3)
    told = memory.model_memory(
        "lm", loading.shards(folder, "lm"), loading.read_config(folder), torch.int8, torch.bfloat16
    )
    model = loading.load_causal_lm(folder, torch.int8, CPU, False)
    layers = [module for module in model.modules() if isinstance(module, Int8Linear)]
    scales = sum(layer.weight.shape[0] for layer in layers)
    others = sum(one.numel() for one in model.parameters() if one.dtype != torch.int8)
    assert told.weights == sum(layer.weight.numel() for layer in layers) + 4 * scales + 2 * others
