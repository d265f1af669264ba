"""Checkpoints as GGUF files: llama.cpp computes the same with them as transformers, or they are not written."""

import json
import shutil
import sys
import weakref
from collections.abc import Callable
from pathlib import Path as Folder
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from rsd_core import ConfigurationError, MissingDependency, RSDError
from rsd_integrations.embedded.models import FOLDER, NAMES
from rsd_integrations.huggingface import gguf_tokenizers
from rsd_integrations.huggingface.reward_models import Weights
from rsd_integrations.huggingface.to_gguf import export
from rsd_integrations.llamacpp.model import Attribute, Model
from tests.huggingface.gguf_checkpoints import CASES, exact, ids, logits, make, own_logits, sentencepiece
from tests.huggingface.reward_models import make as make_reward_model
from tests.huggingface.test_shared import with_head
from tests.huggingface.tiny import make_causal_lm, make_prm

CLOSE = 1e-3


def settings(file: Folder) -> dict[str, Any]:
    return {key: field.contents() for key, field in gguf.GGUFReader(file).fields.items()}


def types(file: Folder) -> dict[str, str]:
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors}


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers(case: str, tmp_path: Folder) -> None:
    folder = make(case, tmp_path / "model")
    tokens = ids(200)
    own = own_logits(folder, tokens)
    assert own.std() > 0.5
    assert np.abs(logits(export(str(folder), tmp_path / "f32.gguf"), tokens) - own).max() < CLOSE
    for kind, near in (("f16", 0.9999), ("q8_0", 0.99)):
        other = logits(export(str(folder), tmp_path / f"{kind}.gguf", type=kind), tokens)
        assert np.corrcoef(other.ravel(), own.ravel())[0, 1] > near


@pytest.mark.parametrize("name", [name for name in NAMES if name != "prm"])
def test_the_embedded_family_keeps_its_logits_and_its_vocabulary(name: str, tmp_path: Folder) -> None:
    folder, file = FOLDER / name, export(str(FOLDER / name), tmp_path / f"{name}.gguf")
    assert np.abs(logits(file, ids(300)) - own_logits(folder, ids(300))).max() < CLOSE
    model, tokenizer = Model.load(file), AutoTokenizer.from_pretrained(folder)
    assert [model.token(id_) for id_ in range(model.vocab_size)] == tokenizer.convert_ids_to_tokens(
        list(range(model.vocab_size))
    )
    assert model.chat_template == tokenizer.chat_template
    assert (model.eos, model.add_bos, model.ends(2)) == (tokenizer.eos_token_id, False, True)
    thinks = name.startswith("thinking")
    added = {"<|im_end|>": Attribute.CONTROL} | ({"<think>": Attribute.USER_DEFINED} if thinks else {})
    vocabulary = tokenizer.get_vocab()
    assert {token: model.attributes(vocabulary[token]) for token in added} == added
    text = "<think>\nso\n</think>\n\nIs it 3*4=12?<|im_end|>"
    assert model.encode(text) == tokenizer(text)["input_ids"]


def test_matrices_are_of_the_type_and_the_rest_in_single_precision(tmp_path: Folder) -> None:
    folder = make("gemma3", tmp_path / "model")
    for kind, expected in (("f32", {"F32"}), ("f16", {"F16"}), ("q8_0", {"Q8_0"})):
        stored = types(export(str(folder), tmp_path / f"{kind}.gguf", type=kind))
        assert {stored[name] for name in stored if "norm" not in name} == expected
        assert {stored[name] for name in stored if "norm" in name} == {"F32"}
    narrow = make("qwen2", tmp_path / "narrow", hidden_size=48, num_attention_heads=3, num_key_value_heads=3)
    file = export(str(narrow), tmp_path / "narrow.gguf", type="q8_0")
    assert {types(file)[f"blk.0.{name}.weight"] for name in ("attn_q", "ffn_up")} == {"F16"}
    assert types(file)["blk.0.ffn_down.weight"] == "Q8_0"
    assert np.corrcoef(logits(file, ids(50)).ravel(), own_logits(narrow, ids(50)).ravel())[0, 1] > 0.99


