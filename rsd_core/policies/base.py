"""What a policy is, and what it may see of the request it decides about."""

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
"""Who writes a step; `answer`: nobody, for the thought ends here and the answer follows."""
Decision = Literal["accept", "retry", "target", "another", "verify"]
"""What becomes of a drafted step: it is accepted, another one is drafted instead, the target writes the step, another
one is drafted and the better of both goes before the policy, or the verifier's dearer part judges it first."""


class RequestView(Protocol):
    """A request as policies see it: the whole answer so far and its ledger, to be read only."""

    @property
    def index(self) -> int:
        """Index of the step that is being decoded."""

    @property
    def attempt(self) -> int:
        """How many drafts of this step were retried before the present one."""

    @property
    def coin(self) -> float:
        """The request's own random number in [0, 1) for this attempt at this step."""

    @property
    def path(self) -> Path:
        """The prompt and the steps so far, as they were written."""

    @property
    def kind(self) -> Kind:
        """What the step is part of: the thought, or the answer."""

    @property
    def entropy(self) -> float | None:
        """Entropy of the step's first token under the drafter, in nats, where `needs_entropy`; None after a fault."""

    @property
    def rewards(self) -> Sequence[float | None]:
        """What was said last of the present step's drafts: of the latest candidates, or by the dearer verifier."""

    @property
    def unverified(self) -> bool:
        """Whether the dearer verifier may still be asked about the draft, see `Verifier.dearer`."""

    @property
    def notes(self) -> dict[object, Any]:
        """What the policy wants to remember of the request; nobody else reads it."""

    @property
    def records(self) -> Sequence[StepRecord]:
        """The steps so far with their authors and rewards."""

    @property
    def ledger(self) -> Ledger:
        """What was spent so far."""

    @property
    def settings(self) -> Settings:
        """The decoder's settings."""


class WeightingPolicy(Data):
    """Base of all policies: a policy that is a formula writes `weight` and nothing else.

    The other methods are for policies that look further than the reward. They are called between awaits, by any
    number of requests and threads at once, so a policy that learns guards its state.
    """

    needs_reward: ClassVar[bool] = True
    """Whether drafts are scored; if not, they are kept, and no verifier is asked."""
    needs_entropy: ClassVar[bool] = False
    """Whether `route` looks at the entropy of the step's first token, which the drafter then has to tell."""

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        super().__pydantic_init_subclass__(**options)
        if "forced" in vars(cls):  # never called any more: a budget would go wrong without a word
            raise ConfigurationError(f"{cls.__name__}.forced is on_target_forced now; rename the method")

    @abstractmethod
    def weight(self, reward: float) -> float:
        """ω(reward): the probability of accepting a step with this reward, in [0, 1] and non-decreasing.

        For a policy that learns, ω as it stands. Asking changes nothing.
        """

    def route(self, request: RequestView) -> Route:  # noqa: ARG002
        """Who writes the next step, asked before anything is drafted; `answer` only inside of a thought."""
        return "draft"

    def decide(self, step: Step, reward: float, request: RequestView) -> Decision:  # noqa: ARG002
        """What becomes of a drafted step: Algorithm 2 of the paper, unless a policy knows better."""
        weight = self.weight(reward)
        if not 0 <= weight <= 1:
            raise RunError(f"the policy {self!r} gave {weight!r} for the reward {reward!r}, no probability")
        # The coin is in [0, 1): it need not be drawn where it cannot matter.
        return "accept" if weight == 1 or (weight > 0 and request.coin < weight) else "target"

    def on_target_forced(self) -> None:
        """The target writes a step that this policy was not asked about: a routing rule or a fault sent it there."""

    def learn(self, reward: float | None, request: RequestView) -> None:
        """The target wrote the last step of the answer.

        Args:
            reward: The verifier's score of the target's own step, where `scores_target` asked for it.
            request: The request with that step.
        """

    @property
    def learns(self) -> bool:
        """Whether decisions depend on what was decoded before."""
        return False

    @property
    def scores_target(self) -> bool:
        """Whether the target's own steps are scored too. Verifiers with a cache read them sooner or later anyway."""
        return False

    @property
    def verifies(self) -> bool:
        """Whether `verify` may be a decision; only such policies go with verifiers that leave it to them."""
        return False

    @property
    def needs_known(self) -> Literal["flops_per_token", "price"] | None:
        """What must be known of every model for the policy to work."""
        return None

    @property
    def limits(self) -> Limits | None:
        """Hard limits that are part of the policy; the tighter of these and the settings' hold."""
        return None
