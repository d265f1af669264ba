"""GGUF files as checkpoints: llama.cpp on the file computes the same as `hf:` on the checkpoint."""

import json
import sys
from collections.abc import Callable
from pathlib import Path as Folder
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer

from rsd_core import ConfigurationError, Limits, MissingDependency, RSDError, Settings, TargetOnly
from rsd_integrations.embedded.models import FOLDER, NAMES
from rsd_integrations.huggingface import HuggingFaceGenerator, load_generator, to_gguf
from rsd_integrations.huggingface.from_gguf import File, export
from rsd_integrations.llamacpp.context import Context
from rsd_integrations.llamacpp.model import Model
from tests.huggingface.gguf_checkpoints import CASES, ids, make, own_logits, sentencepiece
from tests.llamacpp.gguf_files import gemma, smollm2

TEXTS = (
    "The capital of France is Paris. The capital of Italy is",
    "def fib(n):\n    if n < 2:\n        return n\n    return fib(n - 1) +",
    "Mia has 45 apples and gives 12 of them away. She has 45 - 12 =",
)
SETTINGS = Settings(limits=Limits(max_tokens=60))


@pytest.fixture(scope="module", params=["smollm2", "gemma"])
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Model, HuggingFaceGenerator]:
    """A published file in llama.cpp, and the checkpoint that is made of it in our engine."""
    file = smollm2() if request.param == "smollm2" else gemma()
    folder = export(file, tmp_path_factory.mktemp("checkpoint") / request.param)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    return Model.load(file, gpu_layers=0), load_generator(str(folder), dtype="float32")


def file_logits(model: Model, tokens: list[int]) -> NDArray[np.float32]:
    context = Context(model, cells=1024)
    assert context.decode([(0, 0, tokens)], list(range(len(tokens))))
    return context.logits(len(tokens))


@pytest.mark.parametrize("text", TEXTS)
def test_logits_are_those_of_the_file_within_its_arithmetic(
    both: tuple[Model, HuggingFaceGenerator], text: str
) -> None:
    model, generator = both
    tokens = generator.vocabulary.tokenizer(text)["input_ids"]
    theirs = file_logits(model, tokens)
    with torch.inference_mode():
        own = generator.model(torch.tensor([tokens])).logits[0].numpy()
    cosines = (theirs * own).sum(-1) / np.linalg.norm(theirs, axis=-1) / np.linalg.norm(own, axis=-1)
    assert cosines.min() > 0.98  # llama.cpp rounds what goes into a product to 8 bits
    best = np.sort(theirs, axis=-1)
    clear = best[:, -1] - best[:, -2] > 1.0
    assert clear.sum() > 5
    assert (theirs.argmax(-1) == own.argmax(-1))[clear].all()


def test_a_sure_answer_is_the_same_text(both: tuple[Model, HuggingFaceGenerator]) -> None:
    model, generator = both
    tokenizer = generator.vocabulary.tokenizer
    tokens = tokenizer(TEXTS[0])["input_ids"]
    context, written = Context(model, cells=1024), list(tokens)
    while len(written) < len(tokens) + 5:
        done = context.length(0)
        assert context.decode([(0, done, written[done:])], [len(written) - done - 1])
        written.append(int(context.logits(1)[0].argmax()))
    own = generator.model.generate(torch.tensor([tokens]), max_new_tokens=5, do_sample=False)  # type: ignore[operator]
    assert own[0].tolist() == written
    assert tokenizer.decode(written[len(tokens) :]).startswith(" Rome. The capital of")


def test_the_same_texts_are_the_same_tokens(both: tuple[Model, HuggingFaceGenerator], questions: list[str]) -> None:
    model, generator = both
    tokenizer: Any = generator.vocabulary.tokenizer
    some = "<|im_start|>user\nhi<|im_end|><start_of_turn>\n\n\n   <b>日本語</b>\t\t🎉 ½ x²\r\n"
    for text in [*questions[:50], *TEXTS, some]:
        assert tokenizer(text)["input_ids"] == model.encode(text, begin=True)
        assert tokenizer.decode(model.encode(text)) == text
    assert tokenizer.chat_template == model.chat_template
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (model.bos, model.eos)
    assert model.eos in generator.eos_ids
    assert all(model.ends(id_) for id_ in generator.eos_ids)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "prm"])
