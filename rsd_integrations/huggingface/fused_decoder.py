"""The fused forward pass of plain decoders over their own weights, without the overhead of calling every module.

A small model's forward pass is mostly Python: on a CPU, three quarters of the time per token. The families below share
one layer, implemented here in the subset of Python that TorchScript runs without the interpreter and above all without
its lock, so that models run in parallel. A model that differs in any way runs its own modules, and a runner compares
both before it uses this one.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable
from math import sqrt
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from rsd_integrations.huggingface.attention import Batch, Piece, Places, Survey, attend
from rsd_integrations.huggingface.bare_model import BareModel
from rsd_integrations.huggingface.digits import Digits, Int8Linear
from rsd_integrations.huggingface.linear import fused, output_head

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)
ROTATIONS = ("default", "linear", "llama3", "yarn")
"""Rotary embeddings whose angles depend only on the position, not on the length of the text."""
SCRIPTED = sys.version_info < (3, 14)
"""Whether TorchScript runs the pass. Later Pythons do not support it, and its successors in torch need a compiler;
there the same code runs in Python."""
SCRIPT_AFTER = 500
"""Forward passes after which TorchScript takes over. Compiling takes as long as it saves in about this many, so a
process that answers one question ends before it pays for either time or memory."""


class Norm(nn.Module):
    """RMS normalisation, x / √(mean(x²) + ε) · weight, in the operations that are fastest on a CPU."""

    def __init__(self, weight: Tensor, epsilon: float) -> None:
        super().__init__()
        width = weight.shape[-1]
        self.weight = weight.float() * sqrt(width)
        self.least = torch.tensor(sqrt(width * epsilon), dtype=torch.float32, device=weight.device)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension of x, in fp32."""
        length: Tensor = torch.linalg.vector_norm(x, dim=[-1], keepdim=True, dtype=torch.float32)
        return x / length.hypot(self.least) * self.weight


