"""Policies as data: JSON, YAML, text, or a file that `rsd calibrate` wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from rsd_core.data import explain, from_text
from rsd_core.errors import ConfigurationError
from rsd_core.policies.advantage import AdvantageAware
from rsd_core.policies.base import WeightingPolicy
from rsd_core.policies.budget import BudgetAware, RequestBudget
from rsd_core.policies.rules import FirstSteps, Retry, Rule, Takeover
from rsd_core.policies.weights import BinaryStep, Clipping, Constant, Logistic, Sigmoid


def _data(policy: Any) -> Any:
    """What a text or the path of a JSON file says, as data."""
    if isinstance(policy, Path) or (isinstance(policy, str) and policy.endswith(".json")):
        try:
            return json.loads(Path(policy).read_text())
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"the policy file {str(policy)!r} cannot be read: {error}") from error
    if not isinstance(policy, str):
        return policy
    first, slash, rest = policy.partition("/")
    data = from_text(first, KINDS, "policy")
    if slash:
        data["then"] = rest
    return data


Policy = Annotated[
    Annotated[
        Constant
        | BinaryStep
        | Clipping
        | Sigmoid
        | Logistic
        | BudgetAware
        | RequestBudget
        | AdvantageAware
        | FirstSteps
        | Takeover
        | Retry,
        Field(discriminator="kind"),
    ],
    BeforeValidator(_data),
]
"""Any built-in policy, told apart by its `kind`, as an object, as data, or as text."""
KINDS: dict[str, type[WeightingPolicy]] = {
    policy.model_fields["kind"].default: policy
    for policy in (
        *(Constant, BinaryStep, Clipping, Sigmoid, Logistic, BudgetAware, RequestBudget, AdvantageAware),
        *(FirstSteps, Takeover, Retry),
    )
}
for _rule in (Rule, FirstSteps, Takeover, Retry):
    _rule.model_rebuild(_types_namespace={"Policy": Policy})
_adapter: TypeAdapter[Any] = TypeAdapter(Policy)


def parse_policy(policy: str | Path | dict[str, Any] | WeightingPolicy) -> WeightingPolicy:
    """Make a policy from text, from data, from a JSON file, or from a policy.

    Text is the kind, then its parameters in the order of the class or by name: `binary_step:0.7`,
    `logistic:alpha=20,delta=0.6`, `sigmoid`. Rules stand before the policy that they lead to, with slashes between:
    `first_steps:2/retry:1/budget_aware:0.1`. A text that ends with `.json` is the path of a file.

    Raises:
        ConfigurationError: Unknown kind or parameter, or a value out of its range.
    """
    if isinstance(policy, WeightingPolicy):
        return policy
    try:
        return _adapter.validate_python(policy)  # type: ignore[no-any-return]
    except ValidationError as error:
        raise ConfigurationError(f"{policy!r} is no valid policy: {explain(error)}") from error
