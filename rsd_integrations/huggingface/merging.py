"""Merges two models with the same base into one that plays both roles (paper, Table 4)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from rsd_core import ConfigurationError, MissingDependency
from rsd_integrations.huggingface import loading
from rsd_integrations.huggingface.shared import HEAD

Method = Literal["linear", "ties"]
COPIED_FILES = ("*.json", "*.jinja", "*.txt", "*.model")
"""Files copied from the language model to the merged checkpoint."""


def merge(
    writer: str,
    rewarder: str,
    out: Path,
    *,
    method: Method = "linear",
    weight: float = 0.5,
    base: str | None = None,
    density: float = 0.5,
) -> Path:
    """Merge a language model and a reward model with the same base into one checkpoint.

    Args:
        writer: The language model, hub id or folder; its output head and tokenizer are kept.
        rewarder: The reward model, with its `step_head.safetensors`, which is kept.
        out: Folder of the merged checkpoint; must not hold one already.
        method: `linear` averages the weights; `ties` adds each model's changes to the base, trimmed to the largest and
            merged where the two agree in sign (Yadav et al., arXiv 2306.01708).
        weight: Weight of the reward model, in [0, 1]; the language model has the rest. For `ties`, of its changes.
        base: The model from which both were trained; required for `ties`.
        density: Share of each model's changes that `ties` keeps, in (0, 1].

    Raises:
        ConfigurationError: The models have different shapes, or an argument is out of range.
    """
    if not 0 <= weight <= 1 or not 0 < density <= 1:
        raise ConfigurationError(f"weight must be in [0, 1] and density in (0, 1] (got {weight} and {density})")
    if method == "ties" and base is None:
        raise ConfigurationError("ties merges the models' changes to their base; name it: --base MODEL")
    if (out / "config.json").exists():
        raise ConfigurationError(f"{out} already contains a checkpoint; choose another folder")
    folder = loading.find(rewarder)
    if not (folder / HEAD).exists():
        raise ConfigurationError(f"{rewarder} holds no {HEAD}, the reward head that reads a step's last token")
    mine, other, first = _weights(writer), _weights(rewarder), None if base is None else _weights(base)
    _check(mine, other, writer, rewarder)
    if first is not None:
        _check(mine, first, writer, str(base))
    merged = {
        name: _merged(tensor, other[name], None if first is None else first[name], method, weight, density)
        if name in other
        else tensor
        for name, tensor in mine.items()
    }
    out.mkdir(parents=True, exist_ok=True)
    for pattern in COPIED_FILES:
        for file in loading.find(writer).glob(pattern):
            if not file.name.endswith(".index.json"):
                shutil.copy(file, out)
    save_file(merged, out / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(folder / HEAD, out)
    return out


def _merged(mine: Tensor, other: Tensor, base: Tensor | None, method: Method, weight: float, density: float) -> Tensor:
    if method == "linear":
        return torch.lerp(mine.float(), other.float(), weight).to(mine.dtype)
    try:
        from peft.utils.merge_utils import ties
    except ModuleNotFoundError as missing:
        raise MissingDependency(missing.name or "peft", "merge", "ties merging") from None
    assert base is not None
    changes = [mine.float() - base.float(), other.float() - base.float()]
    # Twice the shares, so that where the two agree the result is their mean, as in a plain average.
    change: Tensor = ties(changes, torch.tensor([2 * (1 - weight), 2 * weight]), density)
    return (base.float() + change).to(mine.dtype)


def _weights(model: str) -> dict[str, Tensor]:
    """All tensors of a checkpoint's language model."""
    files = [file for file in loading.shards(loading.find(model), model) if file.name != HEAD]
    return dict(_tensors(files))


def _tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a dictionary
                yield name, opened.get_tensor(name)


def _check(mine: Mapping[str, Tensor], other: Mapping[str, Tensor], writer: str, name: str) -> None:
    missing = sorted(set(mine) - set(other) - {"lm_head.weight"})
    if missing:
        raise ConfigurationError(
            f"{name} and {writer} are different models: it lacks {len(missing)} tensors, such as {missing[0]}"
        )
    for key, tensor in mine.items():
        if key in other and tensor.shape != other[key].shape:
            shapes = f"{tuple(tensor.shape)} and {tuple(other[key].shape)}"
            raise ConfigurationError(f"{writer} and {name} have different shapes: {key} is {shapes}")
