"""The base of policies, and their view of the request they decide about."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Protocol

from pydantic import Field

from rsd_core.data import Data
from rsd_core.errors import ConfigurationError, RunError
from rsd_core.ledger import Ledger
from rsd_core.limits import Limits
from rsd_core.paths import Path, Step
from rsd_core.results import StepRecord
from rsd_core.settings import Settings
from rsd_core.thoughts.reading import Kind

Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Route = Literal["draft", "target", "answer"]
"""Who writes a step; `answer`: none, as the thought ends here and the answer follows."""
Decision = Literal["accept", "retry", "target", "another", "verify"]
"""The decision on a drafted step: accept it, draft another instead, let the target write the step, draft another and
put the better one to the policy, or let the stronger verifier score it first."""


class RequestView(Protocol):
    """A request as policies see it: the whole answer so far and its ledger, read-only."""

    @property
    def index(self) -> int:
        """Index of the step being decoded."""

    @property
    def attempt(self) -> int:
        """How many drafts of this step were retried before the current one."""

    @property
    def coin(self) -> float:
        """The request's random number in [0, 1) for this step and attempt."""

    @property
    def path(self) -> Path:
        """The prompt and the steps so far, as written."""

    @property
    def kind(self) -> Kind:
        """Whether the step is part of the thought or the answer."""

    @property
    def entropy(self) -> float | None:
        """Entropy of the step's first token under the drafter, in nats, if `needs_entropy`; None after a fault."""

    @property
    def rewards(self) -> Sequence[float | None]:
        """The latest rewards of the current step's drafts: of the newest candidates, or by the stronger verifier."""

    @property
    def unverified(self) -> bool:
        """Whether the stronger verifier may still score the draft (see `Verifier.stronger`)."""

    @property
    def notes(self) -> dict[object, Any]:
        """The policy's private notes on the request."""

    @property
    def records(self) -> Sequence[StepRecord]:
        """The steps so far with their authors and rewards."""

    @property
    def ledger(self) -> Ledger:
        """The work so far."""

    @property
    def settings(self) -> Settings:
        """The decoder's settings."""


class WeightingPolicy(Data):
    """Base of all policies: a policy that is a formula implements only `weight`.

    The other methods are for policies that look beyond the reward. They are called between awaits, by any number of
    requests and threads at once, so a policy that learns must guard its state.
    """

    needs_reward: ClassVar[bool] = True
    """Whether drafts are scored; if not, they are kept and the verifier is not called."""
    needs_entropy: ClassVar[bool] = False
    """Whether `route` uses the entropy of the step's first token, which the drafter must then report."""

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        super().__pydantic_init_subclass__(**options)
        if "forced" in vars(cls):  # no longer called: a budget would silently go wrong
            raise ConfigurationError(f"{cls.__name__}.forced is on_target_forced now; rename the method")

    @abstractmethod
    def weight(self, reward: float) -> float:
        """ω(reward): the probability of accepting a step with this reward, in [0, 1] and non-decreasing.

        For a policy that learns, the current ω. Calling it changes nothing.
        """

    def route(self, request: RequestView) -> Route:  # noqa: ARG002
        """Who writes the next step, called before anything is drafted; `answer` only inside a thought."""
        return "draft"

    def decide(self, step: Step, reward: float, request: RequestView) -> Decision:  # noqa: ARG002
        """The decision on a drafted step: by default Algorithm 2 of the paper."""
        weight = self.weight(reward)
        if not 0 <= weight <= 1:
            raise RunError(f"the policy {self!r} returned {weight!r} for the reward {reward!r}, not a probability")
        # The coin is in [0, 1), so it need not be drawn if it cannot matter.
        return "accept" if weight == 1 or (weight > 0 and request.coin < weight) else "target"

    def on_target_forced(self) -> None:
        """The target writes a step without a decision by this policy: a routing rule or a fault sent it there."""

    def learn(self, reward: float | None, request: RequestView) -> None:
        """The target wrote the last step of the answer.

        Args:
            reward: The verifier's score of the target's own step, if `scores_target`.
            request: The request with that step.
        """

    @property
    def learns(self) -> bool:
        """Whether decisions depend on earlier decoding."""
        return False

    @property
    def scores_target(self) -> bool:
        """Whether the target's own steps are scored too. Verifiers with a cache read them anyway sooner or later."""
        return False

    @property
    def verifies(self) -> bool:
        """Whether `verify` may be a decision; verifiers that let the policy decide require it."""
        return False

    @property
    def needs_known(self) -> Literal["flops_per_token", "price"] | None:
        """What must be known about every model for the policy to work."""
        return None

    @property
    def limits(self) -> Limits | None:
        """Hard limits that are part of the policy; the tighter of these and the settings' limits apply."""
        return None
