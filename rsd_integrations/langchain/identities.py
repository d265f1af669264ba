"""Identity of a LangChain model: its display name, and its key in caches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from langchain_core.language_models import BaseChatModel, BaseLLM
from langchain_core.runnables import RunnableWithFallbacks
from langchain_core.runnables.base import RunnableBindingBase

from rsd_integrations.langchain.compositions import AnyRunnable, settled, unbound
from rsd_integrations.loaded_models import identity


def model_name(model: AnyRunnable) -> str:
    """The name of the model, else of its class."""
    model = unbound(model)
    for attribute in ("model_name", "model", "model_id", "deployment_name"):
        name = getattr(model, attribute, None)
        if isinstance(name, str):
            return name
    return type(model).__name__


def fingerprint(model: AnyRunnable) -> str:
    """Identifies a model and its settings, as LangChain's own cache does; configurable ones by their configuration."""
    model = settled(model)
    if isinstance(model, RunnableBindingBase):
        return with_digest(fingerprint(model.bound), model.kwargs)
    if isinstance(model, RunnableWithFallbacks):
        return "|".join(map(fingerprint, model.runnables))
    if isinstance(model, BaseChatModel | BaseLLM) and (model.is_lc_serializable() or len(model.asdict()) > 1):
        settings = model._get_llm_string() if isinstance(model, BaseChatModel) else str(sorted(model.asdict().items()))
    elif isinstance(model, BaseChatModel | BaseLLM) and type(model).__module__.startswith("langchain_ollama"):
        settings = model.model_dump_json(exclude_unset=True)  # no identifying parameters, only fields
    else:
        return identity(model)  # the class has nothing that identifies a model
    return f"{model_name(model)}#{hashlib.sha256(settings.encode()).hexdigest()[:16]}"


def with_digest(name: str, options: Mapping[str, Any]) -> str:
    """A name that also identifies options."""
    if not options:
        return name
    settings = json.dumps(options, sort_keys=True, default=str)
    return f"{name}+{hashlib.sha256(settings.encode()).hexdigest()[:16]}"
