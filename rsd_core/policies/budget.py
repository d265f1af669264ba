"""Policies with a budget instead of a threshold: a share of all steps, or a fixed amount per request."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from rsd_core.ledger import Account
from rsd_core.limits import Amount, Limits
from rsd_core.paths import Step
from rsd_core.policies.base import Decision, Probability, RequestView, WeightingPolicy
from rsd_core.policies.online_quantile import Budget, Learned, Recent

Memory = Annotated[int, Field(ge=2)]
Rewards = tuple[Probability, ...]


class BudgetAware(WeightingPolicy):
    """Send a given share of all steps to the target: those with the lowest draft rewards.

    Proposition 2.3 of the paper, online: under a budget ν ≤ γ on target calls the optimal ω is a step at the
    γ-quantile of the drafter's rewards, with a biased coin at ties. The quantile is taken over the latest rewards, and
    over- or underspending is corrected over the next steps. So |share − γ| ≤ (horizon + 1) / n after n steps, for any
    rewards in any order, however many requests decide at once. Steps sent to the target by a routing rule or a fault
    are paid from the same budget, as far as it goes.

    It learns from all requests that share the policy object, so its choices depend on earlier decoding; `copy.deepcopy`
    returns a policy with only its warm start.
    """

    kind: Literal["budget_aware"] = "budget_aware"
    target_rate: Probability = 0.2
    """γ: the share of steps that go to the target."""
    memory: Memory = 1000
    """How many of the latest rewards the quantile is taken over; fewer follow drift faster."""
    horizon: Annotated[int, Field(ge=1)] = 100
    """Steps over which a deviation from the budget is corrected. Fewer keep closer to it, but decide less well."""
    warm_start: Rewards = ()
    """Initial rewards of drafted steps, as written by `rsd calibrate`."""

    _budget: Budget = PrivateAttr()

    def model_post_init(self, context: Any) -> None:  # noqa: ARG002
        """Begin with the warm start."""
        self._budget = Budget(self.target_rate, self.horizon, self.memory, self.warm_start)

    @property
    def learns(self) -> bool:
        return True

    def weight(self, reward: float) -> float:
        return self._budget.weight(reward)

    def decide(self, step: Step, reward: float, request: RequestView) -> Decision:  # noqa: ARG002
        return "accept" if self._budget.decide(reward, request.coin) else "target"

    def on_target_forced(self) -> None:
        self._budget.force()


class RequestBudget(WeightingPolicy):
    """Spend a fixed amount on the target in each request, where it is worth most.

    At each step the remaining budget is divided by the cost of a target call and by the number of steps still expected;
    that share of the drafts, those with the lowest rewards, goes to the target. Answer lengths, call costs and rewards
    are learned from all requests that share the policy object. The budget is hard (see `Limits`).
    """

    kind: Literal["request_budget"] = "request_budget"
    calls: Annotated[int, Field(ge=0)] | None = None
    """Calls of the target."""
    tokens: Annotated[int, Field(ge=0)] | None = None
    """Tokens written by the target."""
    flops: Amount | None = None
    """FLOPs of all tokens computed by the target."""
    cost: Amount | None = None
    """Money for the target, in the currency of its price."""
    steps: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 8.0
    """Expected number of steps per answer, before any observation."""
    memory: Memory = 1000
    """How many of the latest rewards the quantile is taken over."""
    warm_start: Rewards = ()
    """Initial rewards of drafted steps."""

    _plan: Plan = PrivateAttr()

    @model_validator(mode="after")
    def _some_budget(self) -> Self:
        if not self._budgets():
            raise ValueError("give calls, tokens, flops or cost, such as request_budget:calls=3")
        return self

    def model_post_init(self, context: Any) -> None:  # noqa: ARG002
        """Begin with the warm start."""
        self._plan = Plan(self.steps, self.memory, self.warm_start)

    @property
    def learns(self) -> bool:
        return True

    @property
    def limits(self) -> Limits:
        return Limits(
            max_target_calls=self.calls,
            max_target_tokens=self.tokens,
            max_target_flops=self.flops,
            max_target_cost=self.cost,
        )

    def weight(self, reward: float) -> float:
        """ω at the first step of a request."""
        with self._plan.lock:
            return self._plan.recent.weight(reward, self._rate(0, Account()))

    def decide(self, step: Step, reward: float, request: RequestView) -> Decision:  # noqa: ARG002
        with self._plan.lock:
            self._plan.reach(request.index)
            rate = self._rate(request.index, request.ledger.target)
            accepted = request.coin < self._plan.recent.weight(reward, rate)
            self._plan.recent.add(reward)
        return "accept" if accepted else "target"

    def learn(self, reward: float | None, request: RequestView) -> None:  # noqa: ARG002
        with self._plan.lock:
            self._plan.paid(request.ledger.target)

    def _budgets(self) -> dict[str, float]:
        budgets = {"calls": self.calls, "generated": self.tokens, "flops": self.flops, "cost": self.cost}
        return {name: budget for name, budget in budgets.items() if budget is not None}

    def _rate(self, index: int, spent: Account) -> float:
        """Share of the remaining steps that the remaining budget covers; 0 if it does not cover a whole one."""
        calls = min(
            (budget - (getattr(spent, name) or 0)) / self._plan.price(name, budget)
            for name, budget in self._budgets().items()
        )
        return calls / self._plan.ahead(index) if calls >= 1 else 0.0


class Plan(Learned):
    """Forecast for future answers: their length, and the cost of a target call."""

    _TRUST = 4.0
    """Weight of the prior expectation, in answers."""

    def __init__(self, steps: float, memory: int, start: Rewards) -> None:
        super().__init__(steps, memory, start)
        self.recent = Recent(memory, start)
        self._steps = steps
        self._reached = Counter[int]()
        self._paid: dict[str, float] = {}

    def reach(self, index: int) -> None:
        """Count an answer that reached this step."""
        self._reached[index] += 1

    def ahead(self, index: int) -> float:
        """Steps expected from this one on, itself included: the mean residual life of answers that got here.

        Observed answers count by how many reached each step; a priori, lengths are taken to be geometric.
        """
        trust = self._TRUST * (1 - 1 / self._steps) ** index
        if trust + self._reached[index] == 0:
            return 1.0
        later = sum(count for i, count in self._reached.items() if i >= index)
        return max(1.0, (later + trust * self._steps) / (self._reached[index] + trust))

    def paid(self, target: Account) -> None:
        """Add a request's average cost of a call so far, after each call; the latest twenty or so count most."""
        for name in ("generated", "flops", "cost"):
            amount = getattr(target, name)
            if amount and target.calls:
                last = self._paid.get(name, amount / target.calls)
                self._paid[name] = last + (amount / target.calls - last) / 20

    def price(self, name: str, unknown: float) -> float:
        """The cost of a target call; before the first one, the whole budget."""
        return 1.0 if name == "calls" else self._paid.get(name, unknown) or 1.0
