"""GGUF files as ordinary checkpoints: weights in full numbers, configuration, tokenizer, chat template.

transformers reads some GGUF files, and refuses to save what it has read.
"""

from __future__ import annotations

import json
import re
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
from rsd_integrations.output_files import new_folder

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_SAFETENSORS = {torch.float32: "F32", torch.bfloat16: "BF16"}
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
TOKENIZER = "tokenizer.ggml."


class File:
    """A GGUF file, or the files that one was split into: settings, and tensors that are read when they are asked for.

    Args:
        path: The file; the first one of several.

    Raises:
        ConfigurationError: It is no whole GGUF file.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise ConfigurationError(f"there is no file {str(path)!r}")
        gguf = architectures.library()
        self.path, self.name = path, str(path)
        self.settings: dict[str, Any] = {}
        self._tensors: dict[str, Any] = {}
        for part in _parts(path):
            try:
                reader = gguf.GGUFReader(part)
            except (OSError, ValueError, KeyError, IndexError, UnicodeDecodeError) as error:
                raise ConfigurationError(
                    f"{part} is no whole GGUF file ({error}); is the download complete?"
                ) from error
            self.settings = {name: field.contents() for name, field in reader.fields.items()} | self.settings
            self._tensors |= {tensor.name: tensor for tensor in reader.tensors}
        self.shapes = {name: tuple(reversed(tensor.shape.tolist())) for name, tensor in self._tensors.items()}

    def under(self, prefix: str) -> dict[str, Any]:
        """Settings that begin with a prefix, without it."""
        return {key.removeprefix(prefix): value for key, value in self.settings.items() if key.startswith(prefix)}

    def tensor(self, name: str) -> Tensor:
        """A tensor in fp32.

        Raises:
            ConfigurationError: Its quantisation is not known, or it holds something that is no number.
        """
        gguf = architectures.library()
        tensor = self._tensors[name]
        try:
            numbers = gguf.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as error:
            raise ConfigurationError(
                f"{self.name}: {name} is of the type {tensor.tensor_type.name}, which the package gguf does not read"
            ) from error
        full = torch.from_numpy(np.array(numbers, dtype=np.float32).reshape(self.shapes[name]))
        if not torch.isfinite(full).all():
            raise ConfigurationError(f"{self.name}: the tensor {name} is not finite; is the download complete?")
        return full

    @property
    def full(self) -> bool:
        """Whether its matrices are in single precision."""
        return all(tensor.tensor_type.name == "F32" for tensor in self._tensors.values())


def export(file: Path, out: Path, *, dtype: str | None = None) -> Path:
    """Write a GGUF file as a checkpoint that transformers, vLLM and this project's `hf:` read.

    Args:
        file: The file; the first one of a model in several.
        out: Folder of the checkpoint, new or empty. It is there as a whole or not at all.
        dtype: float32, which keeps every number of the file, or bfloat16. By default float32 where the file has that,
            else bfloat16: what checkpoints are published in, and half the size. It rounds numbers by up to 1 in 512;
            for Q8_0 that is up to a quarter of the steps between them, for types of fewer bits next to nothing.

    Raises:
        ConfigurationError: An architecture, a tokenizer or a quantisation that is not known, or a broken file.
        MissingDependency: `gguf` is not installed, or no llama.cpp to compare the tokenizer with.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ConfigurationError(f"dtype {dtype!r} is unknown; choose one of {', '.join(DTYPES)}")
    source = File(file)
    architecture = architectures.of_file(source.settings.get("general.architecture"), source.name)
    divisors = source.tensor(architectures.FREQUENCIES) if architectures.FREQUENCIES in source.shapes else None
    settings = source.under(f"{architecture.name}.")
    config = architectures.config_of(architecture, settings, source.shapes, divisors, source.name)
    tensors = architectures.tensors(architecture, config)
    names = {named: (name, shape) for name, (named, shape) in tensors.items()}
    strange = source.shapes.keys() - names.keys() - {architectures.FREQUENCIES}
    lost = {named for named, (_, shape) in names.items() if source.shapes.get(named) != shape}
    if strange or lost:
        problem = f"lacks {min(lost)}, or has it in another shape" if lost else f"has a tensor {min(strange)} too many"
        raise ConfigurationError(
            f"{source.name} is no whole model of the architecture {architecture.name}: it {problem}"
        )
    tokenizer = _tokenizer(source)
    kind = DTYPES[dtype or ("float32" if source.full else "bfloat16")]

    def read(name: str) -> Tensor:
        named, _ = tensors[name]
        return architectures.from_file(architecture, config, named, source.tensor(named)).to(kind)

    ends = _ends(source, tokenizer)
    with new_folder(out) as fresh:
        tokenizer.save_pretrained(fresh)
        _save_config(config, kind, tokenizer, ends, fresh)
        # transformers has tokenizers of its own for some types of models, whatever the folder holds.
        check_vocabulary(source.path, load_tokenizer(fresh), set(ends), source.name)
        _save(fresh / "model.safetensors", {name: shape for name, (_, shape) in tensors.items()}, kind, read)
    return out


def _save_config(
    config: PretrainedConfig, dtype: torch.dtype, tokenizer: PreTrainedTokenizerFast, ends: list[int], folder: Path
) -> None:
    """The configuration, and what generation asks for."""
    from transformers import GenerationConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    ids = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    ids["eos_token_id"] = ends[0] if len(ends) == 1 else ends or None
    named: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    config.architectures = [named.__name__]
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
    named = {f"{name}_token": tokens[settings[key]] for name, key in keys.items() if key in settings}
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=gguf_tokenizers.tokenizer_of(settings, source.name),
        clean_up_tokenization_spaces=False,
        **named,
    )
    template = source.settings.get("tokenizer.chat_template")
    others = source.settings.get("tokenizer.chat_templates", [])
    if template is not None:
        more = {name: source.settings[f"tokenizer.chat_template.{name}"] for name in others}
        tokenizer.chat_template = {"default": template, **more} if more else template
    return tokenizer


def _ends(source: File, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Tokens that end an answer, the file's own first: all of its control tokens that llama.cpp stops at."""
    from rsd_integrations.llamacpp.model import Model

    stops = Model.load(source.path, vocabulary_only=True).ends
    control = [id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special]
    own = source.settings.get(f"{TOKENIZER}eos_token_id")
    return sorted((id_ for id_ in {*control, own} - {None} if stops(id_)), key=lambda id_: (id_ != own, id_))


def _parts(path: Path) -> list[Path]:
    """A file, or all that a model was split into."""
    split = _SHARD.search(path.name)
    if split is None:
        return [path]
    stem, count = path.name[: split.start()], int(split[2])
    parts = [path.with_name(f"{stem}-{at:05}-of-{count:05}.gguf") for at in range(1, count + 1)]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise ConfigurationError(f"{path}: of its {count} files {len(missing)} are missing, {missing[0]} first")
    return parts


def _save(file: Path, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, read: Callable[[str], Tensor]) -> None:
    """Write tensors one after another, where `safetensors` wants all of them in memory."""
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
