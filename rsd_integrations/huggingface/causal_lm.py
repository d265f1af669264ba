"""A causal language model with its tokenizer and its runner: what drafters, targets and likelihood verifiers share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rsd_integrations.huggingface import loading
from rsd_integrations.huggingface.bare_model import BareModel
from rsd_integrations.huggingface.engine import threads_for
from rsd_integrations.huggingface.runner import Runner
from rsd_integrations.huggingface.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from rsd_integrations.huggingface.bare_tokenizer import BareTokenizer


class CausalLM:
    """A causal language model of the transformers library.

    Calls of any threads and event loops share its forward passes: all who load a checkpoint alike share its runner.
    """

    def __init__(
        self,
        model: PreTrainedModel | BareModel,
        tokenizer: PreTrainedTokenizerBase | BareTokenizer,
        name: str,
        cache_bytes: float | None = None,
        template: Mapping[str, Any] | None = None,
    ) -> None:
        """Take over a model.

        Args:
            model: The model, on its device and in its dtype.
            tokenizer: Its tokenizer.
            name: Shown to people.
            cache_bytes: For keys and values; by default an eighth of the device's memory.
            template: Arguments of its chat template, such as `enable_thinking`.

        Raises:
            ConfigurationError: The model cannot run in batches in process, or its chat template uses no such argument.
        """
        self.name = name
        self.vocabulary = Vocabulary(tokenizer, model.config.vocab_size, template)
        flops = loading.flops_of(model)
        self.flops_per_token: float | None = flops
        self.runner = Runner.of(model, threads=threads_for(flops), budget=cache_bytes)
        self.context = self.runner.context
        """Longest sequence in tokens."""
        self.eos_ids = _eos_ids(model, tokenizer)
        """Every id that ends an answer."""

    @property
    def model(self) -> PreTrainedModel:
        """The model of transformers; made when it is first asked for, where its weights were read without."""
        return loading.of_transformers(self.runner.model)


def _eos_ids(model: PreTrainedModel | BareModel, tokenizer: PreTrainedTokenizerBase | BareTokenizer) -> frozenset[int]:
    """Those of the generation defaults, the configuration and the tokenizer."""
    ids: set[int] = set()
    for value in (
        None if model.generation_config is None else model.generation_config.eos_token_id,
        model.config.eos_token_id,
        tokenizer.eos_token_id,
    ):
        ids.update([value] if isinstance(value, int) else value or [])
    return frozenset(ids)
