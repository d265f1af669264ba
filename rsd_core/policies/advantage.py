"""Accept drafts that the target would not improve on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from rsd_core.limits import Amount
from rsd_core.paths import Step
from rsd_core.policies.base import Decision, Probability, RequestView, Route, WeightingPolicy
from rsd_core.policies.computation import Action, Note, Outcomes, Unit, improvement, spent
from rsd_core.policies.online_quantile import Budget
from rsd_core.policies.regression import Regression
from rsd_core.results import StepRecord


class AdvantageAware(WeightingPolicy):
    """Accept a draft whose reward is at least what the target is expected to reach here.

    E_RSD[r] = R_M + E_m[ω (r − R_M)], with R_M the expected reward of the target's step: without a budget ω should be 1
    exactly if r ≥ R_M. A low reward alone is no reason to call a target that would do no better. Under a budget of γ
    target calls per step, the calls go where the advantage R_M − r is largest.

    R_M is learned online: the verifier scores the target's own steps, and ridge regression predicts that score from the
    drafted step's reward, the position, and the reward of the step before, which shows whether the answer is already
    spoiled. All requests of the policy object share what it learns.

    Instead of a share of steps, `reward_per_cost` sets a price on computation: λ, the reward that a unit of cost must
    bring. Of the possible actions on a draft, the one with the highest value after its cost is taken (the value of
    computation, one action ahead; Russell and Wefald 1991, and as a reward for reasoning in arXiv 2410.05563):

    - accept: r;
    - target: R_M − λ c;
    - another draft, of which the better is kept: E[max(R', v)] − λ c, with v the larger of the two values above;
    - the stronger verifier, if the verifier lets the policy decide: E[max(R*, R_M − λ c)] − λ c';
    - in a thought, with `stops`: answer now, unless one more step is expected to raise the answer's reward by λ times
      its cost.

    The gain and cost of each action are learned online as well, costs from the ledger.
    """

    kind: Literal["advantage_aware"] = "advantage_aware"
    target_rate: Probability | None = None
    """γ: the largest share of steps that may go to the target; None for no budget."""
    prior: Probability = 0.7
    """The target's expected reward before any observation."""
    explore: Probability = 0.02
    """Share of good drafts rejected anyway, to keep the estimate of the target's reward current."""
    memory: Annotated[int, Field(ge=2)] = 1000
    """About how many of the target's latest steps the estimate uses, and how many rewards the budget's quantile."""
    horizon: Annotated[int, Field(ge=1)] = 100
    """Steps over which a deviation from the budget is corrected."""

    reward_per_cost: Amount | None = None
    """λ: the reward that a unit of cost (see `cost_in`) must bring; an alternative to `target_rate`."""
    cost_in: Unit = "flops"
    """The unit of cost: 10¹² FLOPs, a second of model time, or one unit of money."""
    drafts: Annotated[int, Field(ge=1, le=64)] = 3
    """Maximum number of drafts per step, if computation has a price."""
    stops: bool = False
    """Whether a thought may be ended early, if computation has a price. The same policy must also decide about the
    answer, since that is how it learns what a thought was worth."""

    _expected: Regression = PrivateAttr()
    _budget: Budget = PrivateAttr()
    _outcomes: Outcomes = PrivateAttr()

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if self.reward_per_cost is not None and self.target_rate is not None:
            raise ValueError(
                f"target_rate={self.target_rate} with reward_per_cost={self.reward_per_cost}: give a share of the "
                "steps, or a price"
            )
        if self.stops and self.reward_per_cost is None:
            raise ValueError("stops=true needs a price: give reward_per_cost, in reward per unit of cost_in")
        return self

    def model_post_init(self, context: Any) -> None:  # noqa: ARG002
        """Start from the prior."""
        self._outcomes = Outcomes(self.prior, 1 - 1 / self.memory)
        self._expected = Regression(self.prior, 1 - 1 / self.memory)
        self._budget = Budget(1.0 if self.target_rate is None else self.target_rate, self.horizon, self.memory)

    def expected(self, reward: float, before: Sequence[StepRecord] = ()) -> float:
        """R_M: the target's expected reward after some steps, given the draft's reward."""
        return self._expected.predict(_features(reward, before))

    def weight(self, reward: float) -> float:
        """ω at the first step of an answer."""
        if self.reward_per_cost is not None:
            return 1 - self.explore if self._best(self._options(reward)) == "accept" else 0.0
        advantage = self.expected(reward) - reward
        if advantage <= 0:
            return 1 - self._exploration
        return 0.0 if self.target_rate is None else self._budget.weight(-advantage)

    def route(self, request: RequestView) -> Route:
        if not self.stops or request.kind == "answer" or not request.records:
            return "draft"
        steps, last = len(request.records), _last(request.records)
        now = spent(request, self.cost_in)
        before = request.notes.get((id(self), "step"))
        if before is not None:
            self._outcomes.paid("step", now - before)
        request.notes[id(self), "step"] = now
        gain = self._outcomes.answer(last, steps + 1) - self._outcomes.answer(last, steps)
        return "answer" if gain < self._price("step") or request.coin > 1 - self.explore else "draft"

    def decide(self, step: Step, reward: float, request: RequestView) -> Decision:  # noqa: ARG002
        if self.reward_per_cost is not None:
            return self._decide_by_price(reward, request)
        advantage = self.expected(reward, request.records) - reward
        if advantage <= 0 and request.coin < self._exploration:
            self._budget.force()
            return "target"
        if self.target_rate is None:
            return "accept" if advantage <= 0 else "target"
        return "accept" if self._budget.decide(-advantage, request.coin, surely=advantage <= 0) else "target"

    def _decide_by_price(self, reward: float, request: RequestView) -> Decision:
        self._observe(request)
        options = self._options(reward, request.records, request.attempt, verifies=request.unverified)
        action = self._best(options)
        if request.coin < self.explore and (others := [one for one in options if one not in ("accept", action)]):
            action = others[int(request.coin / self.explore * len(others))]
        features, now = _features(reward, request.records), spent(request, self.cost_in)
        request.notes[id(self)] = Note(request.index, action, reward, features, now)
        return action

    def _options(
        self, reward: float, before: Sequence[StepRecord] = (), attempt: int = 0, *, verifies: bool = False
    ) -> dict[Action, float]:
        """The value of each action, in reward, net of its cost."""
        outcomes, features = self._outcomes, _features(reward, before)

        def judged(value: float) -> float:
            """What the stronger verifier would say, if there is one."""
            return min(1.0, max(0.0, value + outcomes.verdict.predict(_features(value, before))))

        accept = judged(reward) if verifies else reward
        target = judged(self._expected.predict(features)) - self._price("target")
        best = max(accept, target)
        options: dict[Action, float] = {"accept": accept, "target": target}
        if attempt + 1 < self.drafts:
            gain = improvement(judged(outcomes.another.predict(features)), outcomes.another.deviation, best)
            options["another"] = best + gain - self._price("another")
        if verifies:
            gain = improvement(accept, outcomes.verdict.deviation, target)
            options["verify"] = target + gain - self._price("verify")
        return options

    @staticmethod
    def _best(options: dict[Action, float]) -> Action:
        return max(options, key=options.__getitem__)  # the first of equal ones, which is to accept

    def _price(self, action: str) -> float:
        """The cost of an action, in reward."""
        return (self.reward_per_cost or 0.0) * self._outcomes.cost(action)

    def _observe(self, request: RequestView) -> None:
        """Learn from the outcome of the last action on this step, and from the worth of a thought."""
        outcomes, rewards, records = self._outcomes, request.rewards, request.records
        note: Note | None = request.notes.get(id(self))
        if note is not None and note.index == request.index:
            outcomes.paid(note.action, spent(request, self.cost_in) - note.spent)
            if rewards and (latest := rewards[-1]) is not None:
                if note.action == "verify":
                    outcomes.verdict.add(note.features, latest - note.reward)
                else:
                    outcomes.another.add(note.features, latest)
        elif self.stops and request.kind == "answer" and records and records[-1].kind == "thought" and rewards:
            closed = records[-1].author == "limit"
            if (first := rewards[-1]) is not None:
                outcomes.answered(_last(records), len(records) - closed, first)

    @property
    def needs_known(self) -> Literal["flops_per_token", "price"] | None:
        if self.reward_per_cost is None or self.cost_in == "seconds":
            return None
        return "flops_per_token" if self.cost_in == "flops" else "price"

    @property
    def verifies(self) -> bool:
        return self.reward_per_cost is not None

    @property
    def _exploration(self) -> float:
        return self.explore if self.target_rate is None else min(self.explore, self.target_rate)

    def on_target_forced(self) -> None:
        self._budget.force()

    @property
    def learns(self) -> bool:
        return True

    @property
    def scores_target(self) -> bool:
        return True

    def learn(self, reward: float | None, request: RequestView) -> None:
        note: Note | None = request.notes.pop(id(self), None)
        if note is not None and note.action == "target":
            self._outcomes.paid("target", spent(request, self.cost_in) - note.spent)
        *before, last = request.records
        if reward is not None and last.reward is not None:
            self._expected.add(_features(last.reward, before), reward)


def _features(reward: float, before: Sequence[StepRecord]) -> tuple[float, ...]:
    last = before[-1].own_reward if before else None
    return (1.0, reward, 1.0 if last is None else last, 1 / (1 + len(before)))


def _last(records: Sequence[StepRecord]) -> float:
    """The reward of the last scored step."""
    return next((record.own_reward for record in reversed(records) if record.own_reward is not None), 1.0)
