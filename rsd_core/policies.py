"""Weighting policies ω: from the reward of a drafted step to the probability that it is accepted.

Formulas are those of the paper, Table 1; `BudgetAware` realises the budgeted optimum of its Proposition 2.3.
A policy is data: it can be written as JSON or YAML (`{"kind": "binary_step", "delta": 0.7}`) and as text
(`binary_step:0.7`, `logistic:alpha=20,delta=0.6`), and read back by `parse_policy`.
"""

from __future__ import annotations

import bisect
import math
import threading
from abc import abstractmethod
from collections import deque
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, TypeAdapter, ValidationError

from rsd_core.errors import ConfigurationError

Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class WeightingPolicy(BaseModel):
    """Base of all policies. Non-decreasing in the reward, with values in [0, 1]."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @abstractmethod
    def weight(self, reward: float) -> float:
        """ω(reward): the probability of accepting a step with this reward."""


class Constant(WeightingPolicy):
    """ω(r) = p, blind to the reward: the control. 0 is the target alone, 1 the drafter alone."""

    kind: Literal["constant"] = "constant"
    p: Probability = 0.5

    def weight(self, reward: float) -> float:  # noqa: ARG002 - blind by definition
        return self.p


class BinaryStep(WeightingPolicy):
    """ω(r) = 1 if r ≥ δ else 0: the paper's default, with δ = 0.7, and optimal under a budget (Proposition 2.3).

    A good δ belongs to one reward model and task; never carry it over to another.
    """

    kind: Literal["binary_step"] = "binary_step"
    delta: Probability = 0.7

    def weight(self, reward: float) -> float:
        return float(reward >= self.delta)


class Clipping(WeightingPolicy):
    """ω(r) = min(1, max(0, r)): the reward is the probability."""

    kind: Literal["clipping"] = "clipping"

    def weight(self, reward: float) -> float:
        return min(1.0, max(0.0, reward))


class Sigmoid(WeightingPolicy):
    """ω(r) = max(0, r / (1 + r)), the paper's "sigmoidal": at most 1/2, so half of all steps go to the target."""

    kind: Literal["sigmoid"] = "sigmoid"

    def weight(self, reward: float) -> float:
        return max(0.0, reward / (1.0 + reward))


class Logistic(WeightingPolicy):
    """ω(r) = 1 / (1 + exp(−α (r − δ))): a soft threshold. The paper does not print its α."""

    kind: Literal["logistic"] = "logistic"
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 20.0
    """Steepness; the larger, the closer to the binary step."""
    delta: Probability = 0.7

    def weight(self, reward: float) -> float:
        x = self.alpha * (reward - self.delta)
        return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


class BudgetAware(WeightingPolicy):
    """Reject a given share of the drafted steps: those with the lowest rewards seen lately.

    The threshold is the γ-quantile of the last `memory` rewards, the present one included, and the coin is loaded at
    ties so that the share is met for discrete rewards too (Proposition 2.3: under a budget ν ≤ γ on target calls the
    optimal ω is a step at that quantile). It learns from all requests that share the policy object, so its choices
    depend on what was decoded before; `copy.deepcopy` gives a policy with an empty memory.
    """

    kind: Literal["budget_aware"] = "budget_aware"
    target_rate: Probability = 0.2
    """γ: the share of steps that may go to the target."""
    memory: Annotated[int, Field(ge=2)] = 1000
    """How many of the latest rewards the quantile is taken over."""

    _seen: Recent = PrivateAttr(default_factory=lambda: Recent())

    def weight(self, reward: float) -> float:
        below, upto = self._seen.add(reward, self.memory)
        # The rejected mass is γ: all of what lies below the quantile, and a fair part of the atom that holds it.
        return min(1.0, max(0.0, (upto - self.target_rate) / (upto - below)))


class Recent:
    """The latest rewards, in order of arrival and of size. Not part of a policy's data: copies start empty."""

    def __init__(self) -> None:
        self._order: deque[float] = deque()
        self._sorted: list[float] = []
        self._lock = threading.Lock()

    def add(self, reward: float, memory: int) -> tuple[float, float]:
        """Take in a reward; the shares of the latest rewards that are below it, and below or equal."""
        with self._lock:
            if len(self._order) == memory:
                del self._sorted[bisect.bisect_left(self._sorted, self._order.popleft())]
            self._order.append(reward)
            bisect.insort(self._sorted, reward)
            n = len(self._sorted)
            return bisect.bisect_left(self._sorted, reward) / n, bisect.bisect_right(self._sorted, reward) / n

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recent)

    __hash__ = None  # type: ignore[assignment]

    def __deepcopy__(self, memo: object) -> Recent:
        return Recent()

    def __reduce__(self) -> tuple[type[Recent], tuple[()]]:
        return Recent, ()


Policy = Annotated[Constant | BinaryStep | Clipping | Sigmoid | Logistic | BudgetAware, Field(discriminator="kind")]
"""Any built-in policy, told apart by its `kind`."""
_adapter: TypeAdapter[Any] = TypeAdapter(Policy)
_built_in: tuple[type[WeightingPolicy], ...] = (Constant, BinaryStep, Clipping, Sigmoid, Logistic, BudgetAware)
_by_kind = {policy.model_fields["kind"].default: policy for policy in _built_in}


def parse_policy(policy: str | dict[str, Any] | WeightingPolicy) -> WeightingPolicy:
    """Make a policy from text, from data, or from a policy.

    Text is the kind, then its parameters in the order of the class or by name: `binary_step:0.7`,
    `logistic:alpha=20,delta=0.6`, `sigmoid`.

    Raises:
        ConfigurationError: Unknown kind or parameter, or a value out of its range.
    """
    if isinstance(policy, WeightingPolicy):
        return policy
    data = _from_text(policy) if isinstance(policy, str) else policy
    try:
        return _adapter.validate_python(data)  # type: ignore[no-any-return]
    except ValidationError as error:
        raise ConfigurationError(f"{policy!r} is no valid policy: {explain(error)}") from error


def _from_text(text: str) -> dict[str, Any]:
    kind, _, rest = text.strip().partition(":")
    if kind not in _by_kind:
        raise ConfigurationError(f"unknown policy {kind!r}; known are {', '.join(_by_kind)}")
    fields = [name for name in _by_kind[kind].model_fields if name != "kind"]
    data: dict[str, Any] = {"kind": kind}
    for position, part in enumerate(filter(None, rest.split(","))):
        name, equals, value = part.partition("=")
        if not equals:
            if position >= len(fields):
                raise ConfigurationError(f"{text!r} has more values than {kind} has parameters ({', '.join(fields)})")
            name, value = fields[position], part
        data[name.strip()] = value.strip()
    return data


def explain(error: ValidationError) -> str:
    """The findings of pydantic in one line: where, what is wrong, and the value."""
    found = []
    for item in error.errors(include_url=False):
        where = ".".join(str(part) for part in item["loc"] if part not in _by_kind)
        found.append(
            f"{where + ': ' if where else ''}{item['msg'].removeprefix('Value error, ')} (got {item['input']!r})"
        )
    return "; ".join(found)