class Layer(nn.Module):
    """A decoder layer, with fused weights for projections of the same input.

    The residual stream and angles are in fp32, whatever the weights' dtype; keys and values are in the cache's dtype.
    """

    def __init__(self, layer: Any, heads: tuple[int, int], scaling: float | None, window: int, copy: bool) -> None:
        """Take over a layer with these numbers of query and key heads; `window` indexes the lists of pieces."""
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self.heads, self.width, self.window, self.scaling = heads, attention.head_dim, window, scaling
        self.before_attention, self.before_mlp = _norm(layer.input_layernorm), _norm(layer.post_attention_layernorm)
        self.project = fused(attention.q_proj, attention.k_proj, attention.v_proj, copy=copy)
        self.norm_heads: Norm | None = None
        if hasattr(attention, "q_norm"):  # norms of query and key heads (Qwen3)
            norms = attention.q_norm, attention.k_norm
            weights = [norm.weight.expand(count, -1) for norm, count in zip(norms, heads, strict=True)]
            self.norm_heads = Norm(torch.cat(weights), attention.q_norm.variance_epsilon)
        self.out = fused(attention.o_proj, copy=copy)
        self.gate_up = fused(mlp.gate_proj, mlp.up_proj, copy=copy)
        self.down = fused(mlp.down_proj, copy=copy)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        keys: Tensor,
        values: Tensor,
        places: Places,
        pieces: list[list[Piece]],
        output_indices: Tensor | None,
    ) -> Tensor:
        """Hidden states [tokens, width], only of tokens in `output_indices` if given."""
        queries, shared = self.heads
        packed = self.project(self.before_attention(x)).view(x.shape[0], -1, self.width)
        rotated, value = packed.split_with_sizes([queries + shared, shared], 1)
        if self.norm_heads is not None:
            rotated = self.norm_heads(rotated)
        rotated = rotated.float()
        rotated = torch.addcmul(rotated * cos, rotated.roll(self.width // 2, -1), sin).to(keys.dtype)
        query, key = rotated.split_with_sizes([queries, shared], 1)
        value = value.to(keys.dtype)
        attended = attend(query, key, value, keys, values, places, pieces[self.window], self.scaling)
        if output_indices is not None:  # the last layer: other tokens needed only keys and values
            x, attended = x.index_select(0, output_indices), attended.index_select(0, output_indices)
        x = self.out.onto(x, attended.flatten(1))
        gate, up = self.gate_up(self.before_mlp(x)).chunk(2, -1)
        return self.down.onto(x, silu(gate).mul_(up))


class Decoder(nn.Module):
    """All layers, the final norm and the output head, if there is one."""

    def __init__(self, layers: list[Layer], norm: Norm, head: nn.Module | None) -> None:
        super().__init__()
        self.layers, self.norm, self.head = nn.ModuleList(layers), norm, head

    def forward(
        self,
        x: Tensor,
        rotations: Tensor,
        keys: list[Tensor],
        values: list[Tensor],
        places: Places,
        pieces: list[list[Piece]],
        output_indices: Tensor | None,
        begin: int,
        end: int,
    ) -> tuple[Tensor, Tensor | None]:
        """Hidden states and logits at some or all tokens; if `end` comes earlier, the input of layer `end`."""
        cos, sin = rotations.index_select(1, places.in_text).unbind()
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            if begin <= i < end:
                x = layer(x, cos, sin, keys[i], values[i], places, pieces, output_indices if i == last else None)
        if end <= last:
            return x, None
        hidden = self.norm(x)
        logits: Tensor | None = None
        if self.head is not None:
            logits = self.head(hidden)
        return hidden, logits


class FusedDecoder:
    """A decoder of a known family: RMS norms, rotary attention, gated MLPs."""

    @classmethod
    def of(cls, model: PreTrainedModel | BareModel, survey: Survey, copy: bool) -> Self | None:
        """The fused form of a model, with or without a copy of its weights; None if the model is not supported."""
        return cls(model, survey, copy) if isinstance(model, BareModel) or _is_plain(model) else None

    @torch.inference_mode(False)
    @torch.no_grad()
    def __init__(self, model: PreTrainedModel | BareModel, survey: Survey, copy: bool) -> None:
        body: Any = model.base_model
        heads = body.config.num_attention_heads, body.config.num_key_value_heads
        self._embed: nn.Embedding = body.embed_tokens  # called as a module, so that hooks can count tokens
        self._rotary: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = body.rotary_emb
        self._rotations = torch.empty(2, 0)
        """Cosines and signed sines of each position [2, positions, 1, width]: rotating by halves is
        x · cos + roll(x) · sin."""
        self._windows = list(dict.fromkeys(survey.windows.values()))
        layers = []
        for layer in body.layers:
            index = layer.self_attn.layer_idx
            window = self._windows.index(survey.windows[index])
            layers.append(Layer(layer, heads, survey.scalings[index], window, copy))
        headless = model is body and not isinstance(model, BareModel)
        head: Any = None if headless else model.get_output_embeddings()
        head = None if head is None else output_head(head, copy)
        self.depth = len(layers)
        """Number of layers."""
        self._decoder: nn.Module = Decoder(layers, _norm(body.norm), head)
        self._passes = 0

    def __call__(self, batch: Batch, output_indices: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Hidden states and logits at some or all tokens of a batch."""
        return self.run(batch, self.embed(batch), 0, self.depth, output_indices)

    def embed(self, batch: Batch) -> Tensor:
        """The input of the first layer for a batch, [tokens, width], in fp32."""
        x: Tensor = self._embed(batch.ids).float()
        return x

    def run(
        self, batch: Batch, x: Tensor, begin: int, end: int, output_indices: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Run some of the layers.

        Args:
            batch: The tokens' places. Earlier layers must have run for all earlier tokens.
            x: Input of the first of the layers, [tokens, width], in fp32, like the output of the last.
            begin: The first layer, counted from 0.
            end: The end of the layers, exclusive.
            output_indices: Tokens whose output is needed, if the last layer is included; None for all.

        Returns:
            Hidden states after the final norm, and logits if there is an output head; if `end` comes earlier, the input
            of layer `end`.
        """
        if self._passes == SCRIPT_AFTER:
            self._decoder = _scripted(self._decoder)
        self._passes += 1
        store = batch.store
        if self._rotations.shape[1] < store.length:
            cos, sin = self._rotary(x, torch.arange(store.length, device=x.device)[None])
            sin = sin * torch.where(torch.arange(cos.shape[-1], device=x.device) < cos.shape[-1] // 2, -1, 1)
            self._rotations = torch.stack((cos[0], sin[0])).unsqueeze(2)
        pieces = [batch.pieces(window) for window in self._windows]
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            output: tuple[Tensor, Tensor | None] = self._decoder(
                x, self._rotations, store.keys, store.values, batch.places, pieces, output_indices, begin, end
            )
        return output


@torch.inference_mode(False)
def _scripted(decoder: nn.Module) -> nn.Module:
    """The decoder as TorchScript, if that and the sources it compiles are available."""
    if not SCRIPTED:
        return decoder
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            script: nn.Module = torch.jit.script(decoder)
        except (OSError, RuntimeError) as error:  # a frozen application, or functions changed by an import hook
            logger.warning("the fused pass runs in Python instead of TorchScript, more slowly: %s", error)
            logger.debug("why it cannot be scripted", exc_info=error)
            return decoder
        return script


def _is_plain(model: PreTrainedModel) -> bool:
    """Whether a model belongs to a known family and is unmodified."""
    from transformers import LlamaModel, MistralModel, Qwen2Model, Qwen3Model
    from transformers.activations import SiLUActivation

    families = (LlamaModel, MistralModel, Qwen2Model, Qwen3Model)
    # Classes whose forward passes such models use besides those of their own file; a module list has none.
    parts = (nn.Linear, Int8Linear, Digits, nn.Embedding, nn.Module, SiLUActivation)
    body: Any = model.base_model
    family = _forward_class(type(body))
    if family not in families or body.config.rope_parameters.get("rope_type") not in ROTATIONS:
        return False
    if model is not body and _forward_class(type(model)).__name__ != family.__name__.replace("Model", "ForCausalLM"):
        return False
    biased = any(part.bias is not None for one in body.layers for part in (one.self_attn.o_proj, one.mlp.down_proj))
    return not biased and all(
        (_forward_class(type(module)) in parts or _forward_class(type(module)).__module__ == family.__module__)
        and not (module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))
        for module in model.modules()
    )


def _forward_class(kind: type) -> type:
    """The class that defines a module's forward pass."""
    return next(base for base in kind.__mro__ if "forward" in vars(base))


def _norm(module: Any) -> Norm:
    return Norm(module.weight, module.variance_epsilon)