def test_the_embedded_family_comes_back_bit_by_bit(name: str, tmp_path: Folder, questions: list[str]) -> None:
    file = to_gguf.export(str(FOLDER / name), tmp_path / f"{name}.gguf")
    folder, exact = export(file, tmp_path / "rounded", dtype="bfloat16"), export(file, tmp_path / "exact")
    first, second, third = (load_file(one / "model.safetensors") for one in (FOLDER / name, folder, exact))
    assert first.keys() == second.keys() == third.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert all(torch.equal(first[key].float(), third[key]) for key in first)
    assert {tensor.dtype for tensor in third.values()} == {torch.float32}
    generators = [load_generator(str(one)) for one in (FOLDER / name, folder)]
    assert generators[0].vocabulary.identity == generators[1].vocabulary.identity
    assert generators[0].vocabulary.pieces == generators[1].vocabulary.pieces
    texts = [[TargetOnly(target=one, settings=SETTINGS).run(q).text for q in questions[:5]] for one in generators]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("case", CASES)
def test_every_architecture_comes_back(case: str, tmp_path: Folder) -> None:
    origin = make(case, tmp_path / "origin")
    folder = export(to_gguf.export(str(origin), tmp_path / "model.gguf"), tmp_path / "model")
    before, after = (load_file(one / "model.safetensors") for one in (origin, folder))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        # 1 + w in single precision has lost the last bits of w.
        near = 1e-6 if case == "gemma3" and "norm" in name else 0.0
        assert torch.allclose(tensor, after[name], rtol=0, atol=near)
    assert np.abs(own_logits(folder, ids(60)) - own_logits(origin, ids(60))).max() < 1e-4
    config, other = (AutoConfig.from_pretrained(one).to_dict() for one in (origin, folder))
    kept = {
        "dtype",
        "hidden_size",
        "head_dim",
        "rope_parameters",
        "layer_types",
        "sliding_window",
        "tie_word_embeddings",
    }
    kept |= {"max_position_embeddings", "rms_norm_eps", "attention_bias", "mlp_bias", "hidden_act", "pad_token_id"}
    kept = (kept & config.keys()) | {"vocab_size", "intermediate_size", "num_key_value_heads", "query_pre_attn_scalar"}
    assert {key: config.get(key) for key in kept} == {key: other.get(key) for key in kept}
    assert config["architectures"][0].replace("Mistral", "Llama") == other["architectures"][0]


@pytest.mark.parametrize("begins", [False, True])
def test_a_vocabulary_of_sentencepiece_comes_back(begins: bool, tmp_path: Folder, questions: list[str]) -> None:
    origin = sentencepiece(tmp_path / "origin", begins=begins)
    folder = export(to_gguf.export(str(origin), tmp_path / "model.gguf"), tmp_path / "model")
    first, second = (AutoTokenizer.from_pretrained(one) for one in (origin, folder))
    named = {token: id_ for token, id_ in second.get_vocab().items() if not token.startswith("[PAD")}
    assert first.get_vocab() == named
    for text in [*questions[:50], "日本語 and <think> so  </s> on\n"]:
        assert first(text)["input_ids"] == second(text)["input_ids"]
    assert second.decode(second("Is it 12?", add_special_tokens=False)["input_ids"]) == "Is it 12?"


def test_the_dtype_is_the_files_unless_asked_for(tmp_path: Folder) -> None:
    origin = make("llama", tmp_path / "origin")
    for kind, dtype, expected in (
        ("f32", None, torch.float32),
        ("f32", "bfloat16", torch.bfloat16),
        ("f16", None, torch.bfloat16),
        ("q8_0", None, torch.bfloat16),
        ("q8_0", "float32", torch.float32),
    ):
        file = tmp_path / f"{kind}.gguf"
        if not file.exists():
            to_gguf.export(str(origin), file, type=kind)
        folder = export(file, tmp_path / f"{kind}-{dtype}", dtype=dtype)
        assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {expected}
        assert AutoConfig.from_pretrained(folder).dtype == expected
    exact, name = load_file(tmp_path / "q8_0-float32" / "model.safetensors"), "model.layers.0.mlp.up_proj.weight"
    blocks = load_file(origin / "model.safetensors")[name].numpy()
    q8 = gguf.GGMLQuantizationType.Q8_0
    assert (exact[name].numpy() == gguf.dequantize(gguf.quantize(blocks, q8), q8)).all()


