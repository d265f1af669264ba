"""Weighting policies ω: from the reward of a drafted step to the probability that it is accepted, and beyond.

The simple ones are the formulas of the paper's Table 1. Budgets, the target's expected advantage and routing rules
look at the whole request. A policy is data: it can be written as JSON or YAML (`{"kind": "binary_step", "delta": 0.7}`)
and as text (`binary_step:0.7`, `first_steps:2/budget_aware:0.1`), and read back by `parse_policy`. Other packages add
policies through entry points in the group `rsd.policies`; the entry's name is the kind, and its object is the class.
"""

from rsd_core.policies.advantage import AdvantageAware
from rsd_core.policies.base import Decision, RequestView, Route, WeightingPolicy
from rsd_core.policies.budget import BudgetAware, RequestBudget
from rsd_core.policies.fixed import AlwaysDraft, AlwaysTarget, FirstToken, Unscored
from rsd_core.policies.parsing import BUILT_IN, Policy, parse_policy
from rsd_core.policies.rules import FirstSteps, Retry, Rule, Takeover
from rsd_core.policies.weights import BinaryStep, Clipping, Constant, Logistic, Sigmoid

for _policy in (
    *(Constant, BinaryStep, Clipping, Sigmoid, Logistic, BudgetAware, RequestBudget, AdvantageAware),
    *(FirstSteps, Takeover, Retry, AlwaysDraft, AlwaysTarget, FirstToken),
):
    BUILT_IN[_policy.model_fields["kind"].default] = _policy

__all__ = [
    "AdvantageAware",
    "AlwaysDraft",
    "AlwaysTarget",
    "BinaryStep",
    "BudgetAware",
    "Clipping",
    "Constant",
    "Decision",
    "FirstSteps",
    "FirstToken",
    "Logistic",
    "Policy",
    "RequestBudget",
    "RequestView",
    "Retry",
    "Route",
    "Rule",
    "Sigmoid",
    "Takeover",
    "Unscored",
    "WeightingPolicy",
    "parse_policy",
]
