"""Memory: what a device has, what models will take of it, and what to change where they do not fit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedConfig

from rsd_core import ConfigurationError

CACHE_SHARE = 8
"""A model's keys and values may take one part in so many of the device's memory."""
COPY_SHARE = 16
"""Weights that take less than one part in so many of a CPU's memory are held a second time, in a faster layout."""


def memory(device: torch.device) -> float:
    """Bytes of memory that a device has."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def copies(device: torch.device) -> float:
    """Most bytes of a model's weights of which a second copy is held."""
    return memory(device) / COPY_SHARE if device.type == "cpu" else 0.0


def available(device: torch.device) -> float:
    """Bytes of memory that are free, or that the system would free, on a device."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    known = Path("/proc/meminfo")
    if known.exists():
        fields = dict(line.split(":") for line in known.read_text().splitlines())
        return 1024 * float(fields["MemAvailable"].split()[0])
    return memory(device)


def context_of(config: PreTrainedConfig) -> int:
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

    def held(self, device: torch.device) -> float:
        """Most bytes of the weights, with the second copy that a CPU holds of small ones where it runs them lean."""
        return self.weights * (2 if self.weights < copies(device) else 1)

    def least(self, device: torch.device) -> float:
        """Bytes without which it does not run: weights, and one sequence as long as the context."""
        return self.held(device) + self.token * self.context


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
    wanted, room = sum(one.least(device) for one in needs), available(device)
    if wanted <= room:
        return room
    parts = "; ".join(
        f"{one.name}: weights {_gb(one.held(device))}, "
        f"a sequence of {one.context} tokens {_gb(one.token * one.context)}"
        for one in needs
    )
    raise ConfigurationError(
        f"{_gb(wanted)} are needed on {device}, {_gb(room)} are free ({parts}). Load in bfloat16 (half of float32), "
        "take smaller models, put one on another device (device=), or serve one and use it as openai:MODEL@URL"
    )


def _gb(count: float) -> str:
    return f"{count / 2**30:,.2f} GiB"