def rewrite(
    file: Folder, out: Folder, change: Callable[[dict[str, Any], dict[str, Any]], object], **options: Any
) -> Folder:
    """A GGUF file with other settings and tensors."""
    reader = gguf.GGUFReader(file)
    fields = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    values = {name: field.contents() for name, field in fields.items()}
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    change(values, tensors)
    writer = gguf.GGUFWriter(out, values.pop("general.architecture"), **options)
    for name, value in values.items():
        if name in fields and not isinstance(value, list):
            writer.add_key_value(name, value, fields[name].types[0])
        else:
            adders: dict[type, Callable[..., object]] = {
                str: writer.add_string,
                float: writer.add_float32,
                int: writer.add_uint32,
            }
            add: Any = adders.get(type(value), writer.add_array)
            add(name, value)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def test_a_model_in_several_files_is_one(tmp_path: Folder) -> None:
    file = to_gguf.export(str(make("llama", tmp_path / "origin")), tmp_path / "whole.gguf")
    rewrite(file, tmp_path / "part.gguf", lambda *_: None, split_max_tensors=8)
    parts = sorted(tmp_path.glob("part-*.gguf"))
    assert len(parts) == 3
    first, second = (export(one, tmp_path / one.stem) for one in (file, parts[0]))
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
    assert (first / "tokenizer.json").read_bytes() == (second / "tokenizer.json").read_bytes()
    parts[1].unlink()
    with pytest.raises(ConfigurationError, match=r"is one of 3 files; missing next to it: part-00002-of-00003.gguf"):
        export(parts[0], tmp_path / "again")


def settings(**changes: Any) -> Callable[[dict[str, Any], dict[str, Any]], object]:
    """With other settings; an underscore pair is a dot, and None takes one away."""

    def change(values: dict[str, Any], _: dict[str, Any]) -> None:
        for key, value in changes.items():
            if value is None:
                values.pop(key.replace("__", "."))
            else:
                values[key.replace("__", ".")] = value

    return change


