"""Weights and vocabularies of GGUF files, and refusals before the library sees them."""

from __future__ import annotations

import gc
import os
import shutil
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
import pytest

from rsd_core.errors import ConfigurationError
from rsd_integrations.llamacpp.context import Context
from rsd_integrations.llamacpp.library import REPACK, library
from rsd_integrations.llamacpp.model import Attribute, Model
from tests.llamacpp import gguf_files
from tests.llamacpp.test_library import run


@pytest.fixture(scope="module")
def smollm2() -> Model:
    return Model.load(gguf_files.smollm2())


@pytest.fixture(scope="module")
def gemma() -> Model:
    return Model.load(gguf_files.gemma(), vocabulary_only=True)


@pytest.fixture(scope="module")
def draft() -> Model:
    return Model.load(gguf_files.embedded("draft"))


def write_lora(file: Path, rank: int = 2, kind: str = "adapter", width: int = 64) -> Path:
    """An adapter for the embedded drafter: of its first layer's queries, the same numbers each time."""
    random = np.random.default_rng(1)
    writer = gguf.GGUFWriter(file, "qwen2")
    writer.add_type(kind)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(rank))
    for part, shape in (("lora_a", (rank, width)), ("lora_b", (64, rank))):
        writer.add_tensor(f"blk.0.attn_q.weight.{part}", random.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def write_vocabulary(file: Path, kind: str, tokens: list[str], types: Sequence[int]) -> Path:
    """A file with a vocabulary and no weights."""
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(8)
    writer.add_block_count(1)
    writer.add_feed_forward_length(8)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model(kind)
    if kind != "no_vocab":
        writer.add_token_list(tokens)
        writer.add_token_scores([0.0] * len(tokens))
        writer.add_token_types(types)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_what_a_file_says_of_itself(smollm2: Model, gemma: Model, draft: Model) -> None:
    assert (smollm2.vocab_size, smollm2.width, smollm2.context) == (49152, 576, 8192)
    assert smollm2.parameters == 134_515_008
    assert 0.9 * gguf_files.smollm2().stat().st_size < smollm2.bytes < gguf_files.smollm2().stat().st_size
    assert smollm2.architecture == "llama"
    assert "Q4_1" in smollm2.description
    assert (smollm2.bos, smollm2.eos, smollm2.add_bos) == (1, 2, False)
    assert smollm2.metadata["llama.context_length"] == "8192"
    assert smollm2.chat_template is not None
    assert "<|im_start|>" in smollm2.chat_template
    assert (gemma.bos, gemma.eos, gemma.add_bos, gemma.architecture) == (2, 1, True, "gemma3")
    assert gemma.chat_template is None
    assert draft.bytes == draft.parameters * 4


def test_a_text_comes_back_from_its_tokens(smollm2: Model, gemma: Model, draft: Model) -> None:
    text = "Naïve 数学 😀: 12 + 3\n\n\\boxed{15}\t<s> \0 end"
    for model in (smollm2, gemma, draft):
        ids = model.encode(text, special=False)
        assert b"".join(model.piece(id_) for id_ in ids).removeprefix(b" ") == text.encode()
        assert model.encode("") == []


def test_half_of_a_surrogate_pair_is_a_replacement_character(draft: Model) -> None:
    assert draft.encode("a\ud83d") == draft.encode("a\ufffd\ufffd\ufffd") or draft.encode("a\ud83d") == draft.encode(
        "a\ufffd"
    )


def test_control_tokens_are_read_where_that_is_wanted(smollm2: Model) -> None:
    (start,) = smollm2.encode("<|im_start|>")
    assert smollm2.token(start) == "<|im_start|>"
    assert smollm2.attributes(start) == Attribute.CONTROL
    assert smollm2.piece(start) == b""
    assert smollm2.piece(start, special=True) == b"<|im_start|>"
    spelled = smollm2.encode("<|im_start|>", special=False)
    assert start not in spelled
    assert b"".join(map(smollm2.piece, spelled)) == b"<|im_start|>"
    assert not smollm2.ends(start)
    assert smollm2.eos is not None
    assert smollm2.ends(smollm2.eos)


def test_the_first_token_is_there_once_and_where_the_file_asks_for_it(smollm2: Model, gemma: Model) -> None:
    plain = gemma.encode("A text")
    assert gemma.encode("A text", begin=True) == [gemma.bos, *plain]
    assert gemma.encode("<bos>A text", begin=True) == gemma.encode("<bos>A text") == [gemma.bos, *plain]
    assert smollm2.encode("A text", begin=True) == smollm2.encode("A text")


def test_kinds_of_tokens(gemma: Model, draft: Model) -> None:
    (newline,) = gemma.encode("\n")
    assert gemma.attributes(newline) in (Attribute.NORMAL, Attribute.USER_DEFINED)
    byte = next(id_ for id_ in range(gemma.vocab_size) if gemma.token(id_) == "<0x41>")
    assert gemma.attributes(byte) == Attribute.BYTE
    assert gemma.piece(byte) == b"A"
    assert draft.eos is not None
    assert draft.attributes(draft.eos) == Attribute.CONTROL


@pytest.mark.parametrize("id_", [-1, 49152, 2**31, -(2**40)])
def test_a_token_that_there_is_not(smollm2: Model, id_: int) -> None:
    for function in (smollm2.piece, smollm2.token, smollm2.attributes, smollm2.ends):
        with pytest.raises(ValueError, match="has ids from 0 to 49151"):
            function(id_)


def test_a_piece_longer_than_the_buffer(tmp_path: Path) -> None:
    long = "x" * 3000
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), long]
    types = [gguf.TokenType.UNKNOWN, *[gguf.TokenType.BYTE] * 256, gguf.TokenType.NORMAL]
    file = write_vocabulary(tmp_path / "long.gguf", "llama", tokens, types)
    model = Model.load(file, vocabulary_only=True)
    assert model.piece(257) == long.encode()
    assert model.token(257) == long


