"""Converts checkpoints to GGUF files for llama.cpp: tensor by tensor, with a vocabulary tested beforehand."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor

from rsd_core import ConfigurationError
from rsd_integrations.huggingface import gguf_architectures as architectures
from rsd_integrations.huggingface import gguf_tokenizers, loading
from rsd_integrations.huggingface.from_pretrained import load_tokenizer, native_config
from rsd_integrations.huggingface.gguf_architectures import Architecture
from rsd_integrations.huggingface.gguf_vocabulary_check import check_vocabulary
from rsd_integrations.huggingface.reward_models import Weights
from rsd_integrations.huggingface.shared import HEAD
from rsd_integrations.llamacpp.model import Model
from rsd_integrations.output_files import new_file
from rsd_integrations.prm_formats import CONFIG_KEY, Head, check_format, find_format, separate_files, tensor_name

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

TYPES = ("f32", "f16", "q8_0")
"""Types of the matrices. Norms and biases are in single precision, as llama.cpp requires."""
BLOCK = 32
"""Weights of a row that share a scale in Q8_0; a matrix whose width is not a multiple is written in F16."""
FORMAT_KEY = f"rsd.{CONFIG_KEY}"
"""Metadata key for the format of a reward model, in the file of its body."""


class Planned(NamedTuple):
    """A tensor of the file, which is read only when it is written."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], Tensor]


def export(model: str, file: Path, *, type: str = "f32", format: str | None = None) -> Path:
    """Convert a checkpoint, or the body of a reward model, to a GGUF file, which then says how to use it with the head.

    Args:
        model: Hub id or folder of a language model or a reward model.
        file: The file to write, which must not exist. It is written completely or not at all.
        type: One of `TYPES`.
        format: Format of a reward model, if its weights and its name do not show it.

    Raises:
        ConfigurationError: llama.cpp has no identical architecture or tokenizer, the weights are incomplete, or numbers
            are beyond the range of the type.
        MissingDependency: `gguf` is not installed, or llama.cpp, with which the vocabulary is tested.
    """
    if type not in TYPES:
        raise ConfigurationError(f"type {type!r} is unknown; choose one of {', '.join(TYPES)}")
    check_format(format)
    architectures.library()
    folder = loading.find(model)
    raw = loading.read_config(folder)
    architecture = architectures.of_model_type(raw.get("model_type"), model)
    config = native_config(raw, model)
    settings = architectures.settings(architecture, config, model)
    weights = Weights(folder, model, pickles=False)
    tensors, left_out = _planned(architecture, config, weights)
    tokenizer = load_tokenizer(folder)
    ends = _ends(folder, raw, tokenizer)
    vocabulary = gguf_tokenizers.settings(tokenizer, config.vocab_size, model) | _end_settings(ends)
    metadata = {
        "general.name": Path(model).resolve().name if Path(model).exists() else model,
        **_reward_settings(weights, raw, left_out, format),
        **{f"{architecture.name}.{key}": value for key, value in settings.items()},
        **{f"tokenizer.ggml.{key}": value for key, value in vocabulary.items()},
    }
    template = tokenizer.chat_template
    with new_file(file) as fresh:
        with tempfile.TemporaryDirectory() as scratch:
            trial = Path(scratch) / "vocabulary.gguf"
            _write(trial, architecture, metadata, template, [], type, model)
            check_vocabulary(Model.load(trial, vocabulary_only=True), tokenizer, set(ends), model)
        _write(fresh, architecture, metadata, template, tensors, type, model)
    return file


def _planned(
    architecture: Architecture, config: PretrainedConfig, weights: Weights
) -> tuple[list[Planned], frozenset[str]]:
    """The tensors of the file, and the names of the checkpoint's tensors that do not belong to a language model."""
    tensors, used, lost = [], set(), []
    for name, (named, shape) in architectures.tensors(architecture, config).items():
        origin = name if name in weights.shapes else name.removeprefix("model.")
        if weights.shapes.get(origin) != shape:
            lost.append(name)
            continue
        used.add(origin)
        tensors.append(Planned(named, shape, _reader(architecture, config, weights, origin, named)))
    ropes = config.rope_parameters
    if ropes.get("rope_type") == "llama3":
        divisors = architectures.frequency_divisors(ropes, architectures.head_width(config))
        tensors.append(Planned(architectures.FREQUENCIES, tuple(divisors.shape), lambda: divisors))
    others = {name for name in weights.shapes if name not in used and weights.file_of(name) != HEAD}
    others = {name for name in others if not name.endswith("rotary_emb.inv_freq")}
    if config.tie_word_embeddings:
        others.discard("lm_head.weight")
    if lost and not (lost == ["lm_head.weight"] and others):
        raise ConfigurationError(
            f"{weights.model}: {len(lost)} tensors are missing or have another shape, {', '.join(lost[:3])} first. Is "
            "the download complete, and does config.json belong to it?"
        )
    return tensors, frozenset(others)


