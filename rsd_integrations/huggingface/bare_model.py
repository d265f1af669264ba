"""Qwen2 language models loaded from their files without the transformers library.

Importing transformers' models takes several times as long as loading and running a small model. The classes here have
the attribute names of transformers' modules but no forward pass: the fused decoder takes over the weights, layer by
layer.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import torch
from safetensors import safe_open
from torch import Tensor, nn

from rsd_core import ConfigurationError
from rsd_integrations.huggingface import dtypes
from rsd_integrations.huggingface.attention import Survey
from rsd_integrations.huggingface.digits import REFUSED, Int8Linear
from rsd_integrations.huggingface.from_pretrained import load_causal_lm
from rsd_integrations.huggingface.kv_store import LayerShape

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_loading = threading.Lock()
_loaded: WeakValueDictionary[tuple[Path, torch.dtype, torch.device], BareModel] = WeakValueDictionary()


@dataclass(frozen=True)
class BareConfig:
    """The sizes of a model, named as in config.json."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_parameters: Mapping[str, Any]
    tie_word_embeddings: bool
    eos_token_id: int

    @classmethod
    def read(cls, folder: Path) -> BareConfig:
        """The configuration of a checkpoint.

        Raises:
            ConfigurationError: It is not a Qwen2 model with plain attention and default rotary embeddings.
        """
        raw = json.loads((folder / "config.json").read_text())
        wanted = {"model_type": "qwen2", "hidden_act": "silu", "use_sliding_window": False}
        plain = all(raw.get(key) == value for key, value in wanted.items()) and "quantization_config" not in raw
        if not plain or (raw.get("rope_parameters") or {}).get("rope_type") != "default":
            raise ConfigurationError(f"{folder} does not hold a plain Qwen2 model: load it as hf:{folder}")
        return cls(**{name: raw[name] for name in cls.__dataclass_fields__})

    @property
    def head_dim(self) -> int:
        """Width of an attention head."""
        return self.hidden_size // self.num_attention_heads


@dataclass(slots=True)
class Weights:
    """Weight and bias of a linear layer."""

    weight: Tensor
    bias: Tensor | None = None


@dataclass(slots=True)
class Norm:
    """Weight and epsilon of an RMS normalisation."""

    weight: Tensor
    variance_epsilon: float


class Part:
    """Attention or MLP of a layer. Its projections are read on access, so that few are in memory twice."""

    def __init__(self, index: int, head_dim: int, read: Callable[[str], Weights | Int8Linear]) -> None:
        self.layer_idx, self.head_dim, self._read = index, head_dim, read

    def __getattr__(self, name: str) -> Weights | Int8Linear:
        if not name.endswith("_proj"):
            raise AttributeError(name)
        return self._read(name)


@dataclass(slots=True)
class Layer:
    """A decoder layer."""

    self_attn: Part
    mlp: Part
    input_layernorm: Norm
    post_attention_layernorm: Norm


