"""Architectures that convert exactly between GGUF files and checkpoints: tensor names and layouts, and settings.

Others are refused in both directions: a file that loads and generates nonsense is worse than none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from rsd_core import ConfigurationError, MissingDependency

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class Architecture(NamedTuple):
    """An architecture as llama.cpp names and computes it."""

    name: str
    model_types: tuple[str, ...]
    """Its names in checkpoints; a converted file gets the first."""
    activation: str = "silu"
    rotates_pairs: bool = False
    """Whether rotary embeddings rotate adjacent pairs, where transformers rotates the two halves of a head: rows of
    queries and keys are permuted."""
    norm_offset: float = 0.0
    """Offset added to norm weights, which transformers stores around zero."""


ARCHITECTURES = (
    Architecture("qwen2", ("qwen2", "qwen2_rm")),
    Architecture("qwen3", ("qwen3",)),
    Architecture("llama", ("llama", "mistral"), rotates_pairs=True),
    Architecture("gemma3", ("gemma3_text",), activation="gelu_pytorch_tanh", norm_offset=1.0),
)
PERIOD = 6
"""Gemma 3: every sixth layer sees the whole text, the others a window."""
LAYERS_27B = 62
"""Gemma 3 with this many layers scales its queries by the width of the model, all others by that of a head."""
FREQUENCIES = "rope_freqs.weight"
"""Divisors of the rotary frequencies: llama.cpp's form of Llama 3's scaling."""
NEEDED = {
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "attention.head_count",
    "attention.layer_norm_rms_epsilon",
}
"""Settings required of a model's file."""
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""Settings that a file with divisors lacks; the same in all published models."""


def library() -> Any:
    """The package `gguf`.

    Raises:
        MissingDependency: It is not installed.
    """
    try:
        import gguf
    except ModuleNotFoundError as missing:
        raise MissingDependency(missing.name or "gguf", "gguf", "converting GGUF files") from None
    return gguf


def of_model_type(model_type: object, model: str) -> Architecture:
    """The architecture of a checkpoint.

    Raises:
        ConfigurationError: It cannot be converted exactly.
    """
    for architecture in ARCHITECTURES:
        if model_type in architecture.model_types:
            return architecture
    known = ", ".join(name for architecture in ARCHITECTURES for name in architecture.model_types)
    raise ConfigurationError(f"{model}: the model_type {model_type!r} cannot be converted to GGUF, only {known}")


def of_file(name: object, file: str) -> Architecture:
    """The architecture of a GGUF file.

    Raises:
        ConfigurationError: It cannot be converted exactly.
    """
    for architecture in ARCHITECTURES:
        if name == architecture.name:
            return architecture
    known = ", ".join(architecture.name for architecture in ARCHITECTURES)
    raise ConfigurationError(f"{file}: the GGUF architecture {name!r} cannot become a checkpoint, only {known}")


def tensors(architecture: Architecture, config: PretrainedConfig) -> dict[str, tuple[str, tuple[int, ...]]]:
    """GGUF names and shapes of tensors, by their names in transformers' model; without a tied output head.

    Raises:
        ConfigurationError: A tensor has no GGUF name.
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        shaped = AutoModelForCausalLM.from_config(config).state_dict()  # type: ignore[no-untyped-call]
    gguf = library()
    number = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture.name)
    table = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    if config.tie_word_embeddings:
        shaped.pop("lm_head.weight", None)
    named = {name: table.get_name(name, try_suffixes=(".weight", ".bias")) for name in shaped}
    strange = [name for name, other in named.items() if other is None]
    if strange:
        raise ConfigurationError(f"GGUF files of {architecture.name} have no tensor {strange[0]}")
    return {name: (named[name], tuple(tensor.shape)) for name, tensor in shaped.items()}


def to_file(architecture: Architecture, config: PretrainedConfig, name: str, tensor: Tensor) -> Tensor:
    """A tensor in llama.cpp's layout; `name` is its name in the file."""
    if architecture.norm_offset and name.endswith("norm.weight"):
        return tensor + architecture.norm_offset
    heads = _rotated_heads(architecture, config, name)
    return tensor if heads is None else _exchanged(tensor, heads, 2, -1)


def from_file(architecture: Architecture, config: PretrainedConfig, name: str, tensor: Tensor) -> Tensor:
    """The inverse of `to_file`."""
    if architecture.norm_offset and name.endswith("norm.weight"):
        return tensor - architecture.norm_offset
    heads = _rotated_heads(architecture, config, name)
    return tensor if heads is None else _exchanged(tensor, heads, -1, 2)


def _exchanged(tensor: Tensor, heads: int, outer: int, inner: int) -> Tensor:
    """Exchange the outer and the inner index of the rows of each head."""
    return tensor.reshape(heads, outer, inner, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)


def _rotated_heads(architecture: Architecture, config: PretrainedConfig, name: str) -> int | None:
    """Number of heads in a tensor whose rows are permuted; None if they are not."""
    if architecture.rotates_pairs and ".attn_q." in name:
        return int(config.num_attention_heads)
    if architecture.rotates_pairs and ".attn_k." in name:
        return int(config.num_key_value_heads)
    return None


