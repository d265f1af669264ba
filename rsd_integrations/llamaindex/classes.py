"""What is known of LlamaIndex's classes of models: whose they are, how fields of a request reach them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.llms import CustomLLM
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.mock import MockFunctionCallingLLM

from rsd_core import ConfigurationError


@dataclass(frozen=True, slots=True)
class Takes:
    """How the classes of one provider take fields of a request: by which names, None where it knows no such field."""

    names: Mapping[str, str | None]
    model_wide: str = ""
    """The model's own field, a dictionary, that they are put into, where options of a call are ignored."""


PROVIDERS = {
    # llama-index-llms-anthropic 0.12.3: options of a call are arguments of the SDK's `messages.create`.
    "anthropic": Takes({"stop": "stop_sequences", "seed": None}),
    # llama-index-llms-bedrock-converse 0.15.5: of the options of a call, `inferenceConfig` gets these three.
    "bedrock_converse": Takes({"top_p": None, "seed": None, "stop": None}),
    # llama-index-llms-ollama 0.11.0: options of a call are dropped without a word.
    "ollama": Takes({"max_tokens": "num_predict"}, model_wide="additional_kwargs"),
    # llama-index-llms-mistralai 0.11.0: arguments of the SDK's `chat.complete`.
    "mistralai": Takes({"seed": "random_seed"}),
}
"""What differs from options of a call by the same names. Classes are told by their package, `llama_index.llms.NAME`."""


def provider_of(llm: BaseLLM) -> str | None:
    """The package of LlamaIndex's that a model's class comes from, or the class above it; None for others."""
    for kind in type(llm).__mro__:
        if kind.__module__.startswith("llama_index.llms."):
            return kind.__module__.split(".")[2]
    return None


def model_name(llm: BaseLLM) -> str:
    """The name of the model, else of its class; never `metadata`, which some classes ask their server for."""
    for attribute in ("model", "model_name", "model_id"):
        name = getattr(llm, attribute, None)
        if isinstance(name, str) and name:
            return name
    return type(llm).__name__


def calls_tools(llm: BaseLLM) -> bool:
    """Whether a model can call tools."""
    return isinstance(llm, FunctionCallingLLM) and bool(llm.metadata.is_function_calling_model)


def only_blocks(llm: BaseLLM) -> bool:
    """Whether the asynchronous face only seems so: it calls the blocking one on the event loop, or lacks a package."""
    if provider_of(llm) == "bedrock_converse":
        return getattr(llm, "_asession", None) is None  # without aioboto3
    return type(llm).achat in (CustomLLM.achat, MockFunctionCallingLLM.achat)


def refuse(llm: BaseLLM, fields: Iterable[str]) -> None:
    """Raise `ConfigurationError` for a field that the class of a model has no way to take.

    Seeds and stop strings are obeyed by RSD itself as well, so that a class without them is none the worse.
    """
    provider = provider_of(llm)
    names = PROVIDERS.get(provider or "", Takes({})).names
    for field in fields:
        if field not in ("seed", "stop") and names.get(field, field) is None:
            raise ConfigurationError(
                f"{field} cannot reach {type(llm).__name__}: {provider} takes none with a call; leave {field} out, or "
                "set it where the model is made"
            )


def asked_with(llm: BaseLLM, fields: Mapping[str, Any]) -> tuple[BaseLLM, dict[str, Any]]:
    """A model and the options of a call that together ask for these fields.

    What the class has a field of its own for is set in a copy, whose client is the model's; the rest are options of
    the call, unless the class is known to ignore those.
    """
    takes = PROVIDERS.get(provider_of(llm) or "", Takes({}))
    named = {takes.names.get(field, field): value for field, value in fields.items()}
    own = {name: value for name, value in named.items() if name in type(llm).model_fields}
    options = {name: value for name, value in named.items() if name is not None and name not in own}
    if options and takes.model_wide:
        own[takes.model_wide] = {**(getattr(llm, takes.model_wide, None) or {}), **options}
        options = {}
    return (llm.model_copy(update=own) if own else llm), options
