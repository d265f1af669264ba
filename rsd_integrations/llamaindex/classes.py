"""Facts about LlamaIndex's model classes: their provider, and how request fields reach them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.base.llms.types import LLMMetadata
from llama_index.core.llms import CustomLLM
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.mock import MockFunctionCallingLLM

from rsd_core import ConfigurationError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Takes:
    """How one provider's classes accept request fields: the names, or None if unsupported."""

    names: Mapping[str, str | None]
    model_wide: str = ""
    """The model's dictionary field for them, if call options are ignored."""


PROVIDERS = {
    # llama-index-llms-anthropic 0.12.3: options of a call are arguments of the SDK's `messages.create`.
    "anthropic": Takes({"stop": "stop_sequences", "seed": None}),
    # llama-index-llms-bedrock-converse 0.15.5: of the options of a call, `inferenceConfig` gets these three.
    "bedrock_converse": Takes({"top_p": None, "top_k": None, "seed": None, "stop": None}),
    # llama-index-llms-ollama 0.11.0: call options are silently dropped.
    "ollama": Takes({"max_tokens": "num_predict"}, model_wide="additional_kwargs"),
    # llama-index-llms-mistralai 0.11.0: arguments of the SDK's `chat.complete`.
    "mistralai": Takes({"seed": "random_seed", "top_k": None}),
    # Arguments of OpenAI's SDK, which has no such one.
    **dict.fromkeys(("openai", "openai_like", "azure_openai"), Takes({"top_k": None})),
}
"""Deviations from call options of the same names. Classes are identified by their package, `llama_index.llms.NAME`."""


def provider_of(llm: BaseLLM) -> str | None:
    """The LlamaIndex package of a model's class or its base; None for others."""
    for kind in type(llm).__mro__:
        if kind.__module__.startswith("llama_index.llms."):
            return kind.__module__.split(".")[2]
    return None


def model_name(llm: BaseLLM) -> str:
    """The name of the model, else of its class; never `metadata`, which some classes request from their server."""
    for attribute in ("model", "model_name", "model_id"):
        name = getattr(llm, attribute, None)
        if isinstance(name, str) and name:
            return name
    return type(llm).__name__


def metadata_of(llm: BaseLLM) -> LLMMetadata | None:
    """A model's metadata; None if its class requests it from a server that is unavailable."""
    try:
        return llm.metadata
    except Exception as error:
        logger.info("%s has no metadata: %r", model_name(llm), error)
        return None


def calls_tools(llm: BaseLLM) -> bool:
    """Whether a model can call tools."""
    told = metadata_of(llm) or llm  # some classes have a field with that name
    return isinstance(llm, FunctionCallingLLM) and bool(getattr(told, "is_function_calling_model", True))


def only_blocks(llm: BaseLLM) -> bool:
    """Whether only the blocking method is usable: the other calls it on the event loop, or lacks a package."""
    if provider_of(llm) == "bedrock_converse":
        return getattr(llm, "_asession", None) is None  # without aioboto3
    return type(llm).achat in (CustomLLM.achat, MockFunctionCallingLLM.achat)


def refuse(llm: BaseLLM, fields: Iterable[str]) -> None:
    """Raise `ConfigurationError` for a field that a model's class cannot accept.

    RSD itself also handles seeds and stop strings, so classes without them lose nothing.
    """
    provider = provider_of(llm)
    names = PROVIDERS.get(provider or "", Takes({})).names
    for field in fields:
        if field not in ("seed", "stop") and names.get(field, field) is None:
            raise ConfigurationError(
                f"{field} cannot reach {type(llm).__name__}: {provider} does not accept it with a call; remove "
                f"{field}, or set it when creating the model"
            )


def asked_with(llm: BaseLLM, fields: Mapping[str, Any]) -> tuple[BaseLLM, dict[str, Any]]:
    """A model and call options that together set these fields.

    Fields that the class itself has are set in a copy, which shares the client; the rest become call options, unless
    the class is known to ignore those.
    """
    takes = PROVIDERS.get(provider_of(llm) or "", Takes({}))
    named = {takes.names.get(field, field): value for field, value in fields.items()}
    own = {name: value for name, value in named.items() if name in type(llm).model_fields}
    options = {name: value for name, value in named.items() if name is not None and name not in own}
    if options and takes.model_wide:
        own[takes.model_wide] = {**(getattr(llm, takes.model_wide, None) or {}), **options}
        options = {}
    return (llm.model_copy(update=own) if own else llm), options