def frequency_divisors(rope: Mapping[str, Any], head: int) -> Tensor:
    """Divisors of the rotary frequencies of Llama 3.1 and later, highest frequency first.

    Long waves are stretched by the factor, short ones are kept, with a smooth transition in between.
    """
    waves = 2 * math.pi * rope["rope_theta"] ** (torch.arange(0, head, 2, dtype=torch.float64) / head)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    share = ((rope["original_max_position_embeddings"] / waves - low) / (high - low)).clamp(0, 1)
    divisors: Tensor = 1 / ((1 - share) / rope["factor"] + share)
    return divisors.float()


def settings(architecture: Architecture, config: PretrainedConfig, model: str) -> dict[str, Any]:
    """The file's settings of the architecture, without its name as prefix.

    Raises:
        ConfigurationError: llama.cpp does not support a setting for this architecture.
    """
    head = head_width(config)
    gemma = architecture.name == "gemma3"
    ropes = config.rope_parameters
    rope = ropes["full_attention"] if gemma else ropes
    layers = range(config.num_hidden_layers)
    types = getattr(config, "layer_types", None)
    window = [types[i] == "sliding_attention" if types else _windowed(config) for i in layers]
    required = {
        "hidden_act": (_activation(config), architecture.activation),
        "attention_bias": (bool(getattr(config, "attention_bias", False)) and architecture.name != "llama", False),
        "partial_rotary_factor": (rope.get("partial_rotary_factor") or 1.0, 1.0),
        "heads times their width": (config.num_attention_heads * head, _width(architecture, config, head)),
    }
    context = config.max_position_embeddings
    if any(window) and not gemma:
        context = min(context, config.sliding_window)  # up to this length, the window covers everything
    if gemma:
        required["sliding window layers"] = (window, [i % PERIOD < PERIOD - 1 for i in layers])
        scale = config.hidden_size // config.num_attention_heads if config.num_hidden_layers == LAYERS_27B else head
        required["query_pre_attn_scalar"] = (config.query_pre_attn_scalar, scale)
        required["attn_logit_softcapping"] = (config.attn_logit_softcapping, None)
        required["final_logit_softcapping"] = (config.final_logit_softcapping, None)
        required["use_bidirectional_attention"] = (bool(config.use_bidirectional_attention), False)
        required["rope_type of sliding layers"] = (ropes["sliding_attention"].get("rope_type", "default"), "default")
    for name, (value, expected) in required.items():
        if value != expected:
            raise ConfigurationError(
                f"{model}: llama.cpp computes {architecture.name} with {name} {expected!r}, but this checkpoint has "
                f"{value!r}; a GGUF file of it would compute something else"
            )
    return {
        "context_length": context,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": head,
        "attention.value_length": head,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.dimension_count": head,
        "rope.freq_base": float(rope["rope_theta"]),
        **({"attention.sliding_window": config.sliding_window} if gemma else {}),
        **({"rope.freq_base_swa": float(ropes["sliding_attention"]["rope_theta"])} if gemma else {}),
        **_scaling(architecture, rope, model),
    }


def head_width(config: PretrainedConfig) -> int:
    """Width of an attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _windowed(config: PretrainedConfig) -> bool:
    return getattr(config, "sliding_window", None) is not None


def _activation(config: PretrainedConfig) -> object:
    return getattr(config, "hidden_activation", None) or config.hidden_act


def _width(architecture: Architecture, config: PretrainedConfig, head: int) -> int:
    """The model's width, if llama.cpp assumes it."""
    return int(config.hidden_size if architecture.name == "qwen2" else config.num_attention_heads * head)