def test_the_file_says_all_that_the_checkpoint_does(tmp_path: Folder) -> None:
    told = settings(export(str(make("gemma3", tmp_path / "my-gemma")), tmp_path / "gemma.gguf"))
    assert {key: told[key] for key in told if key.startswith(("general.", "gemma3."))} == {
        "general.architecture": "gemma3",
        "general.type": "model",
        "general.name": "my-gemma",
        "general.file_type": 0,
        "general.quantization_version": 2,
        "gemma3.context_length": 256,
        "gemma3.embedding_length": 64,
        "gemma3.block_count": 7,
        "gemma3.feed_forward_length": 96,
        "gemma3.vocab_size": 557,
        "gemma3.attention.head_count": 4,
        "gemma3.attention.head_count_kv": 2,
        "gemma3.attention.key_length": 32,
        "gemma3.attention.value_length": 32,
        "gemma3.attention.layer_norm_rms_epsilon": pytest.approx(1e-6),
        "gemma3.attention.sliding_window": 16,
        "gemma3.rope.dimension_count": 32,
        "gemma3.rope.freq_base": 1e6,
        "gemma3.rope.freq_base_swa": 5000.0,
        "gemma3.rope.scaling.type": "linear",
        "gemma3.rope.scaling.factor": 8.0,
    }
    told = settings(export(str(make("qwen2, yarn", tmp_path / "yarn")), tmp_path / "yarn.gguf"))
    assert told["qwen2.rope.scaling.type"] == "yarn"
    assert told["qwen2.rope.scaling.original_context_length"] == 64


def test_a_window_that_llama_cpp_lacks_is_the_end_of_the_context(tmp_path: Folder) -> None:
    qwen: dict[str, Any] = {"use_sliding_window": True, "max_window_layers": 1}
    for case, changes in (("mistral", {}), ("qwen2", qwen)):
        folder = make(case, tmp_path / case, **changes | {"sliding_window": 64})
        file = export(str(folder), tmp_path / f"{case}.gguf")
        assert Model.load(file).context == 64
        assert np.abs(logits(file, ids(64)) - own_logits(folder, ids(64))).max() < CLOSE
        assert np.abs(logits(file, ids(70)) - own_logits(folder, ids(70)))[65:].max() > CLOSE


def test_rows_without_a_token_and_every_end_are_reported(tmp_path: Folder) -> None:
    folder = make("qwen3", tmp_path / "model", vocab_size=600)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 2, 1]}))
    file = export(str(folder), tmp_path / "model.gguf")
    told, model = settings(file), Model.load(file)
    assert told["tokenizer.ggml.tokens"][-2:] == ["[PAD598]", "[PAD599]"]
    assert model.vocab_size == 600
    assert model.attributes(599) == Attribute.UNUSED
    assert [told[f"tokenizer.ggml.{end}_token_id"] for end in ("eos", "eot", "eom")] == [2, 0, 1]
    assert all(model.ends(id_) for id_ in (0, 1, 2))


@pytest.mark.parametrize("begins", [False, True])
def test_a_vocabulary_of_sentencepiece_reads_the_same(begins: bool, tmp_path: Folder, questions: list[str]) -> None:
    folder = sentencepiece(tmp_path / "model", begins=begins)
    file = export(str(folder), tmp_path / "model.gguf")
    model, tokenizer = Model.load(file), AutoTokenizer.from_pretrained(folder)
    assert settings(file)["tokenizer.ggml.model"] == "llama"
    assert (model.bos, model.eos, model.add_bos) == (1, 2, True)
    for text in [*questions, "日本語 and <think> so  </s> on\n"]:
        assert model.encode(text, begin=True) == tokenizer(text)["input_ids"]
    assert model.attributes(3) == Attribute.BYTE
    assert np.abs(logits(file, ids(100)) - own_logits(folder, ids(100))).max() < CLOSE


@pytest.mark.parametrize("case", ["embedded", "qwen", "skywork", "skywork-sharded", "trl"])
def test_of_a_reward_model_the_file_holds_the_body_and_says_so(case: str, tmp_path: Folder) -> None:
    folder = FOLDER / "prm" if case == "embedded" else make_reward_model(case, tmp_path / case)
    file = export(str(folder), tmp_path / "body.gguf")
    told = settings(file)
    assert "prm:gguf=FILE,head=FOLDER" in told["general.description"]
    assert told["rsd.prm_format"] in told["general.description"]
    assert not [name for name in types(file) if "score" in name or "v_head" in name]
    body, context = AutoModel.from_pretrained(folder, dtype=torch.float32), exact(Model.load(file), hidden=True)
    tokens = ids(100, context.model.vocab_size)
    with torch.inference_mode():
        own = body(torch.tensor([tokens])).last_hidden_state[0].numpy()
    assert context.decode([(0, 0, tokens)], list(range(100)))
    assert np.abs(context.hidden(100) - own).max() < CLOSE


def test_a_language_model_says_nothing_of_rewards(tmp_path: Folder) -> None:
    told = settings(export(str(FOLDER / "draft"), tmp_path / "draft.gguf"))
    assert "general.description" not in told
    assert "rsd.prm_format" not in told