def test_a_model_is_loaded_once_as_long_as_it_is_held(tmp_path: Path) -> None:
    file = tmp_path / "draft.gguf"
    file.write_bytes(gguf_files.embedded("draft").read_bytes())
    loaded: list[Model] = []
    threads = [threading.Thread(target=lambda: loaded.append(Model.load(file))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, loaded))) == 1
    (tmp_path / "link.gguf").symlink_to(file)
    assert Model.load(str(tmp_path / "link.gguf")) is loaded[0]
    assert Model.load(file, vocabulary_only=True) is loaded[0]  # the whole model has the vocabulary too
    assert Model.load(file, gpu_layers=0) is not loaded[0]
    gone = weakref.ref(loaded[0])
    context = Context(loaded[0], cells=256)
    loaded.clear()
    gc.collect()
    assert gone() is not None  # its context holds it
    del context
    gc.collect()
    assert gone() is None


def test_a_file_that_was_rewritten_is_another_model(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(gguf_files.embedded("draft").read_bytes())
    first = Model.load(file)
    new = tmp_path / "new.gguf"
    new.write_bytes(gguf_files.embedded("target").read_bytes())
    new.replace(file)
    assert Model.load(file).parameters > first.parameters


def test_weights_are_mapped_and_not_copied() -> None:
    code = f"""
from pathlib import Path
from rsd_integrations.llamacpp.model import Model
file = {str(gguf_files.smollm2().resolve())!r}
model = Model.load(file)
print(file in Path("/proc/self/maps").read_text())
"""
    assert run(code) == "True\n"


def test_weights_are_left_as_they_are_where_that_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    original = library().model_parameters

    def parameters(**values: object) -> object:
        changed = original(**values)
        asked.append(changed.use_extra_bufts)
        return changed

    monkeypatch.setattr(library(), "model_parameters", parameters)
    for setting in ("1", "0"):
        monkeypatch.setenv(REPACK, setting)
        Model(gguf_files.embedded("draft"), None, False)
    assert asked == [True, False]


def test_an_invalid_model_is_refused_with_the_remedy(tmp_path: Path) -> None:
    folder, text, empty, short = (tmp_path / name for name in ("folder", "text.gguf", "empty.gguf", "short.gguf"))
    folder.mkdir()
    text.write_text("version https://git-lfs.github.com/spec/v1\n")
    empty.touch()
    short.write_bytes(gguf_files.embedded("draft").read_bytes()[:-200_000])
    later = tmp_path / "model-00002-of-00003.gguf"
    later.write_bytes(b"GGUF")
    for path, said in {
        tmp_path / "absent.gguf": "there is no such file",
        folder: "is a folder; give the GGUF file in it",
        text: "is not a GGUF file: it does not begin with 'GGUF'",
        empty: "is not a GGUF file",
        short: "cannot be loaded: .*Fetch a truncated file",
        later: r"is a later part of a model; give the first one, model-00001-of-00003\.gguf",
    }.items():
        with pytest.raises(ConfigurationError, match=said) as error:
            Model.load(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


def test_what_the_library_says_of_a_failure_is_in_the_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "odd.gguf"
    writer = gguf.GGUFWriter(file, "an-architecture-of-2031")
    writer.add_block_count(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ConfigurationError, match="unknown model architecture: 'an-architecture-of-2031'") as error:
        Model.load(file)
    assert "newer llama.cpp" in str(error.value)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_vocabulary_that_cannot_spell_every_byte_is_refused(tmp_path: Path) -> None:
    """The library would end the process at the first text with a byte that has no token."""
    normal = gguf.TokenType.NORMAL
    file = write_vocabulary(
        tmp_path / "few.gguf", "llama", ["<unk>", "a", "b"], [gguf.TokenType.UNKNOWN, normal, normal]
    )
    with pytest.raises(ConfigurationError, match="no tokens for 256 of the 256 bytes"):
        Model.load(file, vocabulary_only=True)
    with pytest.raises(ConfigurationError, match="has no vocabulary"):
        Model.load(write_vocabulary(tmp_path / "none.gguf", "no_vocab", ["a"] * 8, []), vocabulary_only=True)


def test_a_vocabulary_alone_reads_and_writes_no_text(tmp_path: Path) -> None:
    file = Path(shutil.copy(gguf_files.embedded("draft"), tmp_path))  # it has not been loaded with weights
    model = Model.load(file, vocabulary_only=True)
    assert model.encode("Hello")
    with pytest.raises(ConfigurationError, match="without its weights: it cannot be run"):
        Context(model, cells=256)
    with pytest.raises(ConfigurationError, match="without its weights: it accepts no adapter"):
        model.adapter(file)


def test_an_adapter_changes_the_logits_of_its_context_alone(draft: Model, tmp_path: Path) -> None:
    adapter = draft.adapter(write_lora(tmp_path / "lora.gguf"))
    assert draft.adapter(tmp_path / "lora.gguf") is adapter

    def logits(*adapters: tuple[object, float]) -> np.ndarray:
        context = Context(draft, cells=256, adapters=adapters)  # type: ignore[arg-type]
        context.decode([(0, 0, [5, 6, 7])], [2])
        return context.logits(1)

    plain = logits()
    changed = logits((adapter, 1.0))
    assert np.abs(changed - plain).max() > 0.01
    assert np.array_equal(logits((adapter, 0.0)), plain)
    assert np.array_equal(logits(), plain)
    assert not np.array_equal(logits((adapter, 0.5)), changed)


def test_an_adapter_of_another_model_is_refused(draft: Model, smollm2: Model, tmp_path: Path) -> None:
    adapter = draft.adapter(write_lora(tmp_path / "lora.gguf"))
    with pytest.raises(ValueError, match=r"lora\.gguf was loaded for a model other"):
        Context(smollm2, cells=256, adapters=[(adapter, 1.0)])
    for file in (
        write_lora(tmp_path / "model.gguf", kind="model"),
        write_lora(tmp_path / "wide.gguf", width=128),
        gguf_files.embedded("target"),
    ):
        with pytest.raises(
            ConfigurationError, match=r"cannot be used as a LoRA adapter of draft\.gguf: .+\. Use an adapter"
        ):
            draft.adapter(file)
    with pytest.raises(ConfigurationError, match="cannot be used as a LoRA adapter of SmolLM2"):
        smollm2.adapter(write_lora(tmp_path / "other.gguf"))


def test_a_model_in_shards_is_loaded_by_its_first(tmp_path: Path) -> None:
    reader = gguf.GGUFReader(gguf_files.embedded("draft"))
    tensors = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    writer = gguf.GGUFWriter(tmp_path / "draft.gguf", "qwen2", split_max_tensors=len(tensors) // 2 + 1)
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            kind, *inner = field.types
            writer.add_key_value(field.name, field.contents(), kind, sub_type=inner[-1] if inner else None)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    first, second = sorted(tmp_path.glob("*.gguf"))
    assert Model.load(first).parameters == Model.load(gguf_files.embedded("draft")).parameters
    second.unlink()
    os.utime(first)  # another file, as far as can be seen
    with pytest.raises(ConfigurationError, match="00002-of-00002"):
        Model.load(first)
