"""The values users give `RSDLLM` for roles, checked without loading them, and as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llama_index.core.base.llms.base import BaseLLM
from pydantic import BeforeValidator, PlainSerializer, PlainValidator

from rsd_core import ConfigurationError, Drafter, Method, Model, Target, Verifier, WeightingPolicy, parse_policy
from rsd_core.ledger import Role
from rsd_core.registry import ROLES, parse_spec
from rsd_integrations.given_fields import shown, under_one_name
from rsd_integrations.llamaindex.judges import FunctionVerifier, LlamaIndexJudge
from rsd_integrations.llamaindex.roles import LlamaIndexDrafter, LlamaIndexTarget

_WRAPPED: dict[str, tuple[Role, Callable[[Any], Model]]] = {
    "draft": ("drafter", LlamaIndexDrafter),
    "target": ("target", LlamaIndexTarget),
    "verifier": ("verifier", LlamaIndexJudge),
}
"""Fields with their roles, and the wrapper of a LlamaIndex model there."""
MODELS: dict[str, Role] = {name: role for name, (role, _) in _WRAPPED.items()}


def _as_role(name: str, value: Any) -> Any:
    role, wrap = _WRAPPED[name]
    kind = ROLES[role]
    if isinstance(value, str):
        parse_spec(value, role)
        return value
    if isinstance(value, kind):
        return value
    if isinstance(value, BaseLLM):
        return wrap(value)
    if kind is Verifier and callable(value) and not isinstance(value, Drafter | Target):
        return FunctionVerifier(value)
    also = ", or a function of (messages, reply)" if kind is Verifier else ""
    raise ConfigurationError(
        f"{shown(value)} cannot be the {role}: it is not a spec as listed by `rsd models`, a {kind.__name__}, a "
        f"LlamaIndex LLM{also}"
    )


def _as_thoughts(value: Any) -> Any:
    """Models and a policy for thoughts, checked like those of the answer."""
    if isinstance(value, Mapping):
        value = under_one_name(value)
    if not isinstance(value, Mapping) or set(value) - {*MODELS, "policy"}:
        raise ConfigurationError(f"thoughts takes a dictionary of {', '.join(MODELS)} and policy (got {shown(value)})")
    return {name: parse_policy(part) if name == "policy" else _as_role(name, part) for name, part in value.items()}


def _named(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _named(part) for name, part in value.items()}
    if isinstance(value, Method | WeightingPolicy):
        return value.model_dump(mode="json")
    return value if value is None or isinstance(value, str) else repr(value)


AS_DRAFT = PlainValidator(lambda value: _as_role("draft", value))
AS_TARGET = PlainValidator(lambda value: _as_role("target", value))
AS_VERIFIER = PlainValidator(lambda value: _as_role("verifier", value))
AS_THOUGHTS = BeforeValidator(_as_thoughts)
BY_NAME = PlainSerializer(_named)
"""Objects are not data: they are written by name, in a form that cannot pass for a spec when read back."""
