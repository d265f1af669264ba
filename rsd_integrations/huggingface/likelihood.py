"""Causal language models of transformers as likelihood verifiers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rsd_integrations.huggingface import dtypes, loading, memory
from rsd_integrations.huggingface.bare_model import BareModel
from rsd_integrations.huggingface.causal_lm import CausalLM, parts_of
from rsd_integrations.huggingface.from_pretrained import load_tokenizer
from rsd_integrations.inprocess.chat_template import chat_template
from rsd_integrations.inprocess.likelihood import How, LikelihoodVerifier

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from rsd_integrations.huggingface.bare_tokenizer import BareTokenizer


class HuggingFaceLikelihood(CausalLM, LikelihoodVerifier):
    """Scores a step by its likelihood under a causal language model of the transformers library."""

    def __init__(
        self,
        model: PreTrainedModel | BareModel,
        tokenizer: PreTrainedTokenizerBase | BareTokenizer,
        name: str,
        how: How = "min",
        cache_bytes: float | None = None,
        template: Mapping[str, Any] | None = None,
    ) -> None:
        """Take over a model; `how` as for `LikelihoodVerifier`, the rest as for `parts_of`."""
        super().__init__(*parts_of(model, tokenizer, name, cache_bytes, template), how)


def load_likelihood(
    model: str,
    *,
    how: How = "min",
    dtype: str | None = None,
    device: str | None = None,
    allow_pickles: bool = False,
    cache_bytes: float | None = None,
    template: Mapping[str, Any] | None = None,
) -> HuggingFaceLikelihood:
    """Load a causal language model as a likelihood verifier; arguments and errors as for `load_generator`.

    `how` is as for `LikelihoodVerifier`.
    """
    where = loading.choose_device(device)
    kind = dtypes.named_dtype(dtype, where)
    folder = loading.find(model, allow_pickles)
    files = loading.shards(folder, model, allow_pickles)
    kind = kind or dtypes.default_dtype(where, files, model)
    memory.config_of(loading.read_config(folder), model)  # refuses what does not run in process
    tokenizer = load_tokenizer(folder)
    chat_template(tokenizer, template)  # refuses unused arguments before the weights are read
    weights = loading.load_causal_lm(folder, kind, where, allow_pickles)
    return HuggingFaceLikelihood(weights, tokenizer, model, how, cache_bytes, template)
