"""Memory: what a device has, what models will take of it, and what to change where they do not fit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open

from rsd_core import ConfigurationError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from rsd_integrations.huggingface.bare_model import BareConfig

CACHE_SHARE = 8
"""A model's keys and values may take one part in so many of the device's memory."""
COPY_SHARE = 4
"""Weights that take less than one part in so many of a CPU's free memory are held a second time, in a faster layout."""


def memory(device: torch.device) -> float:
    """Bytes of memory that a device has."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def available(device: torch.device) -> float:
    """Bytes of memory that are free, or that the system would free, on a device."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    known = Path("/proc/meminfo")
    if known.exists():
        fields = dict(line.split(":") for line in known.read_text().splitlines())
        return 1024 * float(fields["MemAvailable"].split()[0])
    return memory(device)


def context_of(config: PreTrainedConfig | BareConfig) -> int:
    """Longest sequence that a model reads, in tokens.

    Rotary embeddings that change with the length of the longest sequence in a batch are held to the length up to
    which they do not, so that no sequence depends on its neighbours.

    Raises:
        ConfigurationError: The configuration does not say.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    original = rope.get("original_max_position_embeddings")
    longest: int | None = getattr(config, "max_position_embeddings", None)
    if longest is None:
        raise ConfigurationError(f"{type(config).__name__} names no max_position_embeddings, the longest sequence")
    return min(longest, original) if original and rope.get("rope_type") in ("dynamic", "longrope") else longest


@dataclass(frozen=True, slots=True)
class Need:
    """What one model will take, told by its files before any weight is read."""

    name: str
    weights: float
    """Bytes."""
    token: float
    """Bytes of one token's keys and values."""
    context: int

    @property
    def sequence(self) -> float:
        """Bytes of the keys and values of one sequence as long as the context, without which it does not run."""
        return self.token * self.context


def copied(weights: float, room: float, device: torch.device) -> bool:
    """Whether weights are held a second time.

    Args:
        weights: Their bytes.
        room: Bytes that are free beside them and a sequence as long as the context.
        device: Where they are; a GPU has no use for it.
    """
    return device.type == "cpu" and COPY_SHARE * weights < room


def held(needs: Sequence[Need], device: torch.device) -> list[float]:
    """Most bytes of the weights of each model, loaded in this order: with second copies, as if all were run lean."""
    room, found = available(device), []
    for one in needs:
        room -= one.weights + one.sequence
        copy = one.weights if copied(one.weights, room, device) else 0.0
        room -= copy
        found.append(one.weights + copy)
    return found


def count(files: Sequence[Path]) -> int:
    """Weights in safetensors files, by their headers."""
    weights = 0
    for file in files:
        with safe_open(file, framework="pt") as opened:
            weights += sum(prod(opened.get_slice(key).get_shape()) for key in opened.keys())  # noqa: SIM118
    return weights


def need(name: str, files: Sequence[Path], raw: dict[str, Any], dtype: torch.dtype) -> Need:
    """What a checkpoint will take in a dtype, by its weights' headers and its config.json.

    Keys and values are those of plain grouped attention.
    """
    from transformers import PreTrainedConfig

    weights, config = count(files), PreTrainedConfig(**raw)
    heads: int = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    token = 2 * config.num_hidden_layers * heads * width * dtype.itemsize
    return Need(name, weights * dtype.itemsize, token, context_of(config))


def check(needs: Sequence[Need], device: torch.device) -> float:
    """Say whether models fit before they are loaded.

    Returns:
        The bytes that are free.

    Raises:
        ConfigurationError: They do not; the message says what each takes, and what can be changed.
    """
    weights, room = held(needs, device), available(device)
    wanted = sum(weights) + sum(one.sequence for one in needs)
    if wanted <= room:
        return room
    parts = "; ".join(
        f"{one.name}: weights {_gb(size)}, a sequence of {one.context} tokens {_gb(one.sequence)}"
        for one, size in zip(needs, weights, strict=True)
    )
    raise ConfigurationError(
        f"{_gb(wanted)} are needed on {device}, {_gb(room)} are free ({parts}). Load in bfloat16 (half of float32), "
        "take smaller models, put one on another device (device=), or serve one and use it as openai:MODEL@URL"
    )


def _gb(count: float) -> str:
    return f"{count / 2**30:,.2f} GiB"
