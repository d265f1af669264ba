"""Causal language models of transformers as drafter and target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rsd_integrations.huggingface import dtypes, loading, memory
from rsd_integrations.huggingface.bare_model import BareModel
from rsd_integrations.huggingface.causal_lm import CausalLM, parts_of
from rsd_integrations.huggingface.from_pretrained import load_tokenizer
from rsd_integrations.huggingface.speculating import SpeculativeGenerator
from rsd_integrations.inprocess.chat_template import chat_template

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from rsd_integrations.huggingface.bare_tokenizer import BareTokenizer


class HuggingFaceGenerator(CausalLM, SpeculativeGenerator):
    """A causal language model of the transformers library that generates steps."""

    def __init__(
        self,
        model: PreTrainedModel | BareModel,
        tokenizer: PreTrainedTokenizerBase | BareTokenizer,
        name: str,
        cache_bytes: float | None = None,
        template: Mapping[str, Any] | None = None,
    ) -> None:
        """Take over a model; arguments and errors as for `parts_of`."""
        super().__init__(*parts_of(model, tokenizer, name, cache_bytes, template))


def load_generator(
    model: str,
    *,
    dtype: str | None = None,
    device: str | None = None,
    allow_pickles: bool = False,
    cache_bytes: float | None = None,
    template: Mapping[str, Any] | None = None,
) -> HuggingFaceGenerator:
    """Load a causal language model as drafter or target.

    Args:
        model: Hub id or folder.
        dtype: `float32`, `bfloat16`, `float16`, or on a CPU `int8` (the weights of all layers but the output head); by
            default bf16; on a CPU fp32 below 50 million weights, and if the processor has no bf16 instructions.
        device: Device in torch's notation; by default a GPU if there is one.
        allow_pickles: Also read weights that are not safetensors. They can run code: only for sources you trust.
        cache_bytes: Memory for keys and values; by default an eighth of the device's memory.
        template: Chat template arguments, such as `{"enable_thinking": False}`.

    Raises:
        ConfigurationError: There is no such checkpoint, it has no safetensors, or its chat template does not use an
            argument.
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
    return HuggingFaceGenerator(weights, tokenizer, model, cache_bytes, template)
