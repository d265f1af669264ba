"""Process reward models from their checkpoints: a native body, and a reward head that we load ourselves."""

from __future__ import annotations

from pathlib import Path as FilePath

import torch
from torch import nn
from transformers import Qwen2Config, Qwen2Model

from rsd_core import ConfigurationError
from rsd_integrations.huggingface import loading
from rsd_integrations.huggingface.verifier import HuggingFaceVerifier
from rsd_integrations.prm_formats import PRMFormat, find_format


class _Body(Qwen2Model):  # type: ignore[no-untyped-call]
    """The native body; heads are none of its business."""

    _keys_to_ignore_on_load_unexpected = [r"^score\.", r"^v_head\.", r"^lm_head\."]  # noqa: RUF012 - as the base has it


def load_verifier(
    model: str, *, dtype: str | None = None, device: str | None = None, cache_bytes: float | None = None
) -> HuggingFaceVerifier:
    """Load a process reward model by the tensors in its weights, without remote code.

    Args:
        model: Hub id or folder.
        dtype: Of the body; by default fp32 on a CPU and bf16 elsewhere. The head is always fp32.
        device: As torch names it; by default a GPU where there is one.
        cache_bytes: For keys and values; by default an eighth of the device's memory.

    Raises:
        ConfigurationError: No such checkpoint, no safetensors in it, or no reward head that is known.
    """
    where = loading.choose_device(device)
    kind = loading.choose_dtype(dtype, where)
    folder = loading.find(model)
    names = loading.tensor_names(loading.shards(folder, model))
    raw = loading.read_config(folder)
    layout = find_format(raw, names, model)
    head = _load_head(names, layout, model).to(where)
    config = Qwen2Config(**{key: value for key, value in raw.items() if key not in ("auto_map", "model_type")})
    with loading.quiet():
        body = _Body.from_pretrained(folder, config=config, dtype=kind, use_safetensors=True)
    nn.Module.to(body, where)
    nn.Module.eval(body)
    for name, buffer in body.named_buffers():
        if not torch.isfinite(buffer).all():
            raise ConfigurationError(f"{model}: the buffer {name} is not finite after loading")
    return HuggingFaceVerifier(body, head, loading.load_tokenizer(folder), layout, model, cache_bytes)


def _load_head(names: dict[str, FilePath], format: PRMFormat, model: str) -> nn.Module:
    layers: list[nn.Module] = []
    for layer in format.head:
        if f"{layer}.weight" not in names or f"{layer}.bias" not in names:
            raise ConfigurationError(
                f"{model}: the reward head {layer!r} of the format {format.name} is missing from its weights; "
                "without it every score would be random. Is the download complete?"
            )
        weight, bias = (loading.read_tensor(names, f"{layer}.{part}") for part in ("weight", "bias"))
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        linear.load_state_dict({"weight": weight, "bias": bias})
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()
