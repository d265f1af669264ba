"""Unshared models and tokenizers, loaded by transformers from a folder."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rsd_core import ConfigurationError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_one_at_a_time = threading.Lock()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Load with transformers in one thread at a time, without its progress bars.

    Loading temporarily changes settings of the whole process, such as torch's default dtype, and overlapping loads
    leave them changed (transformers 5.23 and torch 2.13: in two of three rounds of four threads loading a bf16
    checkpoint).
    """
    from transformers.utils import logging

    with _one_at_a_time:
        shown = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            if shown:
                logging.enable_progress_bar()  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def loading_errors_of(what: str) -> Iterator[None]:
    """Report whatever transformers and tokenizers raise for a checkpoint that they do not accept."""
    try:
        yield
    except (ConfigurationError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # of many classes, depending on the model
        reason = " ".join(str(error).split())
        raise ConfigurationError(f"{what}: {type(error).__name__}: {reason:.400}") from error


def native_config(raw: dict[str, Any], model: str) -> PretrainedConfig:
    """The native configuration. Remote code is never needed: it only adds the head, which is loaded separately here."""
    from transformers import CONFIG_MAPPING, AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    kind = str(raw.get("model_type", ""))
    kind = {"qwen2_rm": "qwen2"}.get(kind, kind)
    if kind not in CONFIG_MAPPING:
        raise ConfigurationError(
            f"{model}: transformers has no native model of the type {kind!r}, and remote code is not run. "
            "Convert the checkpoint to the architecture that it was trained from."
        )
    with loading_errors_of(f"{model}: transformers does not accept its config.json"):
        own = {key: value for key, value in raw.items() if key not in ("auto_map", "model_type")}
        config = AutoConfig.for_model(kind, **own)
    quantised = raw.get("quantization_config")
    if quantised and quantised.get("quant_method") != "fp8":  # transformers reads that as any other dtype
        raise ConfigurationError(
            f"{model}: its weights are quantised ({quantised.get('quant_method')}), which does not run in process. Use "
            "the checkpoint that it was made from, a GGUF file, or serve it, and use it as openai:MODEL@URL"
        )
    if type(config) not in MODEL_MAPPING:
        raise ConfigurationError(f"{model}: {kind!r} is not a language model that can have a reward head")
    return config


def other_attention(config: PretrainedConfig) -> str | None:
    """Why a model's attention cannot be replaced by batched attention, by its class; None if nothing speaks for that.

    Its layers still have to be tried: some classes declare more than they do.
    """
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    body: Any = MODEL_MAPPING[type(config)]
    if not (body._supports_attention_backend and body._supports_sdpa):
        return f"{body.__name__} has attention of its own"
    kinds = {*(getattr(config, "layer_types", None) or ())} - {"full_attention", "sliding_attention"}
    return f"its layers have {' and '.join(sorted(kinds))}" if kinds else None


def without_weights(raw: dict[str, Any], model: str) -> nn.Module:
    """The modules of a model's body, by its config.json; errors as for `native_config`."""
    from transformers import AutoModel

    config = native_config(raw, model)
    bodies: Any = AutoModel
    with quiet(), torch.device("meta"):
        body: nn.Module = bodies.from_config(config)
    return body


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer.

    Raises:
        ConfigurationError: There is none, or it needs remote code.
    """
    from transformers import AutoTokenizer

    with loading_errors_of(f"{folder}: transformers cannot load its tokenizer"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if not tokenizer.get_vocab().keys() - tokenizer.get_added_vocab().keys():  # made up from nothing
        raise ConfigurationError(f"{folder}: its tokenizer has no vocabulary; is the download complete?")
    return tokenizer


def load_causal_lm(folder: Path, dtype: torch.dtype, device: torch.device, pickles: bool = False) -> PreTrainedModel:
    """Load an unshared causal language model from its files.

    Raises:
        ConfigurationError: They do not hold a complete one; what is missing would be random.
    """
    from transformers import AutoModelForCausalLM

    loaded: Any  # a pair, which its types do not say
    with quiet(), loading_errors_of(f"{folder}: transformers cannot load it"):
        loaded = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=None if pickles else True,
            output_loading_info=True,
        )
    model: PreTrainedModel = loaded[0]
    if missing := sorted(map(str, loaded[1]["missing_keys"])):
        raise ConfigurationError(
            f"{folder}: {len(missing)} tensors of a language model are missing in its weights, "
            f"{', '.join(missing[:3])} first. Is the download complete? A reward model is used as prm:…, and "
            "cannot write"
        )
    nn.Module.to(model, device)
    nn.Module.eval(model)
    return model
