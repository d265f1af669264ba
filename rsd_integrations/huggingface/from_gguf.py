"""Converts GGUF files to ordinary checkpoints: unquantised weights, configuration, tokenizer, chat template.

transformers reads some GGUF files, but refuses to save them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rsd_core import ConfigurationError
from rsd_integrations.huggingface import gguf_architectures as architectures
from rsd_integrations.huggingface import gguf_tokenizers
from rsd_integrations.huggingface.from_pretrained import load_tokenizer
from rsd_integrations.huggingface.gguf_vocabulary_check import check_vocabulary
from rsd_integrations.llamacpp.contents import Array
from rsd_integrations.llamacpp.header import read_header
from rsd_integrations.llamacpp.model import Model
from rsd_integrations.output_files import new_folder

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_SAFETENSORS = {torch.float32: "F32", torch.bfloat16: "BF16"}
TOKENIZER = "tokenizer.ggml."


class File:
    """A GGUF file, or the files that one was split into: settings, and tensors that are read on demand.

    Args:
        path: The file; the first of several.

    Raises:
        ConfigurationError: It is not a complete GGUF file.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise ConfigurationError(f"there is no file {str(path)!r}")
        self.path, self.name = path, str(path)
        self.header = read_header(path)
        self._tensors = {tensor.name: tensor for tensor in self.header.tensors}
        self.shapes = {name: tensor.shape[::-1] for name, tensor in self._tensors.items()}

    def under(self, prefix: str) -> dict[str, Any]:
        """Settings that begin with a prefix, which is removed from their names."""
        named = {key.removeprefix(prefix): key for key in self.header.metadata if key.startswith(prefix)}
        return {name: self.setting(key) for name, key in named.items()}

    def setting(self, key: str) -> Any:
        """A setting by its full name; None if the file lacks it."""
        value = self.header.metadata.get(key)
        return value.read() if isinstance(value, Array) else value

    def tensor(self, name: str) -> Tensor:
        """A tensor in fp32.

        Raises:
            ConfigurationError: Its quantisation is unknown, or it is not finite.
        """
        gguf = architectures.library()
        stored = self._tensors[name]
        try:
            kind = gguf.GGMLQuantizationType[stored.type]
            rows = gguf.quant_shape_to_byte_shape(self.shapes[name], kind)
            numbers = gguf.dequantize(np.memmap(stored.file, np.uint8, "r", stored.start, rows), kind)
        except (NotImplementedError, KeyError) as error:
            raise ConfigurationError(
                f"{self.name}: {name} has the type {stored.type}, which the package gguf does not read"
            ) from error
        full = torch.from_numpy(np.array(numbers, dtype=np.float32))
        if not torch.isfinite(full).all():
            raise ConfigurationError(f"{self.name}: the tensor {name} is not finite; is the download complete?")
        return full

    @property
    def full(self) -> bool:
        """Whether all tensors are in single precision."""
        return self.header.types.keys() == {"F32"}


