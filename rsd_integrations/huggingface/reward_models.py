"""Loads reward models from checkpoints: a native body, a head found by its tensor names, and checks of both."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from rsd_core import ConfigurationError
from rsd_integrations.huggingface import digits, dtypes, early_exit, loading
from rsd_integrations.huggingface.early_exit import Exits
from rsd_integrations.huggingface.from_pretrained import load_tokenizer, loading_errors_of, native_config, quiet
from rsd_integrations.huggingface.heads import EnsembleLinear, RewardHead, linear
from rsd_integrations.huggingface.verifier import HuggingFaceVerifier
from rsd_integrations.prm_formats import (
    FormatName,
    Head,
    PRMFormat,
    Reader,
    bind,
    check_widths,
    find_format,
    find_head,
    separate_files,
    tensor_name,
)

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


class Weights:
    """The tensors of a checkpoint by name, read one at a time."""

    def __init__(self, folder: Path, model: str, pickles: bool) -> None:
        self.model, self.folder = model, folder
        self._files: dict[str, Path] = {}
        self._pickled: dict[str, Tensor] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        files = loading.shards(folder, model, pickles)
        for file in files:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - not a dictionary
                    self._files[name] = file
                    self.shapes[name] = tuple(opened.get_slice(name).get_shape())
        for file in [] if files else sorted(folder.glob("pytorch_model*.bin")):  # trainers leave other pickles
            # Restricted to tensors; memory mapping reads only those used.
            self._pickled |= torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        self.shapes |= {name: tuple(tensor.shape) for name, tensor in self._pickled.items()}

    def file_of(self, name: str) -> str | None:
        """Name of the safetensors file that holds a tensor; None for a pickled one."""
        return self._files[name].name if name in self._files else None

    def rows(self, name: str, rows: list[int] | None = None) -> Tensor:
        """A tensor, or some of its rows, in fp32.

        Raises:
            ConfigurationError: It is not finite.
        """
        if name in self._pickled:
            tensor = self._pickled[name] if rows is None else self._pickled[name][rows]
        else:
            with safe_open(self._files[name], framework="pt") as opened:
                if rows is None:
                    tensor = opened.get_tensor(name)
                else:
                    part = opened.get_slice(name)
                    tensor = torch.cat([part[row : row + 1] for row in rows])
        if not torch.isfinite(tensor).all():
            raise ConfigurationError(f"{self.model}: the tensor {name} is not finite; is the download complete?")
        return tensor.float()


def load_verifier(
    model: str,
    *,
    dtype: str | None = None,
    device: str | None = None,
    format: FormatName = None,
    separator: str | None = None,
    context: int | None = None,
    allow_pickles: bool = False,
    cache_bytes: float | None = None,
    exits: str | None = None,
) -> HuggingFaceVerifier:
    """Load a process or outcome reward model by the tensors in its weights, without remote code.

    Args:
        model: Hub id or folder.
        dtype: Dtype of the body, by default as for `load_generator`. The head is always in fp32.
        device: Device in torch's notation; by default a GPU if there is one.
        format: Name of its format, if its weights and its name do not show it; `rsd models` lists them.
        separator: The token at which it was trained to give scores, if models of its format differ in it.
        context: Maximum sequence length in tokens, in place of the checkpoint's `max_position_embeddings`.
        allow_pickles: Also read weights that are not safetensors. They can run code: only for sources you trust.
        cache_bytes: Memory for keys and values; by default an eighth of the device's memory.
        exits: Exit file written by `rsd distill-exits`: most steps then run only some of the layers.

    Raises:
        ConfigurationError: There is no such checkpoint, it has no safetensors, no known reward head, an incomplete
            body, or a tokenizer without the format's separator or words, or the exits belong to another model.
    """

    def read_exits(identity: str, config: PretrainedConfig) -> Exits:
        return early_exit.read_for(
            Path(str(exits)).expanduser(), model, identity, config.num_hidden_layers, config.hidden_size
        )

    return load_with_exits(
        model,
        None if exits is None else read_exits,
        dtype=dtype,
        device=device,
        format=format,
        separator=separator,
        context=context,
        allow_pickles=allow_pickles,
        cache_bytes=cache_bytes,
    )


def load_with_exits(
    model: str,
    make_exits: Callable[[str, PretrainedConfig], Exits] | None,
    *,
    dtype: str | None = None,
    device: str | None = None,
    format: FormatName = None,
    separator: str | None = None,
    context: int | None = None,
    allow_pickles: bool = False,
    cache_bytes: float | None = None,
) -> HuggingFaceVerifier:
    """Load a reward model with exits that are created after its configuration and before its weights are read.

    Args:
        model: See `load_verifier`, also for the other arguments and the errors.
        make_exits: Creates exits from the model's fingerprint and configuration; None for no exits.
        dtype: See there.
        device: See there.
        format: See there.
        separator: See there.
        context: See there.
        allow_pickles: See there.
        cache_bytes: See there.
    """
    where = loading.choose_device(device)
    kind = dtypes.named_dtype(dtype, where)
    folder = loading.find(model, allow_pickles)
    files = loading.shards(folder, model, allow_pickles)
    kind = kind or dtypes.default_dtype(where, files, model)
    raw = loading.read_config(folder)
    weights = Weights(folder, model, allow_pickles)
    form = find_format(raw, weights.shapes | separate_files(folder), model, format)
    dtypes.check_layers(kind, raw, model)
    tokenizer = load_tokenizer(folder)
    reader = bind(form, tokenizer, model, separator)
    config = native_config(raw | ({} if context is None else {"max_position_embeddings": context}), model)
    exits = None
    if make_exits is not None:
        layout = f"{form.name} {form.separator if separator is None else separator!r}"
        exits = make_exits(fingerprint(weights, layout), config).to(where)
    head = _head(form, reader, weights, folder, config, allow_pickles).to(where).eval()
    body = _body(folder, config, kind, where, weights, allow_pickles)
    return HuggingFaceVerifier(body, head, tokenizer, reader, model, cache_bytes, exits)


def fingerprint(weights: Weights, layout: str) -> str:
    """A hash that identifies a reward model: part of each of its tensors, and its format.

    Further training changes every trained tensor throughout, so one row of each is enough.
    """
    digest = hashlib.sha256(layout.encode())
    for name, shape in sorted(weights.shapes.items()):
        digest.update(f" {name} {shape} ".encode() + weights.rows(name, [0]).numpy().tobytes())
    return digest.hexdigest()[:32]


def _body(
    folder: Path, config: PretrainedConfig, dtype: torch.dtype, where: torch.device, weights: Weights, pickles: bool
) -> PreTrainedModel:
    """The native body, checked to be complete: missing or non-finite weights would make every score random."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    native: Any = MODEL_MAPPING[type(config)]
    # The body ignores the heads' tensors.
    body_class: Any = type(native.__name__, (native,), {"_keys_to_ignore_on_load_unexpected": [".*"]})
    with quiet(), loading_errors_of(f"{weights.model}: transformers cannot load its body"):
        body, loading_info = body_class.from_pretrained(
            folder,
            config=config,
            dtype=dtypes.computed_in(dtype),
            use_safetensors=None if pickles else True,
            output_loading_info=True,
        )
    model = weights.model
    if loading_info["missing_keys"] or loading_info.get("mismatched_keys"):
        lost = sorted(str(key) for key in (*loading_info["missing_keys"], *loading_info.get("mismatched_keys", ())))
        raise ConfigurationError(
            f"{model}: {len(lost)} tensors of the body are missing in its weights, {', '.join(lost[:3])} first. Is the "
            "download complete, and does config.json belong to it?"
        )
    nn.Module.to(body, where)
    nn.Module.eval(body)
    for name, buffer in body.named_buffers():
        # Frequencies of rotary embeddings are in (0, 1]; uninitialised memory is not.
        if not torch.isfinite(buffer).all() or ("inv_freq" in name and not ((buffer > 0) & (buffer <= 1)).all()):
            raise ConfigurationError(f"{model}: the buffer {name} holds invalid numbers after loading")
    others = {str(p.dtype) for p in body.parameters() if p.dtype != dtypes.computed_in(dtype)}
    if others:
        raise ConfigurationError(
            f"{model}: loaded with weights in {', '.join(sorted(others))} although {dtype} was requested"
        )
    if dtype == torch.int8:
        digits.quantise(body)
    loaded: PreTrainedModel = body
    return loaded


