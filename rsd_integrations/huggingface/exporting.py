"""Exports reward models in a layout that vLLM serves natively, whatever class they were published with."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from rsd_core import ConfigurationError
from rsd_integrations.huggingface import loading
from rsd_integrations.huggingface.reward_models import Weights
from rsd_integrations.prm_formats import CONFIG_KEY, Head, check_format, find_format, fits

COPIED_FILES = ("*.json", "*.jinja", "*.txt", "*.model")
CLASSES = {1: "Qwen2ForRewardModel", 2: "Qwen2ForProcessRewardModel"}
"""vLLM's classes by the number of outputs of their head: a linear layer as wide as the model, ReLU, and another one."""


def export(model: str, out: Path, *, format: str | None = None) -> Path:
    """Write a reward model in the layout of Qwen2.5-Math-RM or -PRM, with exactly the same scores.

    A head of one linear layer becomes one of two: x = relu(x) - relu(-x), so w·h + b takes two rows of the first layer,
    which the second combines. The body's weights are hard-linked if the file system allows it.

    Args:
        model: Hub id or folder of a Qwen2 reward model with a linear head, such as Skywork's and TRL's.
        out: Folder of the new checkpoint; must not hold one already.
        format: Its format, if its weights and its name do not show it.

    Raises:
        ConfigurationError: The model is not a Qwen2, or its head has another shape.
    """
    if (out / "config.json").exists():
        raise ConfigurationError(f"{out} already contains a checkpoint; choose another folder")
    check_format(format)
    folder = loading.find(model)
    raw, weights = loading.read_config(folder), Weights(folder, model, pickles=False)
    form = find_format(raw, weights.shapes, model, format)
    head = next((head for head in form.heads if isinstance(head, Head) and fits(head, weights.shapes)), None)
    if raw.get("model_type") not in ("qwen2", "qwen2_rm") or head is None or head.ensemble or head.file:
        raise ConfigurationError(
            f"{model} ({raw.get('model_type')}, format {form.name}) cannot be exported to a layout that vLLM serves: "
            "that needs a Qwen2 body and a reward head of linear layers in its weights. Use it in process, as prm:…"
        )
    owned = {f"{layer}.{part}" for layer in head.layers for part in ("weight", "bias")}
    out.mkdir(parents=True, exist_ok=True)
    for pattern in COPIED_FILES:
        for file in folder.glob(pattern):
            if not file.name.endswith(".index.json"):
                shutil.copy(file, out)
    index: dict[str, str] = {}
    for file in loading.shards(folder, model):
        names = _without(file, owned, out)
        index |= dict.fromkeys(names, file.name)
    head_tensors = _head(head, weights)
    save_file(head_tensors, out / "reward-head.safetensors", metadata={"format": "pt"})
    index |= dict.fromkeys(head_tensors, "reward-head.safetensors")
    (out / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}, indent=1))
    changes = {"architectures": [CLASSES[head.outputs]], "model_type": "qwen2", CONFIG_KEY: form.name}
    config = {key: value for key, value in raw.items() if key != "auto_map"} | changes
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return out


def _without(file: Path, owned: set[str], out: Path) -> list[str]:
    """Put a shard into the folder without some of its tensors; returns the names of the others."""
    with safe_open(file, framework="pt") as opened:
        names = sorted(opened.keys())
        others = [name for name in names if name not in owned]
        if others != names:
            save_file({name: opened.get_tensor(name) for name in others}, out / file.name, metadata={"format": "pt"})
            return others
    try:
        os.link(file.resolve(), out / file.name)
    except OSError:
        shutil.copy(file, out)
    return others


def _head(head: Head, weights: Weights) -> dict[str, Tensor]:
    """The head as two layers, in fp32."""
    layers = [(weights.rows(f"{name}.weight"), _bias(weights, name)) for name in head.layers]
    if len(layers) == 1:
        ((weight, bias),) = layers
        width, rows = weight.shape[1], 2 * head.outputs
        first, second = torch.zeros(width, width), torch.zeros(head.outputs, width)
        offsets = torch.zeros(width)
        first[0:rows:2], first[1:rows:2] = weight, -weight
        offsets[0:rows:2], offsets[1:rows:2] = bias, -bias
        for output in range(head.outputs):
            second[output, 2 * output], second[output, 2 * output + 1] = 1.0, -1.0
        layers = [(first, offsets), (second, torch.zeros(head.outputs))]
    named = zip(("score.0", "score.2"), layers, strict=True)
    return {
        f"{name}.{part}": tensor for name, both in named for part, tensor in zip(("weight", "bias"), both, strict=True)
    }


def _bias(weights: Weights, layer: str) -> Tensor:
    name = f"{layer}.bias"
    return weights.rows(name) if name in weights.shapes else torch.zeros(weights.shapes[f"{layer}.weight"][0])
