"""Models and tokenizers as transformers makes them from a folder, which shares them with nobody."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_one_at_a_time = threading.Lock()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Load by transformers, its bars kept off the terminal, and by one thread at a time.

    It changes settings of the whole process meanwhile, such as torch's default dtype: two that overlap leave them
    changed (transformers 5.23 and torch 2.13: after two of three rounds of four threads that load a bf16 checkpoint).
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


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer."""
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return tokenizer


def load_causal_lm(folder: Path, dtype: torch.dtype, device: torch.device, pickles: bool = False) -> PreTrainedModel:
    """A causal language model from its files, shared with nobody."""
    from transformers import AutoModelForCausalLM

    with quiet():
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, trust_remote_code=False, use_safetensors=None if pickles else True
        )
    nn.Module.to(model, device)
    nn.Module.eval(model)
    return model
