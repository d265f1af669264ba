"""Policies as data: JSON, YAML, text, or a file that `rsd calibrate` wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny, ValidationError

from rsd_core.data import explain, from_text, of_kind
from rsd_core.errors import ConfigurationError
from rsd_core.plugins import Registry, of_class
from rsd_core.policies.base import WeightingPolicy

BUILT_IN: dict[str, type[WeightingPolicy]] = {}
"""Filled by the package: rules are policies that contain policies, so importing them here would be circular."""
POLICIES = Registry("policy", "rsd.policies", BUILT_IN, of_class(WeightingPolicy))  # type: ignore[type-abstract]
"""All known policies by kind, including those of installed packages."""


def parse_policy(policy: str | Path | dict[str, Any] | WeightingPolicy) -> WeightingPolicy:
    """Make a policy from text, from data, from a JSON file, or from a policy.

    Text is the kind, then its parameters in the order of the class or by name: `binary_step:0.7`,
    `logistic:alpha=20,delta=0.6`, `sigmoid`. Rules come before the policy they lead to, separated by slashes:
    `first_steps:2/retry:1/budget_aware:0.1`. A text that ends with `.json` is the path of a file: a policy, or the
    report of a calibration (`rsd calibrate --json`), whose chosen policy is taken.

    Raises:
        ConfigurationError: Unknown kind or parameter, or a value out of its range.
    """
    try:
        return _parse(policy)
    except ValidationError as error:
        raise ConfigurationError(f"{policy!r} is not a valid policy: {explain(error)}") from error


def _parse(policy: Any) -> WeightingPolicy:
    """The same, with errors that pydantic can locate in a larger object."""
    if isinstance(policy, WeightingPolicy):
        return policy
    if isinstance(policy, Path) or (isinstance(policy, str) and policy.endswith(".json")):
        policy = _read(policy)
    elif isinstance(policy, str):
        policy = _from_text(policy)
    return of_kind(policy, POLICIES, "policy")


def _read(file: str | Path) -> Any:
    try:
        data = json.loads(Path(file).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigurationError(f"the policy file {str(file)!r} cannot be read: {why}") from error
    if not (isinstance(data, dict) and "policy" in data):
        return data
    if data["policy"] is None:
        raise ConfigurationError(f"{str(file)!r} is the report of a calibration that chose no policy")
    return data["policy"]


def _from_text(text: str) -> dict[str, Any]:
    first, slash, rest = text.partition("/")
    data = from_text(first, POLICIES, "policy")
    if slash:
        if "then" not in POLICIES[data["kind"]].model_fields:
            raise ConfigurationError(f"{text!r}: {data['kind']} is not a rule, so no policy may follow it")
        data["then"] = rest
    return data


Policy = Annotated[SerializeAsAny[WeightingPolicy], BeforeValidator(_parse)]
"""A field that holds any policy, as an object, as data, or as text: built-in, from a package, or custom."""