def export(file: Path, out: Path, *, dtype: str | None = None) -> Path:
    """Convert a GGUF file to a checkpoint for transformers, vLLM and this project's `hf:`.

    Args:
        file: The file; the first one if the model is split.
        out: Folder of the checkpoint, new or empty. It is written completely or not at all.
        dtype: float32, which keeps every number of the file, or bfloat16. By default float32 if the file is in it, else
            bfloat16: the usual dtype of checkpoints, and half the size. It rounds numbers by up to 1 in 512: for Q8_0
            up to a quarter of a quantisation step, for types of fewer bits next to nothing.

    Raises:
        ConfigurationError: The architecture, tokenizer or quantisation is unknown, or the file is broken.
        MissingDependency: `gguf` is not installed, or llama.cpp, with which the tokenizer is compared.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ConfigurationError(f"dtype {dtype!r} is unknown; choose one of {', '.join(DTYPES)}")
    source = File(file)
    architecture = architectures.of_file(source.header.architecture, source.name)
    divisors = source.tensor(architectures.FREQUENCIES) if architectures.FREQUENCIES in source.shapes else None
    settings = source.under(f"{architecture.name}.")
    config = architectures.config_of(architecture, settings, source.shapes, divisors, source.name)
    tensors = architectures.tensors(architecture, config)
    names = {named: (name, shape) for name, (named, shape) in tensors.items()}
    strange = source.shapes.keys() - names.keys() - {architectures.FREQUENCIES}
    lost = {named for named, (_, shape) in names.items() if source.shapes.get(named) != shape}
    if strange or lost:
        problem = f"lacks {min(lost)}, or has it in another shape" if lost else f"has an unknown tensor {min(strange)}"
        raise ConfigurationError(
            f"{source.name} is not a complete model of the architecture {architecture.name}: it {problem}"
        )
    tokenizer = _tokenizer(source)
    kind = DTYPES[dtype or ("float32" if source.full else "bfloat16")]

    def read(name: str) -> Tensor:
        named, _ = tensors[name]
        return architectures.from_file(architecture, config, named, source.tensor(named)).to(kind)

    other = Model.load(source.path, vocabulary_only=True)
    ends = _ends(source, tokenizer, other)
    with new_folder(out) as fresh:
        tokenizer.save_pretrained(fresh)
        _save_config(config, kind, tokenizer, ends, fresh)
        # For some model types transformers uses its own tokenizer, whatever the folder holds.
        check_vocabulary(other, load_tokenizer(fresh), set(ends), source.name)
        _save(fresh / "model.safetensors", {name: shape for name, (_, shape) in tensors.items()}, kind, read)
    return out


def _save_config(
    config: PretrainedConfig, dtype: torch.dtype, tokenizer: PreTrainedTokenizerFast, ends: list[int], folder: Path
) -> None:
    """Write the configuration and the generation defaults."""
    from transformers import GenerationConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    ids = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    ids["eos_token_id"] = ends[0] if len(ends) == 1 else ends or None
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    config.architectures = [model_class.__name__]
    config.dtype = dtype
    config.update(ids)
    config.save_pretrained(folder)
    GenerationConfig(**ids).save_pretrained(folder)  # type: ignore[no-untyped-call]


def _tokenizer(source: File) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    settings = source.under(TOKENIZER)
    if "tokens" not in settings:
        raise ConfigurationError(f"{source.name} holds no vocabulary")
    tokens = settings["tokens"]
    keys = {"bos": "bos_token_id", "eos": "eos_token_id", "unk": "unknown_token_id", "pad": "padding_token_id"}
    named = {
        f"{name}_token": tokens[settings[key]]
        for name, key in keys.items()
        if settings.get(key, -1) in range(len(tokens))
    }
    try:
        backend = gguf_tokenizers.tokenizer_of(settings, source.name)
    except ConfigurationError:
        raise
    except Exception as error:  # the tokenizers library raises no specific class
        raise ConfigurationError(
            f"{source.name}: its vocabulary is incomplete ({type(error).__name__}: {error})"
        ) from error
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, clean_up_tokenization_spaces=False, **named
    )
    template = source.setting("tokenizer.chat_template")
    if template is not None:
        more = source.under("tokenizer.chat_template.")
        tokenizer.chat_template = {"default": template, **more} if more else template
    return tokenizer


def _ends(source: File, tokenizer: PreTrainedTokenizerFast, other: Model) -> list[int]:
    """Ids that end an answer, the file's own first: all of its control tokens at which llama.cpp stops."""
    control = [id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special]
    own = source.setting(f"{TOKENIZER}eos_token_id")
    return sorted((id_ for id_ in {*control, own} - {None} if other.ends(id_)), key=lambda id_: (id_ != own, id_))


def _save(file: Path, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, read: Callable[[str], Tensor]) -> None:
    """Write tensors one after another, since `safetensors` needs all of them in memory."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + int(np.prod(shape)) * dtype.itemsize
        header[name] = {"dtype": _SAFETENSORS[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with file.open("wb") as out:
        out.write(len(encoded).to_bytes(8, "little") + encoded)
        for name in shapes:
            read(name).contiguous().view(torch.uint8).numpy().tofile(out)
