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


def native_config(raw: dict[str, Any], model: str) -> PretrainedConfig:
    """The native configuration. Remote code is never needed: it only adds the head, which is loaded separately here."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    kind = str(raw.get("model_type", ""))
    kind = {"qwen2_rm": "qwen2"}.get(kind, kind)
    try:
        own = {key: value for key, value in raw.items() if key not in ("auto_map", "model_type")}
        config = AutoConfig.for_model(kind, **own)
    except ValueError as error:
        raise ConfigurationError(
            f"{model}: transformers has no native model of the type {kind!r}, and remote code is not run. "
            "Convert the checkpoint to the architecture that it was trained from."
        ) from error
    if type(config) not in MODEL_MAPPING:
        raise ConfigurationError(f"{model}: {kind!r} is not a language model that can have a reward head")
    return config


def without_weights(raw: dict[str, Any], model: str) -> nn.Module:
    """The modules of a model's body, by its config.json; errors as for `native_config`."""
    from transformers import AutoModel

    config = native_config(raw, model)
    bodies: Any = AutoModel
    with quiet(), torch.device("meta"):
        body: nn.Module = bodies.from_config(config)
    return body


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer."""
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return tokenizer


def load_causal_lm(folder: Path, dtype: torch.dtype, device: torch.device, pickles: bool = False) -> PreTrainedModel:
    """Load an unshared causal language model from its files."""
    from transformers import AutoModelForCausalLM

    with quiet():
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, trust_remote_code=False, use_safetensors=None if pickles else True
        )
    nn.Module.to(model, device)
    nn.Module.eval(model)
    return model
