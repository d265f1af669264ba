"""A causal language model with its tokenizer and its runner: what drafters, targets and likelihood verifiers share."""

from __future__ import annotations

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rsd_integrations.huggingface import loading
from rsd_integrations.huggingface.engine import threads_for
from rsd_integrations.huggingface.runner import Runner
from rsd_integrations.huggingface.vocabulary import Vocabulary


class CausalLM:
    """A causal language model of the transformers library.

    Calls of any threads and event loops share its forward passes: all who load a checkpoint alike share its runner.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, cache_bytes: float | None = None
    ) -> None:
        """Take over a model.

        Args:
            model: The model, on its device and in its dtype.
            tokenizer: Its tokenizer.
            name: Shown to people.
            cache_bytes: For keys and values; by default an eighth of the device's memory.

        Raises:
            ConfigurationError: The model cannot run in batches in process.
        """
        self.name = name
        self.model = model
        self.vocabulary = Vocabulary(tokenizer, model.config.vocab_size)
        flops = loading.flops_per_token(model.base_model, loading.output_head(model))
        self.flops_per_token: float | None = flops
        self.runner = Runner.of(model, threads=threads_for(flops), budget=cache_bytes)
        self.context = self.runner.context
        """Longest sequence in tokens."""
        self.eos_ids = _eos_ids(model, tokenizer)
        """Every id that ends an answer."""


def _eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Those of the generation defaults, the configuration and the tokenizer."""
    ids: set[int] = set()
    for value in (
        None if model.generation_config is None else model.generation_config.eos_token_id,
        model.config.eos_token_id,
        tokenizer.eos_token_id,
    ):
        ids.update([value] if isinstance(value, int) else value or [])
    return frozenset(ids)
