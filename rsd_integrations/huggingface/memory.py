"""Memory: what a device has, what models will take of it, and what to change where they do not fit."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from rsd_integrations.huggingface.context import context_of
from rsd_integrations.inprocess.memory import ModelMemory, check_room, free_machine_memory, machine_memory

ADVICE = (
    "Load in bfloat16 (half of float32), take smaller models, put one on another device (device=), or serve one and "
    "use it as openai:MODEL@URL"
)
"""What to change where models do not fit."""
COPY_SHARE = 4
"""Weights that take less than one part in so many of a CPU's free memory are held a second time, in a faster layout."""


def total_memory(device: torch.device) -> float:
    """Bytes of memory that a device has."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    return machine_memory()


def free_memory(device: torch.device) -> float:
    """Bytes of memory that are free, or that the system would free, on a device."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return free_machine_memory()


def has_weight_copy(weights: float, room: float, device: torch.device) -> bool:
    """Whether weights are held a second time.

    Args:
        weights: Their bytes.
        room: Bytes that are free beside them and a sequence as long as the context.
        device: Where they are; a GPU has no use for it.
    """
    return device.type == "cpu" and COPY_SHARE * weights < room


def weight_bytes(models: Sequence[ModelMemory], device: torch.device) -> list[float]:
    """Most bytes that the weights of each model take, loaded in this order.

    Second copies count as if all models ran fused.
    """
    room, sizes = free_memory(device), []
    for one in models:
        room -= one.weights + one.sequence
        copy = one.weights if has_weight_copy(one.weights, room, device) else 0.0
        room -= copy
        sizes.append(one.weights + copy)
    return sizes


def count_weights(files: Sequence[Path]) -> int:
    """Weights in safetensors files, by their headers."""
    weights = 0
    for file in files:
        with safe_open(file, framework="pt") as opened:
            weights += sum(prod(opened.get_slice(key).get_shape()) for key in opened.keys())  # noqa: SIM118
    return weights


def model_memory(name: str, files: Sequence[Path], raw: dict[str, Any], dtype: torch.dtype) -> ModelMemory:
    """What a checkpoint will take in a dtype, by its weights' headers and its config.json.

    Keys and values are those of plain grouped attention.
    """
    from transformers import PreTrainedConfig

    weights, config = count_weights(files), PreTrainedConfig(**raw)
    heads: int = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    token = 2 * config.num_hidden_layers * heads * width * dtype.itemsize
    return ModelMemory(name, weights * dtype.itemsize, token, context_of(config))


def check_fit(models: Sequence[ModelMemory], device: torch.device) -> float:
    """Say whether models fit before they are loaded.

    Returns:
        The bytes that are free.

    Raises:
        ConfigurationError: They do not; the message says what each takes, and what can be changed.
    """
    room = free_memory(device)
    check_room(models, weight_bytes(models, device), room, str(device), ADVICE)
    return room