def test_parts_next_to_the_language_model_stay_out(tmp_path: Folder) -> None:
    folder = with_head(make_causal_lm(tmp_path / "shared"))
    rewritten(lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))(
        folder
    )  # tied all the same
    file = export(str(folder), tmp_path / "shared.gguf")
    assert "general.description" not in settings(file)
    assert not {"output.weight", "step_head.weight"} & types(file).keys()
    assert np.abs(logits(file, ids(50)) - own_logits(folder, ids(50))).max() < CLOSE


def test_tensors_are_read_one_after_another(tmp_path: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[torch.Tensor]] = []
    together: list[int] = []
    rows = Weights.rows

    def watched(self: Weights, name: str, wanted: list[int] | None = None) -> torch.Tensor:
        together.append(sum(one() is not None for one in alive))
        tensor = rows(self, name, wanted)
        alive.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(Weights, "rows", watched)
    export(str(make("llama", tmp_path / "model")), tmp_path / "model.gguf", type="q8_0")
    assert len(together) > 20
    assert max(together) <= 1


def changed(**changes: Any) -> Callable[[Folder], object]:
    def change(folder: Folder) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return change


def rewritten(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Folder], object]:
    def write(folder: Folder) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return write


def retokenized(**changes: Any) -> Callable[[Folder], object]:
    """With another tokenizer, which no class of transformers puts right."""

    def write(folder: Folder) -> None:
        raw = json.loads((folder / "tokenizer.json").read_text())
        model = raw["model"] | changes.pop("model", {})
        (folder / "tokenizer.json").write_text(json.dumps(raw | changes | {"model": model}))
        named = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(
            json.dumps(named | {"tokenizer_class": "PreTrainedTokenizerFast"})
        )

    return write


SLIDING = {"layer_types": ["sliding_attention"] * 7}
REFUSED: dict[str, tuple[str, Callable[[Folder], object], str]] = {
    "type of model": ("llama", changed(model_type="phi3"), "the model_type 'phi3' cannot be converted to GGUF, only q"),
    "activation": ("llama", changed(hidden_act="gelu"), "with hidden_act 'silu', but this checkpoint has 'gelu'"),
    "layers": ("gemma3", changed(**SLIDING), "with sliding window layers"),
    "queries": ("gemma3", changed(query_pre_attn_scalar=64), "with query_pre_attn_scalar 32"),
    "cap": ("gemma3", changed(final_logit_softcapping=30.0), "with final_logit_softcapping None"),
    "biases": ("qwen3", changed(attention_bias=True), "with attention_bias False, but this checkpoint has True"),
    "heads": ("qwen2", changed(head_dim=32), "with heads times their width 64, but this checkpoint has 128"),
    "rotation": (
        "qwen2",
        changed(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
        "supported are the types default",
    ),
    "yarn": (
        "qwen2, yarn",
        changed(
            rope_parameters={
                "rope_type": "yarn",
                "rope_theta": 1e4,
                "factor": 4.0,
                "original_max_position_embeddings": 64,
                "attention_factor": 2.0,
            }
        ),
        "attention_factor",
    ),
    "missing": ("llama", rewritten(lambda t: t.pop("model.norm.weight")), "1 tensors are missing or have another"),
    "shape": (
        "llama",
        rewritten(lambda t: t.update({"model.norm.weight": torch.ones(3)})),
        "model.norm.weight first. Is the download complete",
    ),
    "strange": ("llama", rewritten(lambda t: t.update(extra=torch.ones(3))), "no known reward head"),
    "strange beside a head": (
        "llama",
        rewritten(
            lambda t: t.update(
                {
                    "extra.weight": torch.ones(3),
                    "v_head.summary.weight": torch.ones(1, 64),
                    "v_head.summary.bias": torch.ones(1),
                }
            )
        ),
        "1 of its tensors have no place in a GGUF file, extra.weight first",
    ),
    "no number": (
        "llama",
        rewritten(lambda t: t["model.norm.weight"].fill_(float("nan"))),
        "model.norm.weight is not finite",
    ),
    "splits": (
        "llama",
        retokenized(pre_tokenizer={"type": "Whitespace"}),
        r"splits texts like none of llama.cpp's .*\(qwen2, llama-bpe, smollm, gpt-2\): \[{'type': 'Whitespace'}\]",
    ),
    "whole pieces": ("llama", retokenized(model={"ignore_merges": True}), "splits texts like none"),
    "lower case": (
        "llama",
        retokenized(normalizer={"type": "Lowercase"}),
        "transformers and llama.cpp read 'What is 12",
    ),
    "end": (
        "llama",
        lambda folder: (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0, 1, 9]})),
        r"llama.cpp would continue after \[",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_features_that_llama_cpp_lacks_are_refused_and_nothing_is_written(case: str, tmp_path: Folder) -> None:
    of, change, told = REFUSED[case]
    folder = make(of, tmp_path / "model")
    change(folder)
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigurationError, match=told):
        export(str(folder), tmp_path / "out" / "model.gguf")
    assert not list((tmp_path / "out").iterdir())