def _reader(
    architecture: Architecture, config: PretrainedConfig, weights: Weights, origin: str, named: str
) -> Callable[[], Tensor]:
    return lambda: architectures.to_file(architecture, config, named, weights.rows(origin))


def _reward_settings(
    weights: Weights, raw: Mapping[str, Any], left_out: frozenset[str], format: str | None
) -> dict[str, str]:
    """The file's description of a reward model; empty for a language model.

    Raises:
        ConfigurationError: Tensors would be omitted that are not a known reward head.
    """
    if not left_out and format is None and CONFIG_KEY not in raw:
        return {}
    form = find_format(raw, weights.shapes | separate_files(weights.folder), weights.model, format)
    layers = {layer for head in form.heads if isinstance(head, Head) for layer in head.layers}
    # The head's whole module: some hold more layers than are used.
    modules = {tensor_name(layer, part).partition(".")[0] for layer in layers for part in ("weight", "bias")}
    strange = sorted(name for name in left_out if name.partition(".")[0] not in modules)
    if strange:
        raise ConfigurationError(
            f"{weights.model}: {len(strange)} of its tensors have no place in a GGUF file, {', '.join(strange[:3])} "
            "first"
        )
    return {
        "general.description": f"Body of a reward model in the format {form.name}, without its head. Use it as "
        "prm:gguf=FILE,head=FOLDER with this file and the folder of the checkpoint.",
        FORMAT_KEY: form.name,
    }


def _ends(folder: Path, raw: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of all tokens that end an answer, the tokenizer's own first."""
    file = folder / "generation_config.json"
    generation = json.loads(file.read_text()) if file.exists() else {}
    ids: list[int] = []
    for value in (tokenizer.eos_token_id, generation.get("eos_token_id"), raw.get("eos_token_id")):
        ids += [value] if isinstance(value, int) else value or []
    return list(dict.fromkeys(ids))


def _end_settings(ends: list[int]) -> dict[str, int]:
    """Settings for up to three end tokens; llama.cpp must know any others by name, or the vocabulary is refused."""
    return dict(zip(("eos_token_id", "eot_token_id", "eom_token_id"), ends, strict=False))


def _write(
    file: Path,
    architecture: Architecture,
    metadata: Mapping[str, Any],
    template: str | dict[str, str] | None,
    tensors: Iterable[Planned],
    type: str,
    model: str,
) -> None:
    gguf = architectures.library()
    writer = gguf.GGUFWriter(file, architecture.name)
    try:
        writer.add_type("model")
        writer.add_file_type(_FILE_TYPES[type])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        for key, value in metadata.items():
            _add(writer, key, value)
        if template is not None:
            named = (
                template
                if isinstance(template, str)
                else [{"name": name, "template": text} for name, text in template.items()]
            )
            writer.add_chat_template(named)
        for tensor in tensors:
            kind = _kind(tensor, type)
            shape = gguf.quant_shape_to_byte_shape(tensor.shape, kind)
            writer.add_tensor_info(tensor.name, shape, np.dtype(np.uint8), int(np.prod(shape)), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            writer.write_tensor_data(_data(tensor, _kind(tensor, type), model))
    finally:
        writer.close()


_FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7}
"""llama.cpp's numbers (`llama_ftype`) for files whose matrices are mostly of one type."""


def _add(writer: Any, key: str, value: Any) -> None:
    """Write a setting in the type that llama.cpp expects."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _kind(tensor: Planned, type: str) -> Any:
    kinds = architectures.library().GGMLQuantizationType
    if len(tensor.shape) < 2 or type == "f32":
        return kinds.F32
    return kinds.F16 if type == "f16" or tensor.shape[-1] % BLOCK else kinds.Q8_0


def _data(tensor: Planned, kind: Any, model: str) -> Any:
    """The bytes of a tensor."""
    gguf = architectures.library()
    numbers = tensor.read().numpy()
    if kind == gguf.GGMLQuantizationType.F16 and np.abs(numbers).max() > np.finfo(np.float16).max:
        raise ConfigurationError(f"{model}: {tensor.name} has numbers beyond the range of F16; write it as f32")
    return gguf.quantize(np.ascontiguousarray(numbers), kind).view(np.uint8)
