"""Checkpoints that are incomplete, or not for this engine: refused in words, before they write nonsense."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2ForSequenceClassification

from rsd_core import ConfigurationError
from rsd_integrations.huggingface import load_generator
from rsd_integrations.huggingface.loading import shards
from tests.huggingface.tiny import config, make_causal_lm

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_causal_lm(tmp_path_factory.mktemp("whole"))


def edited(folder: Path, file: str = "config.json", **changes: Any) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def written(folder: Path, file: str, text: str) -> None:
    (folder / file).write_text(text)


def as_reward_model(folder: Path) -> None:
    model = Qwen2ForSequenceClassification(config(tie_word_embeddings=False, num_labels=1))  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)


def without(folder: Path, tensor: str) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors[tensor]
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def not_finite(folder: Path) -> None:
    tensors = {name: tensor * torch.nan for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def as_adapter(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "adapter_model.safetensors")


def with_a_lost_shard(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "model-1.safetensors")
    written(folder, INDEX, '{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}')


def without_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def with_named_templates(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    edited(folder, "tokenizer_config.json", chat_template=[{"name": "rag", "template": "a"}])


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (as_reward_model, r"lm_head.weight first\. .* A reward model is used as prm:"),
        (lambda folder: without(folder, "model.layers.1.mlp.up_proj.weight"), "1 tensors of a language model are miss"),
        (not_finite, r"output in float32 is not finite \(is the download complete\?\)"),
        (as_adapter, "are those of an adapter: merge it into its base first"),
        (lambda folder: edited(folder, quantization_config={"quant_method": "awq", "bits": 4}), r"quantised \(awq\)"),
        (lambda folder: edited(folder, num_attention_heads="2"), r"does not accept its config\.json: .* expected int"),
        (lambda folder: edited(folder, hidden_act="foo"), "transformers cannot load it: KeyError: 'foo'"),
        (lambda folder: edited(folder, intermediate_size=128), "transformers cannot load it"),
        (lambda folder: edited(folder, rope_parameters={"rope_type": "yarn"}), r"config\.json: KeyError: .*factor"),
        (lambda folder: written(folder, "config.json", "{"), r"config\.json is not JSON"),
        (lambda folder: written(folder, "config.json", "[]"), r"config\.json holds no JSON object"),
        (lambda folder: written(folder, WEIGHTS, LFS), r"cannot be read .* is the download complete\?"),
        (with_a_lost_shard, "model-2.* is missing"),
        (lambda folder: written(folder, "tokenizer.json", LFS), "transformers cannot load its tokenizer"),
        (without_tokenizer, "its tokenizer has no vocabulary"),
        (with_named_templates, r"chat templates \(rag\) none is named default"),
    ],
)
def test_what_cannot_be_loaded_is_refused_in_words(
    spoil: Callable[[Path], None], told: str, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    spoil(folder)
    with pytest.raises(ConfigurationError, match=told):
        load_generator(str(folder))


def test_an_index_beside_whole_weights_is_not_read(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    written(folder, INDEX, '{"weight_map": {"a": "model-2.safetensors"}}')
    assert shards(folder, "a model") == [folder / WEIGHTS]
