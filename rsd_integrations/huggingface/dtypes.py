"""The dtype that models run in: as requested, or chosen by the processor's abilities and the model's size."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from rsd_core import ConfigurationError
from rsd_integrations.huggingface import digits, from_pretrained, memory
from rsd_integrations.huggingface.linear import has_blocks

logger = logging.getLogger(__name__)
LARGE = 50_000_000
"""Number of weights from which a CPU may run a model in bf16. A large model's time per token is that of reading its
weights, and bf16 has half the bytes; a small one's are in cache, and preparing a call in bf16 takes longer."""


def named_dtype(dtype: str | None, device: torch.device) -> torch.dtype | None:
    """The dtype of this name, for models on a device; None for None, which leaves the choice to `default_dtype`.

    Raises:
        ConfigurationError: It is not float32, bfloat16, float16 or int8, or it is int8 on something other than a CPU.
    """
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int8": torch.int8}
    if dtype is not None and dtype not in known:
        raise ConfigurationError(f"dtype {dtype!r} is unknown; choose one of {', '.join(known)}")
    if dtype == "int8":
        if device.type != "cpu":
            raise ConfigurationError(
                f"dtype int8 runs only on a CPU, not on {device}; give device=cpu, or dtype=bfloat16 for {device}"
            )
        digits.largest_weight()
    return None if dtype is None else known[dtype]


def check_layers(dtype: torch.dtype, raw: dict[str, Any], model: str) -> None:
    """Refuse a dtype that a model's layers do not support, by its config.json; errors as for `digits.check_layers`."""
    if dtype == torch.int8:
        digits.check_layers(from_pretrained.without_weights(raw, model), model)


def default_dtype(device: torch.device, files: Sequence[Path], name: str) -> torch.dtype:
    """The default dtype of a model, by its size and the device's abilities; logged.

    Args:
        device: Where it will run.
        files: Its safetensors files, which show its size; without any it counts as small.
        name: Display name.
    """
    dtype, reason = decide_dtype(device, memory.count_weights(files))
    logger.info("%s runs in %s on %s: %s; set dtype= to change this", name, dtype_name(dtype), device, reason)
    return dtype


def decide_dtype(device: torch.device, weights: int) -> tuple[torch.dtype, str]:
    """The default dtype of a model with this many weights, and the reason.

    bf16, or on a CPU fp32 if the model is small or the processor has no bf16 instructions. Nothing is timed, so that
    the same command gives the same answers on the same machine, however busy it is.
    """
    if device.type != "cpu":
        return torch.bfloat16, f"{device.type} multiplies bfloat16"
    if weights < LARGE:
        return torch.float32, f"below {LARGE // 10**6} million weights fewer bits save no time"
    if not multiplies_bf16():
        return torch.float32, "this processor has no instructions for bfloat16"
    return torch.bfloat16, "this processor multiplies bfloat16, whose weights are read in half the time"


@cache
def multiplies_bf16() -> bool:
    """Whether this CPU has instructions that multiply bf16, and this build of torch uses them."""
    abilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.9 lacks it
    named = abilities.get("amx_bf16") or abilities.get("avx512_bf16") or abilities.get("bf16")
    return bool(named) and has_blocks(torch.bfloat16)


def computed_in(dtype: torch.dtype) -> torch.dtype:
    """The dtype of embeddings, keys and values, and the output head of a model with weights in this dtype."""
    if dtype != torch.int8:
        return dtype
    return torch.bfloat16 if multiplies_bf16() else torch.float32


def dtype_name(dtype: torch.dtype) -> str:
    """The name by which users give a dtype."""
    return str(dtype).removeprefix("torch.")
