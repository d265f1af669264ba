"""Headers are read as by the gguf package; incomplete files are refused in one line."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from rsd_core import ConfigurationError
from rsd_integrations.embedded.models import FOLDER
from rsd_integrations.huggingface import load_generator
from rsd_integrations.llamacpp.contents import Array
from rsd_integrations.llamacpp.header import read_header
from rsd_integrations.llamacpp.tensor_types import FILE_TYPES, TENSOR_TYPES
from tests.llamacpp.gguf_files import embedded, gemma, smollm2, write_small

FILES: dict[str, Callable[[], Path]] = {"smollm2": smollm2, "gemma": gemma, "embedded": lambda: embedded("target")}


@pytest.mark.parametrize("name", FILES)
def test_it_says_what_the_gguf_package_reads(name: str) -> None:
    file = FILES[name]()
    header, reader = read_header(file), gguf.GGUFReader(file)
    fields = {key: field for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert list(header.metadata) == list(fields)
    for key, field in fields.items():
        value = header.metadata[key]
        assert (value.read() if isinstance(value, Array) else value) == field.contents(), key
    listed = [(tensor.name, tensor.shape, tensor.type, tensor.bytes) for tensor in header.tensors]
    wanted = [(one.name, tuple(map(int, one.shape)), one.tensor_type.name, int(one.n_bytes)) for one in reader.tensors]
    assert listed == wanted


def test_it_says_what_a_model_is() -> None:
    header = read_header(gemma())
    assert (header.architecture, header.name, header.file_type) == ("gemma3", "Gemma 3 270m", "Q4_K_M")
    assert (header.context, header.layers, header.heads, header.width) == (32768, 18, 4, 640)
    assert (header.feed_forward, header.vocabulary_size, header.sliding_window) == (2048, 262144, 512)
    assert (header.tokenizer, header.has_chat_template) == ("llama", False)
    assert header.cache_bytes() == 18 * 2 * 256 * 2  # one head of 256 for keys and for values, in F16
    header = read_header(smollm2())
    assert (header.architecture, header.file_type, header.tokenizer) == ("llama", "Q4_1", "gpt2")
    assert header.has_chat_template
    assert header.parameters == 134_515_008  # 135M
    assert header.types == {"Q4_1": 106_168_320, "Q8_0": 28_311_552, "F32": 35_136}
    assert header.cache_bytes() == 30 * 2 * 3 * 64 * 2


@pytest.mark.parametrize("name", ["draft", "target"])
def test_its_figures_are_those_of_the_checkpoint(name: str) -> None:
    header, model = read_header(embedded(name)), load_generator(str(FOLDER / name))
    assert header.flops_per_token == model.flops_per_token
    assert header.parameters == model.runner.model.num_parameters()
    assert header.bytes == 4 * header.parameters


def test_experts_count_as_far_as_they_are_used(tmp_path: Path) -> None:
    values = {"llama.expert_count": 8, "llama.expert_used_count": 2, "llama.block_count": 1}
    weights = {
        "token_embd.weight": np.zeros((10, 4), np.float32),
        "blk.0.ffn_up_exps.weight": np.zeros((8, 6, 4), np.float32),
        "blk.0.ffn_gate_inp.weight": np.zeros((8, 4), np.float32),
        "output.weight": np.zeros((10, 4), np.float32),
    }
    header = read_header(write_small(tmp_path / "moe.gguf", values, weights))
    assert header.flops_per_token == 2 * (8 * 6 * 4 * 2 / 8 + 8 * 4 + 10 * 4)
    assert header.parameters == 10 * 4 * 2 + 8 * 6 * 4 + 8 * 4


def test_layers_may_differ(tmp_path: Path) -> None:
    values = {
        "llama.block_count": 3,
        "llama.embedding_length": 64,
        "llama.attention.head_count": [4, 2, 4],
        "llama.attention.head_count_kv": [2, 0, 1],
    }
    header = read_header(write_small(tmp_path / "mixed.gguf", values))
    assert header.heads == 4
    assert header.cache_bytes(4) == (2 + 0 + 1) * (16 + 16) * 4


def test_results_depend_on_the_batch_where_a_matrix_is_stored_so(tmp_path: Path) -> None:
    kinds = gguf.GGMLQuantizationType
    norm = np.zeros(256, np.float32)
    for kind, invariant in ((kinds.Q4_1, True), (kinds.Q8_0, True), (kinds.Q4_0, True), (kinds.Q4_K, False)):
        output = np.zeros((8, 144), np.uint8) if kind is kinds.Q4_K else None
        file, name = tmp_path / f"{kind.name}.gguf", "output.weight"
        writer = gguf.GGUFWriter(file, "llama")
        writer.add_tensor("token_embd.weight", np.zeros((8, 256), np.float32))  # looked up
        writer.add_tensor("output_norm.weight", norm)  # no matrix
        data = gguf.quantize(np.zeros((8, 256), np.float32), kind) if output is None else output
        writer.add_tensor(name, data, raw_dtype=kind)
        for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
            write()
        writer.close()
        assert read_header(file).row_by_row is invariant, kind
    tied = {"token_embd.weight": np.zeros((8, 256), np.float32)}
    assert not read_header(write_small(tmp_path / "tied.gguf", tensors=tied)).row_by_row
    assert [read_header(file).row_by_row for file in (smollm2(), gemma(), embedded("draft"))] == [True, False, False]


def test_a_model_in_several_files_is_one(tmp_path: Path) -> None:
    tensors = {f"blk.{layer}.attn_q.weight": np.zeros((4, 4), np.float32) for layer in range(5)}
    write_small(tmp_path / "model.gguf", {"general.name": "Five"}, tensors, split_max_tensors=2)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == [f"model-{n:05}-of-00003.gguf" for n in (1, 2, 3)]
    for file in files:  # whichever is named
        header = read_header(file)
        assert (header.files, header.name, header.split_count) == (tuple(files), "Five", 3)
        assert [tensor.name for tensor in header.tensors] == list(tensors)
    files[1].rename(tmp_path / "away")
    with pytest.raises(ConfigurationError, match=r"one of 3 files; missing next to it: model-00002-of-00003\.gguf"):
        read_header(files[0])
    files[0].rename(tmp_path / "alone.gguf")
    with pytest.raises(ConfigurationError, match="one of 3 files of a model but not named like one"):
        read_header(tmp_path / "alone.gguf")


def test_a_vocabulary_of_a_quarter_million_takes_milliseconds() -> None:
    def seconds() -> float:
        started = time.process_time()
        read_header(gemma())
        return time.process_time() - started

    assert min(seconds() for _ in range(5)) < 0.2  # 20 ms on an idle machine; the gguf package takes 8 s


def test_it_needs_nothing_but_the_core() -> None:
    code = (
        "import sys; from pathlib import Path; from rsd_integrations.llamacpp.header import read_header;"
        f"print(read_header(Path({str(smollm2())!r})).file_type, {{'torch', 'gguf'}} & {{*sys.modules}})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["Q4_1", "set()"]


def test_it_knows_every_type_that_the_gguf_package_knows() -> None:
    ours = {(number, *type_) for number, type_ in TENSOR_TYPES.items()}
    theirs = {(kind.value, kind.name, *size) for kind, size in gguf.GGML_QUANT_SIZES.items()}
    assert theirs <= ours
    names = {one.value: one.name.removeprefix("ALL_").removeprefix("MOSTLY_") for one in gguf.LlamaFileType}
    assert {number: name for number, name in names.items() if name != "GUESSED"} == FILE_TYPES


def test_the_type_of_most_weights_stands_in_for_an_unknown_mix(tmp_path: Path) -> None:
    half = np.zeros((100, 4), np.float16)
    header = read_header(write_small(tmp_path / "f.gguf", tensors={"a": half, "b": np.zeros((9, 4), np.float32)}))
    assert header.file_type == "F16"


def refused(file: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        read_header(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    assert "cannot be read: No such file" in refused(file)
    file.write_bytes(b"")
    assert "not a GGUF file: it begins with b''" in refused(file)
    file.write_bytes(b"PK\x03\x04rest")
    assert "not a GGUF file: it begins with b'PK" in refused(file)
    file.write_bytes(b"GGUF\x01\0\0\0" + bytes(64))
    assert "GGUF version 1; versions 2 and 3 are supported" in refused(file)
    file.write_bytes(b"GGUF\x03\0\0\0" + b"\xff" * 64)
    assert "truncated or damaged" in refused(file)
    assert "cannot be read" in refused(tmp_path)
    file.unlink()
    write_small(file, endianess=gguf.GGUFEndian.BIG)
    assert "big-endian byte order" in refused(file)


def test_a_file_that_is_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = embedded("draft").read_bytes()
    start = len(whole) - read_header(embedded("draft")).bytes
    file = tmp_path / "cut.gguf"
    for size in [*range(200), *range(200, start, 97), start, start + 10, len(whole) - 1000]:
        file.write_bytes(whole[:size])
        refused(file)
    assert "truncated: it has" in refused(file)


def test_a_damaged_file_is_refused_or_read(tmp_path: Path) -> None:
    """Never an error of another kind, an endless loop or a great deal of memory."""
    values: dict[str, Any] = {"a.text": "word", "a.number": 3, "a.list": [1, 2, 3], "a.words": ["x", "yy"]}
    whole = write_small(tmp_path / "whole.gguf", values).read_bytes()
    file, random_numbers, wrong = tmp_path / "damaged.gguf", random.Random(5), 0
    for _ in range(2000):
        damaged = bytearray(whole)
        for _ in range(random_numbers.choice([1, 1, 1, 4])):
            damaged[random_numbers.randrange(4, len(damaged))] = random_numbers.choice([0, 1, 9, 127, 128, 255])
        file.write_bytes(damaged)
        try:
            read_header(file)
        except ConfigurationError:
            wrong += 1
    assert 200 < wrong < 2000


def edited(whole: bytes, name: bytes, offset: int, value: bytes) -> bytes:
    """A file with some bytes after a name replaced."""
    at = whole.index(name) + len(name) + offset
    return whole[:at] + value + whole[at + len(value) :]


@pytest.mark.parametrize(
    ("name", "offset", "value", "message"),
    [
        (b"token_embd.weight", 0, b"\x09", "has 9 dimensions"),
        (b"token_embd.weight", 20, b"\x63", "has the type 99, which is not supported"),
        (b"token_embd.weight", 20, b"\x0c", "hold 4 weights, not a multiple of 256"),
        (b"token_embd.weight", 24, b"\x01", "begins at 1, not a multiple of 32"),
        (b"token_embd.weight", 24, b"\x00\x10", "is truncated: it has 384 bytes"),
        (b"general.architecture", -1, b"x", "names no architecture"),
        (b"general.architecture", 0, b"\x4d", "damaged"),
        (b"general.alignment", 4, b"\x21", "general.alignment is 33, not a power of two"),
        (b"llama.block_count", 4, b"\x00\x10", "has 4,096 layers; llama.cpp runs up to 512"),
        (b"general.name", 12, b"\xff", "damaged"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: bytes, offset: int, value: bytes, message: str) -> None:
    values = {"general.alignment": 32, "llama.block_count": 0, "general.name": "Name"}
    file = write_small(tmp_path / "model.gguf", values)
    file.write_bytes(edited(file.read_bytes(), name, offset, value))
    assert message in refused(file)