def _scaling(architecture: Architecture, rope: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Settings of scaled rotary embeddings."""
    kind = rope.get("rope_type") or "default"
    known = {"rope_type", "rope_theta", "partial_rotary_factor"}
    if kind == "default":
        return {}
    if kind == "linear" and not rope.keys() - known - {"factor"}:
        return {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}
    extent = {"factor", "original_max_position_embeddings"}
    if kind == "yarn" and not rope.keys() - known - extent and rope.keys() >= extent:
        return {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": float(rope["factor"]),
            "rope.scaling.original_context_length": rope["original_max_position_embeddings"],
        }
    if kind == "llama3" and architecture.name == "llama":
        return {}  # a separate tensor
    raise ConfigurationError(
        f"{model}: rope_parameters {dict(rope)} cannot be written for {architecture.name}; supported are the types "
        "default, linear, yarn with only factor and original_max_position_embeddings, and llama3 for llama"
    )


def config_of(
    architecture: Architecture,
    file: Mapping[str, Any],
    tensors: Mapping[str, tuple[int, ...]],
    divisors: Tensor | None,
    name: str,
) -> PretrainedConfig:
    """The configuration of a checkpoint, from the settings and tensors of a file.

    Args:
        architecture: Architecture of the file.
        file: Its settings, without the architecture's name as prefix.
        tensors: Tensor shapes by name.
        divisors: Divisors of the rotary frequencies, if the file has them.
        name: Name of the file, for messages.

    Raises:
        ConfigurationError: A setting is missing, or transformers does not support it for this architecture.
    """
    from transformers import AutoConfig

    gemma = architecture.name == "gemma3"
    _check_whole(NEEDED | ({"attention.sliding_window"} if gemma else set()), file, tensors, name)
    heads = file["attention.head_count"]
    head = file.get("attention.key_length", file["embedding_length"] // heads)
    required = {
        "attention.value_length": (file.get("attention.value_length", head), head),
        "rope.dimension_count": (file.get("rope.dimension_count", head), head),
        "attention.sliding_window_pattern": (file.get("attention.sliding_window_pattern", PERIOD), PERIOD),
        "expert_count": (file.get("expert_count", 0), 0),
        "final_logit_softcapping": (file.get("final_logit_softcapping", 0), 0),
    }
    for key, (value, expected) in required.items():
        if value != expected:
            raise ConfigurationError(f"{name}: {architecture.name}.{key} is {value}, but only {expected} is supported")
    rope = _rope(file, divisors, head, name)
    own: dict[str, Any] = {
        "vocab_size": tensors["token_embd.weight"][0],
        "hidden_size": file["embedding_length"],
        "intermediate_size": file["feed_forward_length"],
        "num_hidden_layers": file["block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": file.get("attention.head_count_kv", heads),
        "head_dim": head,
        "max_position_embeddings": file["context_length"],
        "rms_norm_eps": _decimal(file["attention.layer_norm_rms_epsilon"]),
        "tie_word_embeddings": "output.weight" not in tensors,
        "rope_parameters": rope,
    }
    if architecture.name == "qwen2":
        del own["head_dim"]
    if architecture.name == "llama":
        own |= {"attention_bias": "blk.0.attn_q.bias" in tensors, "mlp_bias": "blk.0.ffn_up.bias" in tensors}
    if gemma:
        scale = file["embedding_length"] // heads if file["block_count"] == LAYERS_27B else head
        local = {"rope_type": "default", "rope_theta": _decimal(file.get("rope.freq_base_swa", 10_000.0))}
        own |= {"sliding_window": file["attention.sliding_window"], "query_pre_attn_scalar": scale}
        own |= {"rope_parameters": {"full_attention": rope, "sliding_attention": local}}
    try:
        return AutoConfig.for_model(architecture.model_types[0], **own)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError(
            f"{name}: transformers has no {architecture.name} with these settings: {reason}"
        ) from error


def _check_whole(needed: Set[str], file: Mapping[str, Any], tensors: Mapping[str, tuple[int, ...]], name: str) -> None:
    missing = sorted(needed - file.keys())
    if missing or "token_embd.weight" not in tensors:
        lacks = ", ".join(missing) or "the tensor token_embd.weight"
        raise ConfigurationError(f"{name} is not a complete GGUF model: it lacks {lacks}")
    lists = sorted(key for key in needed if not isinstance(file[key], int | float) or file[key] <= 0)
    if lists:
        raise ConfigurationError(
            f"{name}: {lists[0]} is {file[lists[0]]!r}; supported is one number above 0, the same for all layers"
        )


def _rope(file: Mapping[str, Any], divisors: Tensor | None, head: int, name: str) -> dict[str, Any]:
    """Rotary embedding parameters for transformers."""
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": _decimal(file.get("rope.freq_base", 10_000.0))}
    scaling = {key.removeprefix("rope.scaling."): file[key] for key in file if key.startswith("rope.scaling.")}
    scaling.pop("finetuned", None)
    kind = scaling.pop("type", "linear" if scaling else "none")
    if divisors is not None:
        rope |= {"rope_type": "llama3", "factor": _decimal(float(divisors.max())), **LLAMA3}
        if kind == "none" and torch.allclose(frequency_divisors(rope, head), divisors, rtol=1e-5):
            return rope
    elif kind == "none":
        return rope
    elif kind == "linear" and scaling.keys() == {"factor"}:
        return rope | {"rope_type": "linear", "factor": _decimal(scaling["factor"])}
    elif kind == "yarn" and scaling.keys() == {"factor", "original_context_length"}:
        extent = {"original_max_position_embeddings": scaling["original_context_length"]}
        return rope | {"rope_type": "yarn", "factor": _decimal(scaling["factor"]), **extent}
    divided = "" if divisors is None else f" and divisors up to {float(divisors.max()):g}"
    raise ConfigurationError(
        f"{name}: rotary embeddings of the type {kind} with {scaling}{divided} have no equivalent in transformers; "
        "supported are none, linear with a factor, yarn with a factor and original_context_length, and the "
        "divisors of Llama 3"
    )


def _decimal(value: float) -> float:
    """A single-precision number as originally written in decimal: 1e-06, where the file holds 9.99999997e-07."""
    return float(f"{value:.7g}")