REFUSED: dict[str, tuple[str, Callable[[dict[str, Any], dict[str, Any]], object], str]] = {
    "architecture": (
        "llama",
        settings(general__architecture="phi3"),
        "the GGUF architecture 'phi3' cannot become a checkpoint, only qwen2, qwen3, llama, gemma3",
    ),
    "kind of tokenizer": (
        "llama",
        settings(tokenizer__ggml__model="t5"),
        "tokenizer is of the kind 't5'; supported are gpt2",
    ),
    "splitting": ("llama", settings(tokenizer__ggml__pre="tekken"), "the text splitter 'tekken' is not supported"),
    "no splitting": ("llama", settings(tokenizer__ggml__pre=None), "the text splitter None is not supported"),
    "no vocabulary": ("llama", settings(tokenizer__ggml__tokens=None), "holds no vocabulary"),
    "no width": ("llama", settings(llama__embedding_length=None), "it lacks embedding_length"),
    "no accuracy": (
        "llama",
        settings(llama__attention__layer_norm_rms_epsilon=None),
        "it lacks attention.layer_norm_rms",
    ),
    "no window": ("gemma3", settings(gemma3__attention__sliding_window=None), "it lacks attention.sliding_window"),
    "heads by layer": (
        "llama",
        settings(llama__attention__head_count=[4, 2]),
        r"attention.head_count is \[4, 2\]; supported",
    ),
    "no heads": ("llama", settings(llama__attention__head_count=0), "attention.head_count is 0; supported"),
    "odd width": ("llama", settings(llama__embedding_length=66), "transformers has no llama with these settings: .*66"),
    "no merges": (
        "llama",
        settings(tokenizer__ggml__merges=None),
        r"its vocabulary is incomplete \(KeyError: 'merges'\)",
    ),
    "strange merges": ("llama", settings(tokenizer__ggml__merges=["a bc de"]), "its vocabulary is incomplete"),
    "no layers": ("llama", settings(llama__block_count=9), "it lacks blk.2.attn_k.weight, or has it in another shape"),
    "too many layers": ("llama", settings(llama__block_count=1), "it has an unknown tensor blk.1.attn_k.weight"),
    "experts": ("llama", settings(llama__expert_count=8), "llama.expert_count is 8, but only 0 is supported"),
    "rotation": ("qwen2", settings(qwen2__rope__scaling__type="longrope"), "rotary embeddings of the type longrope"),
    "windows": ("gemma3", settings(gemma3__attention__sliding_window_pattern=2), "sliding_window_pattern is 2"),
    "cap": ("gemma3", settings(gemma3__final_logit_softcapping=30.0), "final_logit_softcapping is 30.0, but only 0"),
    "divisors": ("llama, scaled", lambda _, t: t["rope_freqs.weight"].__setitem__(3, 3.0), "have no equivalent in"),
    "lost": ("llama", lambda _, t: t.pop("output_norm.weight"), "it lacks output_norm.weight"),
    "strange": ("llama", lambda _, t: t.update(extra=np.ones(3, np.float32)), "it has an unknown tensor extra"),
    "no number": (
        "llama",
        lambda _, t: t["output_norm.weight"].__setitem__(0, np.nan),
        "the tensor output_norm.weight is not finite",
    ),
    "type": (
        "llama",
        lambda _, t: t.update({"output_norm.weight": np.ones(64, np.int8)}),
        "output_norm.weight has the type I8, which the package gguf does not read",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_equal_is_refused_and_nothing_is_written(case: str, tmp_path: Folder) -> None:
    of, change, told = REFUSED[case]
    whole = to_gguf.export(str(make(of, tmp_path / "origin")), tmp_path / "whole.gguf")

    def copied(values: dict[str, Any], tensors: dict[str, Any]) -> None:
        tensors |= {name: np.array(tensor) for name, tensor in tensors.items()}
        change(values, tensors)

    file = rewrite(whole, tmp_path / "model.gguf", copied)
    with pytest.raises(ConfigurationError, match=told):
        export(file, tmp_path / "out" / "model")
    assert not list(tmp_path.glob("out/*"))


def test_a_tokenizer_that_transformers_reads_otherwise_is_refused(tmp_path: Folder) -> None:
    def of_llama(values: dict[str, Any], _: dict[str, Any]) -> None:
        values["tokenizer.ggml.tokens"][557], values["tokenizer.ggml.token_type"][557] = "12", 1
        values["tokenizer.ggml.merges"].append("1 2")
        values["tokenizer.ggml.pre"] = "llama-bpe"  # transformers reads models of Qwen2 with Qwen2's own tokenizer

    whole = to_gguf.export(str(make("qwen2", tmp_path / "origin", vocab_size=558)), tmp_path / "whole.gguf")
    with pytest.raises(ConfigurationError, match=r"read '.*' as different tokens, \['1', '2', .*\] and \['12', "):
        export(rewrite(whole, tmp_path / "model.gguf", of_llama), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_invalid_files_are_reported(tmp_path: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    file = to_gguf.export(str(FOLDER / "draft"), tmp_path / "draft.gguf")
    whole = file.read_bytes()
    for size in (0, 3, 20, 2000, 100_000, len(whole) - 5000):
        file.write_bytes(whole[:size])
        with pytest.raises(ConfigurationError, match=r"draft.gguf (is (truncated|not a GGUF file)|cannot be read)"):
            export(file, tmp_path / "out")
    file.write_bytes(whole)
    with pytest.raises(ConfigurationError, match=r"there is no file '.*none.gguf'"):
        export(tmp_path / "none.gguf", tmp_path / "out")
    with pytest.raises(ConfigurationError, match="dtype 'int8' is unknown; choose one of float32, bfloat16"):
        export(file, tmp_path / "out", dtype="int8")
    with pytest.raises(ConfigurationError, match="already contains a checkpoint"):
        export(file, FOLDER / "draft")

    def filled_up(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("rsd_integrations.huggingface.from_gguf._save", filled_up)
        with pytest.raises(RSDError, match=r"out cannot be written: No space left on device; make room"):
            export(file, tmp_path / "out")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingDependency, match=r"rsd-decoding\[gguf\]"):
        export(file, tmp_path / "out")
    assert [one.name for one in tmp_path.iterdir()] == ["draft.gguf"]


def test_tensors_are_read_when_they_are_written(tmp_path: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    file = to_gguf.export(str(make("llama", tmp_path / "origin")), tmp_path / "model.gguf", type="q8_0")
    sizes: list[int] = []
    tensor = File.tensor

    def watched(self: File, name: str) -> torch.Tensor:
        sizes.append(sum(one.stat().st_size for one in tmp_path.glob(".out.*/model.safetensors")))
        return tensor(self, name)

    monkeypatch.setattr(File, "tensor", watched)
    export(file, tmp_path / "out")
    assert len(sizes) > 20
    assert sizes[-1] > sizes[len(sizes) // 2] > sizes[0]
