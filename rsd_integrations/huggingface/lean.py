"""The forward pass of plain decoders over their own weights, without the cost of calling module by module.

A small model's forward pass is mostly Python: on a CPU, three quarters of a token's time. The families below share one
layer, which is written out here. Where anything about a model is other than expected it runs through its own modules,
and a runner compares both ways before it uses this one.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import silu
from transformers import LlamaModel, MistralModel, PreTrainedModel, Qwen2Model, Qwen3Model
from transformers.activations import SiLUActivation

from rsd_integrations.huggingface.attention import Batch, Survey
from rsd_integrations.huggingface.linear import Linear
from rsd_integrations.huggingface.planner import copies

FAMILIES = (LlamaModel, MistralModel, Qwen2Model, Qwen3Model)
ROTATIONS = ("default", "linear", "llama3", "yarn")
"""Rotary embeddings whose angles depend on the position alone, and not on the length of the text."""
PARTS = (nn.Linear, nn.Embedding, nn.Module, SiLUActivation)
"""Whose forward passes such models use beside those of their own file; a list of modules has none of its own."""


class Norm:
    """RMS normalisation, x / √(mean(x²) + ε) · weight, in the few operations that a CPU takes least time for."""

    def __init__(self, weight: Tensor, epsilon: float) -> None:
        width = weight.shape[-1]
        self._weight = weight.float() * sqrt(width)
        self._least = torch.tensor(sqrt(width * epsilon), device=weight.device)

    def __call__(self, x: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        return (x / length.hypot(self._least) * self._weight).to(x.dtype)


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of a decoder layer, those that read the same input fused."""

    before_attention: Norm
    project: Linear
    """Queries, keys and values."""
    norm_heads: Norm | None
    """Of the heads of queries and keys (Qwen3)."""
    out: Linear
    before_mlp: Norm
    gate_up: Linear
    down: Linear
    scaling: float | None
    window: int | None


class LeanDecoder:
    """A decoder of a known family: RMS norms, rotary attention, gated MLPs."""

    @classmethod
    def of(cls, model: PreTrainedModel, survey: Survey) -> Self | None:
        """The lean form of a model; None where it is not known to have one."""
        return cls(model, survey) if _is_plain(model) else None

    @torch.inference_mode(False)
    @torch.no_grad()
    def __init__(self, model: PreTrainedModel, survey: Survey) -> None:
        body: Any = model.base_model
        config: Any = body.config
        self._embed: nn.Embedding = body.embed_tokens  # called as a module: whoever counts tokens does it there
        self._rotary: nn.Module = body.rotary_emb
        self._turns = torch.empty(2, 0)
        """Cosines and sines of each position, the sines signed as `_rotated` wants them."""
        self._width: int = body.layers[0].self_attn.head_dim
        self._heads = config.num_attention_heads, config.num_key_value_heads
        copy = model.num_parameters() * model.dtype.itemsize < copies(model.device)
        self._layers = [_layer(layer, survey, copy) for layer in body.layers]
        self._norm = _norm(body.norm)
        head: Any = None if model is body else model.get_output_embeddings()  # type: ignore[no-untyped-call]
        self._head = None if head is None else Linear(head, copy=copy)

    def __call__(self, batch: Batch, wanted: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Hidden states and logits at the wanted tokens of a batch, or at all."""
        x: Tensor = self._embed(batch.ids)
        cos, sin = self._angles(batch, x)
        heads, rotated = self._heads, sum(self._heads)
        for index, layer in enumerate(self._layers):
            packed = layer.project(layer.before_attention(x)).view(x.shape[0], -1, self._width)
            turned, value = packed.split_with_sizes((rotated, heads[1]), 1)
            if layer.norm_heads is not None:
                turned = layer.norm_heads(turned)
            turned = torch.addcmul(turned * cos, turned.roll(self._width // 2, -1), sin)
            query, key = turned.split_with_sizes(heads, 1)
            seen = batch.attend(index, query, key, value, layer.scaling, layer.window)
            if wanted is not None and layer is self._layers[-1]:  # the others have left what is read of them
                x, seen = x.index_select(0, wanted), seen.index_select(0, wanted)
            x = layer.out.onto(x, seen.flatten(1))
            gate, up = layer.gate_up(layer.before_mlp(x)).chunk(2, -1)
            x = layer.down.onto(x, silu(gate).mul_(up))
        hidden = self._norm(x)
        return hidden, None if self._head is None else self._head(hidden)

    def _angles(self, batch: Batch, x: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines [tokens, 1, width]: rotating by halves is x · cos + roll(x) · sin."""
        if self._turns.shape[1] < batch.store.length:
            cos, sin = self._rotary(x, torch.arange(batch.store.length, device=x.device)[None])
            sin = sin * torch.where(torch.arange(self._width, device=x.device) < self._width // 2, -1, 1)
            self._turns = torch.stack((cos[0], sin[0])).unsqueeze(2)
        cos, sin = self._turns.index_select(1, batch.positions).unbind()
        return cos, sin


def _is_plain(model: PreTrainedModel) -> bool:
    """Whether a model is of a known family, and nobody changed anything about it."""
    body: Any = model.base_model
    family = _own(type(body))
    if family not in FAMILIES or body.config.rope_parameters.get("rope_type") not in ROTATIONS:
        return False
    if model is not body and _own(type(model)).__name__ != family.__name__.replace("Model", "ForCausalLM"):
        return False
    biased = any(part.bias is not None for one in body.layers for part in (one.self_attn.o_proj, one.mlp.down_proj))
    return not biased and all(
        (_own(type(module)) in PARTS or _own(type(module)).__module__ == family.__module__)
        and not (module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))
        for module in model.modules()
    )


def _own(kind: type) -> type:
    """The class that a module's forward pass is from."""
    return next(base for base in kind.__mro__ if "forward" in vars(base))


def _layer(layer: Any, survey: Survey, copy: bool) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    index = attention.layer_idx
    heads = None
    if hasattr(attention, "q_norm"):
        queries = attention.q_norm.weight.expand(attention.q_proj.out_features // attention.head_dim, -1)
        keys = attention.k_norm.weight.expand(attention.k_proj.out_features // attention.head_dim, -1)
        heads = Norm(torch.cat((queries, keys)), attention.q_norm.variance_epsilon)
    return Layer(
        _norm(layer.input_layernorm),
        Linear(attention.q_proj, attention.k_proj, attention.v_proj, copy=copy),
        heads,
        Linear(attention.o_proj, copy=copy),
        _norm(layer.post_attention_layernorm),
        Linear(mlp.gate_proj, mlp.up_proj, copy=copy),
        Linear(mlp.down_proj, copy=copy),
        survey.scalings[index],
        survey.windows[index],
    )


def _norm(module: Any) -> Norm:
    return Norm(module.weight, module.variance_epsilon)