def test_a_name_of_another_splitting_is_found_out(tmp_path: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make("llama", tmp_path / "model", vocab_size=558)
    raw = json.loads((folder / "tokenizer.json").read_text())
    raw["model"]["vocab"]["12"] = 557  # never read, where every digit stands alone
    raw["model"]["merges"].append(["1", "2"])
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    export(str(folder), tmp_path / "right.gguf")
    own, *others = gguf_tokenizers.SPLITTERS
    monkeypatch.setattr(gguf_tokenizers, "SPLITTERS", (own._replace(names=("llama-bpe",)), *others))
    with pytest.raises(
        ConfigurationError,
        match=r"read '.*' as different tokens, \['1', '2', .*\] and \['12', .*\]; nothing is written",
    ):
        export(str(folder), tmp_path / "wrong.gguf")
    assert {file.name for file in tmp_path.iterdir()} == {"model", "right.gguf"}


def test_other_tokenizers_are_named(tmp_path: Folder) -> None:
    folder = make("llama", tmp_path / "model")
    raw = json.loads((folder / "tokenizer.json").read_text())
    raw["model"] = {"type": "Unigram", "unk_id": 0, "vocab": [["a", -1.0], ["b", -2.0]], "byte_fallback": False}
    raw |= {"added_tokens": [], "pre_tokenizer": None, "post_processor": None, "normalizer": None, "decoder": None}
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    with pytest.raises(ConfigurationError, match="of the kind Unigram, and only BPE can be converted to GGUF"):
        export(str(folder), tmp_path / "model.gguf")


def test_numbers_beyond_half_precision_are_refused(tmp_path: Folder) -> None:
    folder = make("llama", tmp_path / "model")
    rewritten(lambda t: t["model.layers.1.mlp.up_proj.weight"].fill_(1e5))(folder)
    with pytest.raises(ConfigurationError, match=r"blk.1.ffn_up.weight has numbers beyond the range of F16; .* as f32"):
        export(str(folder), tmp_path / "model.gguf", type="f16")
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
    export(str(folder), tmp_path / "model.gguf")


def test_files_stay_and_faults_come_before_the_work(tmp_path: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_causal_lm(tmp_path / "model")
    (tmp_path / "there.gguf").write_text("mine")
    with pytest.raises(ConfigurationError, match=r"there.gguf exists; choose another file"):
        export(str(model), tmp_path / "there.gguf")
    assert (tmp_path / "there.gguf").read_text() == "mine"
    with pytest.raises(ConfigurationError, match="type 'q4_k' is unknown; choose one of f32, f16, q8_0"):
        export(str(model), tmp_path / "out.gguf", type="q4_k")
    with pytest.raises(ConfigurationError, match=r"the folder .* does not exist"):
        export(str(model), tmp_path / "no" / "out.gguf")

    def filled_up(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", filled_up)
    with pytest.raises(RSDError, match=r"out.gguf cannot be written: No space left on device; make room"):
        export(str(model), tmp_path / "out.gguf")
    assert {file.name for file in tmp_path.iterdir()} == {"model", "there.gguf"}


def test_a_body_without_a_head_is_not_a_language_model(tmp_path: Folder) -> None:
    folder = make_prm(tmp_path / "prm")
    rewritten(lambda t: t.pop("lm_head.weight", None))(folder)
    assert "output.weight" not in types(export(str(folder), tmp_path / "prm.gguf"))
    rewritten(lambda t: [t.pop(name) for name in list(t) if name.startswith("score")])(folder)
    with pytest.raises(ConfigurationError, match=r"lm_head.weight first. Is the download complete"):
        export(str(folder), tmp_path / "body.gguf")


def test_the_package_that_is_missing_is_named(tmp_path: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(
        MissingDependency, match=r"converting GGUF files needs the package 'gguf'.*rsd-decoding\[gguf\]"
    ):
        export(str(FOLDER / "draft"), tmp_path / "draft.gguf")


def test_a_hub_id_is_its_name(tmp_path: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(shutil.copytree(FOLDER / "draft", tmp_path / "snapshot"))
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(folder))
    assert settings(export("org/model", tmp_path / "model.gguf"))["general.name"] == "org/model"