def _head(
    form: PRMFormat, reader: Reader[Any], weights: Weights, folder: Path, config: PretrainedConfig, pickles: bool
) -> RewardHead:
    """The reward head, from the weights alone."""
    words = reader.words()
    if words is not None:
        return _word_head(words, weights, config)
    head = find_head(form, weights.shapes | separate_files(folder), weights.model)
    if head.file is not None and not (folder / f"{head.file}.safetensors").exists():
        return _pickled_head(folder / f"{head.file}.pt", weights.model, pickles)
    check_widths(head, weights.shapes, config.hidden_size, weights.model)
    return _linear_head(head, weights)


def _linear_head(head: Head, weights: Weights) -> RewardHead:
    layers: list[nn.Module] = []
    for layer in head.layers:
        weight, name = weights.rows(tensor_name(layer, "weight")), tensor_name(layer, "bias")
        bias = weights.rows(name) if name in weights.shapes else None
        if head.ensemble:
            layers.append(EnsembleLinear(weight, torch.zeros_like(weight[:, 0]) if bias is None else bias))
        else:
            layers.append(linear(weight, bias))
        layers.append(nn.ReLU())
    return RewardHead(nn.Sequential(*layers[:-1]))


def _word_head(words: tuple[int, int], weights: Weights, config: PretrainedConfig) -> RewardHead:
    """The language model's output head at two words, as a head with the logits of wrong and correct."""
    tied = "model.embed_tokens.weight"
    name = "lm_head.weight" if "lm_head.weight" in weights.shapes else tied
    if name not in weights.shapes or (name == tied and not getattr(config, "tie_word_embeddings", False)):
        raise ConfigurationError(
            f"{weights.model}: its weights hold no output head (lm_head.weight), whose logits judge a step, and its "
            "config.json does not tie one to the embeddings. Is the download complete?"
        )
    if getattr(config, "final_logit_softcapping", None):
        raise ConfigurationError(
            f"{weights.model}: models of the type {config.model_type!r} cap their logits, from which no "
            "reward can be read here; use it as judge,mode=yes_no:hf:…"
        )
    right, wrong = words
    # Granite and Cohere scale their logits.
    scale = float(getattr(config, "logit_scale", 1.0)) / float(getattr(config, "logits_scaling", 1.0))
    return RewardHead(linear(weights.rows(name, [wrong, right]) * scale, None))


def _pickled_head(file: Path, model: str, pickles: bool) -> RewardHead:
    if not pickles:
        raise ConfigurationError(
            f"{model}: its reward head is the pickle {file.name}, and pickles can run code when they are read. Load "
            "the model with allow_pickles=True if you trust it."
        )
    state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    if "weight" not in state or not all(torch.isfinite(tensor).all() for tensor in state.values()):
        raise ConfigurationError(f"{model}: {file.name} holds no finite linear layer, only {', '.join(state)}")
    return RewardHead(linear(state["weight"].float(), state["bias"].float() if "bias" in state else None))
