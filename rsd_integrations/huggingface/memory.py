"""The memory of a device, the memory models will need, and advice if they do not fit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from rsd_core import ConfigurationError
from rsd_integrations.huggingface.context import context_of
from rsd_integrations.huggingface.from_pretrained import native_config, other_attention
from rsd_integrations.inprocess.memory import ModelMemory, check_room, free_machine_memory, machine_memory

ADVICE = (
    "Load in bfloat16 (half of float32) or, on a CPU, int8 (a quarter), use smaller models, put one on another device "
    "(device=), or serve one and use it as openai:MODEL@URL"
)
"""Advice if models do not fit."""
_OF_LAYERS = re.compile(r"\b(?:layers|blocks|h)\.\d+\.")
"""Matches the names of layers' tensors in all model families of transformers."""
COPY_SHARE = 4
"""Weights that take less than this fraction (one part in 4) of a CPU's free memory get a copy in a faster layout."""


def total_memory(device: torch.device) -> float:
    """Bytes of memory of a device."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    return machine_memory()


def free_memory(device: torch.device) -> float:
    """Bytes of memory on a device that are free or that the system would free."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return free_machine_memory()


def has_weight_copy(weights: float, room: float, device: torch.device) -> bool:
    """Whether weights get a copy in a faster layout.

    Args:
        weights: Their size in bytes.
        room: Bytes left free by them and by one sequence as long as the context.
        device: Their device; GPUs do not need a copy.
    """
    return device.type == "cpu" and COPY_SHARE * weights < room


def weight_bytes(models: Sequence[ModelMemory], device: torch.device) -> list[float]:
    """Maximum bytes that the weights of each model take, loaded in this order.

    Copies count as if all models ran fused.
    """
    room, sizes = free_memory(device), []
    for one in models:
        weights = one.weights + (one.wide_head if device.type == "cpu" else 0.0)
        room -= weights + one.sequence
        copy = one.copy if has_weight_copy(one.weights, room, device) else 0.0
        room -= copy
        sizes.append(weights + copy)
    return sizes


def count_weights(files: Sequence[Path]) -> int:
    """Number of weights in safetensors files, by their headers."""
    return sum(prod(shape) for _, shape in _shapes(files))


def model_memory(
    name: str,
    files: Sequence[Path],
    raw: dict[str, Any],
    dtype: torch.dtype,
    rest: torch.dtype | None = None,
    *,
    head: bool = True,
    deferring: bool = False,
) -> ModelMemory:
    """The memory a checkpoint will need in a dtype, by its weights' headers and its config.json.

    Assumes plain grouped-query attention for keys and values, or DeepSeek's.

    Args:
        name: Display name.
        files: Its safetensors files.
        raw: Its config.json.
        dtype: Dtype of its layers' weights.
        rest: Dtype of everything else: embeddings, output head, keys and values; by default the same.
        head: Whether its output head is used.
        deferring: Whether a hidden state of each token is kept too, as for early exit.

    Raises:
        ConfigurationError: It is not a text model with attention.
    """
    rest, config = rest or dtype, config_of(raw, name)
    heads: int = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    both = 2 * width
    if (nope := getattr(config, "qk_nope_head_dim", None)) is not None:  # DeepSeek's
        both = nope + config.qk_rope_head_dim + config.v_head_dim
    token = config.num_hidden_layers * heads * both * rest.itemsize
    if deferring:
        token += torch.float32.itemsize * config.hidden_size
    shapes = list(_shapes(files))
    total = sum(prod(shape) for _, shape in shapes)
    of_layers = [shape for tensor, shape in shapes if len(shape) == 2 and _OF_LAYERS.search(tensor)]
    layers = sum(map(prod, of_layers))
    size, copy = float(total * rest.itemsize), float(total * rest.itemsize)
    if dtype == torch.int8:  # 8 bits per weight, and a 32-bit scale per matrix row
        rows = sum(rows for rows, _ in of_layers)
        size, copy = float((total - layers) * rest.itemsize + layers + 4 * rows), 0.0
    wide = 0.0
    if head and rest != torch.float32:
        wide, copy = 2.0 * config.vocab_size * config.hidden_size, min(copy, layers * rest.itemsize)
    return ModelMemory(name, size, token, context_of(config), copy=copy, wide_head=wide)


def config_of(raw: dict[str, Any], name: str) -> Any:
    """A config.json as its own class reads it: names in the file differ by class, and by the version that wrote it.

    Raises:
        ConfigurationError: It is not that of a text model whose attention can run in process.
    """
    config: Any = native_config(raw, name)
    if not hasattr(config, "num_attention_heads"):
        raise ConfigurationError(
            f"{name}: models of the type {config.model_type!r} do not run in process, only text models with attention "
            "do, and no multimodal ones. Serve it, and use it as openai:MODEL@URL"
        )
    if other := other_attention(config):
        raise ConfigurationError(
            f"{name}: models of the type {config.model_type!r} do not run in process: {other}. Serve it, and use it as "
            "openai:MODEL@URL"
        )
    return config


def _shapes(files: Sequence[Path]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the tensors of safetensors files, by their headers."""
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                shapes = [(key, tuple(opened.get_slice(key).get_shape())) for key in opened.keys()]  # noqa: SIM118
        except SafetensorError as error:
            raise ConfigurationError(f"{file} cannot be read ({error}); is the download complete?") from error
        yield from shapes


def check_fit(models: Sequence[ModelMemory], device: torch.device) -> float:
    """Check that models fit before they are loaded.

    Returns:
        The number of free bytes.

    Raises:
        ConfigurationError: They do not fit; the message says what each needs and what can be changed.
    """
    room = free_memory(device)
    check_room(models, weight_bytes(models, device), room, str(device), ADVICE)
    return room
