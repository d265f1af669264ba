"""Models and policy of a configuration in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rsd_core import RSDConfig
from rsd_core.data import masked


def described(config: RSDConfig) -> dict[str, str]:
    """Models and policy of a configuration in words, without secrets."""
    models = {role: masked(getattr(config, role)) for role in ("drafter", "verifier", "target")}
    return models | {"policy": _in_words(config.policy.model_dump(mode="json"))}


def _in_words(policy: Mapping[str, Any]) -> str:
    """A policy as `--policy` accepts it, without long values: `first_steps:2/binary_step:0.7`."""
    own = {name: value for name, value in policy.items() if name not in ("kind", "then", "version")}
    short = {name: value for name, value in own.items() if value is not None and not isinstance(value, list | dict)}
    values = [str(value) for value in short.values()] if len(own) == 1 else [f"{n}={v}" for n, v in short.items()]
    then = f"/{_in_words(policy['then'])}" if isinstance(policy.get("then"), Mapping) else ""
    return f"{policy['kind']}{':' * bool(values)}{','.join(values)}{then}"