class BareModel:
    """A Qwen2 language model, whose layers are read on access."""

    generation_config = None
    """None, since `config` says how an answer ends."""

    def __init__(self, folder: Path, dtype: torch.dtype, device: torch.device) -> None:
        """Read everything but the layers of a checkpoint.

        Raises:
            ConfigurationError: It is not a plain Qwen2 model.
        """
        self.folder, self.device, self.int8 = folder, device, dtype == torch.int8
        """The folder of its files; its device; whether its layers are in int8."""
        self.dtype = dtypes.computed_in(dtype)
        self.config = BareConfig.read(folder)
        with self._opened() as file:
            self._shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            embeddings = self._tensor(file, "model.embed_tokens.weight")
            head = embeddings if self.config.tie_word_embeddings else self._tensor(file, "lm_head.weight")
            self.norm = self._norm(file, "model.norm")
        self.embed_tokens: nn.Embedding = nn.Embedding.from_pretrained(embeddings)  # type: ignore[no-untyped-call]
        self._head = Weights(head)
        self._making = threading.Lock()
        self._transformers: PreTrainedModel | None = None

    @property
    def base_model(self) -> BareModel:
        """Itself: it has no separate body class without the output head."""
        return self

    @property
    def layers(self) -> Iterator[Layer]:
        """Its layers, one at a time, so that only the fused weights stay in memory."""
        with self._opened() as file:
            for index in range(self.config.num_hidden_layers):
                yield self._layer(file, f"model.layers.{index}", index)

    @property
    def flops_per_token(self) -> float:
        """Two FLOPs per multiplied weight: all except input embeddings, which are only looked up."""
        looked_up = 0 if self.config.tie_word_embeddings else self.embed_tokens.weight.numel()
        return 2.0 * (self.num_parameters() - looked_up)

    def num_parameters(self) -> int:
        """Number of weights; tied ones count once."""
        return sum(map(prod, self._shapes.values()))

    def get_input_embeddings(self) -> nn.Embedding:
        """The token embeddings."""
        return self.embed_tokens

    def get_output_embeddings(self) -> Weights:
        """The output head."""
        return self._head

    def rotary_emb(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines [1, positions, width] for positions [1, positions], computed in fp32, in the dtype of x."""
        width = self.config.head_dim
        halves = torch.arange(0, width, 2, dtype=torch.float) / width
        frequencies = 1.0 / self.config.rope_parameters["rope_theta"] ** halves
        angles = positions[..., None].float() * frequencies.to(x.device)
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)

    def survey(self) -> Survey:
        """The attention options of its layers."""
        survey, config = Survey(), self.config
        for layer in range(config.num_hidden_layers):
            survey.shapes[layer] = LayerShape(config.num_key_value_heads, config.head_dim, config.head_dim)
            survey.scalings[layer], survey.windows[layer] = config.head_dim**-0.5, None
        return survey

    @property
    def transformers(self) -> PreTrainedModel:
        """The same model loaded by transformers, with separate weights, for functions that only transformers has.

        Raises:
            ConfigurationError: It is in int8, which only the engine can run.
        """
        if self.int8:
            raise ConfigurationError(REFUSED)
        with self._making:  # all threads get the same one
            if self._transformers is None:
                self._transformers = load_causal_lm(self.folder, self.dtype, self.device)
                # Hooks that count tokens on the embeddings then see both models.
                self._transformers.set_input_embeddings(self.embed_tokens)
            return self._transformers

    def _opened(self) -> Any:
        return safe_open(self.folder / "model.safetensors", framework="pt")

    def _tensor(self, file: Any, name: str) -> Tensor:
        tensor: Tensor = file.get_tensor(name)
        return tensor.to(self.device, self.dtype)

    def _weights(self, file: Any, part: str, name: str) -> Weights | Int8Linear:
        bias = f"{part}.{name}.bias"
        weight = self._tensor(file, f"{part}.{name}.weight")
        read = Weights(weight, self._tensor(file, bias) if bias in self._shapes else None)
        return Int8Linear(read) if self.int8 else read

    def _part(self, file: Any, name: str, index: int) -> Part:
        return Part(index, self.config.head_dim, partial(self._weights, file, name))

    def _norm(self, file: Any, name: str) -> Norm:
        return Norm(self._tensor(file, f"{name}.weight"), self.config.rms_norm_eps)

    def _layer(self, file: Any, name: str, index: int) -> Layer:
        return Layer(
            self._part(file, f"{name}.self_attn", index),
            self._part(file, f"{name}.mlp", index),
            self._norm(file, f"{name}.input_layernorm"),
            self._norm(file, f"{name}.post_attention_layernorm"),
        )


def load(folder: Path, dtype: torch.dtype, device: torch.device) -> BareModel:
    """Load a model from its folder, or share one already loaded.

    Raises:
        ConfigurationError: It is not a plain Qwen2 model.
    """
    key = (folder.resolve(), dtype, device)
    with _loading:
        model = _loaded.get(key)
        if model is None:
            model = _loaded[key] = BareModel(folder, dtype, device)
        return model
