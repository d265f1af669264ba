"""A causal language model of transformers with its tokenizer, prepared for the engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rsd_integrations.huggingface import loading
from rsd_integrations.huggingface.bare_model import BareModel
from rsd_integrations.huggingface.runner import TorchRunner
from rsd_integrations.inprocess.engine import threads_for
from rsd_integrations.inprocess.language_model import LanguageModel
from rsd_integrations.inprocess.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from rsd_integrations.huggingface.bare_tokenizer import BareTokenizer


class CausalLM(LanguageModel):
    """A causal language model run by torch."""

    runner: TorchRunner

    @property
    def model(self) -> PreTrainedModel:
        """The model of transformers; created on first access if its weights were read without that library."""
        return loading.of_transformers(self.runner.model)


def parts_of(
    model: PreTrainedModel | BareModel,
    tokenizer: PreTrainedTokenizerBase | BareTokenizer,
    name: str,
    cache_bytes: float | None = None,
    template: Mapping[str, Any] | None = None,
) -> tuple[TorchRunner, Vocabulary, frozenset[int], float, str]:
    """The arguments of `LanguageModel` for a model of transformers.

    Args:
        model: The model, on its device and in its dtype.
        tokenizer: Its tokenizer.
        name: Display name.
        cache_bytes: Memory for keys and values; by default an eighth of the device's memory.
        template: Chat template arguments, such as `enable_thinking`.

    Raises:
        ConfigurationError: The model cannot run in batches in process, or its chat template does not use an argument.
    """
    vocabulary = Vocabulary(tokenizer, model.config.vocab_size, template)
    flops = loading.flops_of(model)
    runner = TorchRunner.of(model, threads=threads_for(flops), budget=cache_bytes)
    return runner, vocabulary, _eos_ids(model, tokenizer), flops, name


def _eos_ids(model: PreTrainedModel | BareModel, tokenizer: PreTrainedTokenizerBase | BareTokenizer) -> frozenset[int]:
    """End-of-sequence ids of the generation defaults, the configuration and the tokenizer."""
    ids: set[int] = set()
    for value in (
        None if model.generation_config is None else model.generation_config.eos_token_id,
        model.config.eos_token_id,
        tokenizer.eos_token_id,
    ):
        ids.update([value] if isinstance(value, int) else value or [])
    return frozenset(ids)
