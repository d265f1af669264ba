"""The models and the policy for each part of the response: thoughts may have their own."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import nextafter

from rsd_core.errors import ConfigurationError, VerifierError
from rsd_core.interfaces import Drafter, FirstTokenEntropy, Scores, Speculation, SpeculativeTarget, Target, Verifier
from rsd_core.ledger import Role
from rsd_core.model import Model, Price
from rsd_core.paths import Path, Step
from rsd_core.policies import AlwaysDraft, AlwaysTarget, WeightingPolicy

logger = logging.getLogger(__name__)


class NoVerifier(Verifier):
    """Placeholder for policies that use no rewards."""

    name = "no verifier"
    flops_per_token = 0.0
    price = Price(0.0, 0.0)

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:  # noqa: ARG002
        """Never called."""
        raise VerifierError("there is no verifier")


@dataclass(frozen=True, slots=True)
class Roles:
    """Who writes, who scores and who decides; None means the same as for the answer."""

    drafter: Drafter | None = None
    verifier: Verifier | None = None
    target: Target | None = None
    policy: WeightingPolicy | None = None

    def filled(self, other: Cast) -> Cast:
        """These roles, with missing ones taken from another part."""
        return Cast(
            self.drafter or other.drafter,
            self.verifier or other.verifier,
            self.target or other.target,
            self.policy or other.policy,
        )


@dataclass(frozen=True, slots=True)
class Cast:
    """Who plays which role in a part of the response."""

    drafter: Drafter
    verifier: Verifier
    target: Target
    policy: WeightingPolicy

    def __post_init__(self) -> None:
        require("drafter", self.drafter, Drafter)
        require("verifier", self.verifier, Verifier)
        require("target", self.target, Target)
        if not isinstance(self.policy, WeightingPolicy):
            raise ConfigurationError(
                f"{self.policy!r} is not a policy. Give an object such as BinaryStep(delta=0.7), or parse_policy(TEXT)."
            )
        if isinstance(self.verifier, NoVerifier) and self.policy.needs_reward:
            raise ConfigurationError(f"the policy {self.policy!r} decides by rewards, but verifier= is missing")
        if (known := self.policy.needs_known) and (
            missing := [m.name for m in self.models if getattr(m, known) is None]
        ):
            raise ConfigurationError(
                f"the policy {self.policy!r} needs the {known} of every model; unknown for {missing}"
            )
        if self.verifier.stronger is not None and not self.policy.verifies:
            raise ConfigurationError(
                f"{self.verifier!r} lets the policy decide which member to ask, and {self.policy!r} never does; give "
                "the cascade ask=range, or use a policy such as advantage_aware:reward_per_cost=0.1"
            )
        if self.policy.needs_entropy and not isinstance(self.drafter, FirstTokenEntropy):
            raise ConfigurationError(
                f"the policy {self.policy!r} routes on the entropy of a step's first token, which {self.drafter!r} "
                "does not report; in-process models do (hf:, gguf:, embedded:)"
            )
        threshold = self.verifier.threshold
        if threshold is not None and self.policy.needs_reward and not _decides_at(self.policy, threshold):
            _warn(
                f"the verdicts of {self.verifier.name} hold around the reward {threshold}, and {self.policy!r} decides "
                f"elsewhere: use binary_step:{threshold}, or a verifier made for this policy"
            )

    @property
    def models(self) -> tuple[Model, ...]:
        """The models of the three roles."""
        return (self.drafter, self.verifier, self.target)

    @property
    def writers(self) -> tuple[Model, ...]:
        """The models that may write steps, as far as the policy determines beforehand."""
        if isinstance(self.policy, AlwaysTarget):
            return (self.target,)
        return (self.drafter,) if isinstance(self.policy, AlwaysDraft) else (self.drafter, self.target)


def _decides_at(policy: WeightingPolicy, threshold: float) -> bool:
    """Whether a policy only depends on which side of the threshold a reward lies."""
    if policy.learns:
        return False
    low, high = (0.0, nextafter(threshold, 0.0)), (threshold, 1.0)
    return all(policy.weight(begin) == policy.weight(end) for begin, end in (low, high))  # weights never decrease


@cache
def _warn(message: str) -> None:
    """Warn once; adapters make a decoder for every call."""
    logger.warning(message)
    warnings.warn(message, UserWarning, stacklevel=2)


class Speculations:
    """How the models of a decoder speculate, each way worked out once: a proposer may be a large table."""

    def __init__(self) -> None:
        self._known: dict[tuple[Model, Model | None, str], Speculation] = {}

    def of(self, model: Drafter | Target, proposer: str | None, drafter: Drafter | None = None) -> Speculation | None:
        """How a model speculates by a proposer; None where there is none.

        Raises:
            ConfigurationError: The model cannot, or not by this proposer.
        """
        if proposer is None:
            return None
        used = drafter if proposer == "drafter" else None
        key = model, used, proposer
        if key not in self._known:
            if not isinstance(model, SpeculativeTarget):
                raise cannot_verify("drafter" if drafter is None else "target", repr(model), proposer)
            self._known[key] = model.checked_speculation(Speculation(proposer, drafter=used))
        return self._known[key]


def cannot_verify(role: Role, model: str, proposer: object) -> ConfigurationError:
    """The error about a model that is to verify proposed tokens, and cannot."""
    return ConfigurationError(
        f"the {role} {model} cannot verify proposed tokens, as those of {proposer!r} require: give a {role} of "
        "hf: or embedded:, or turn speculation off. A GGUF model can only draft for others; a server speculates by "
        "its own settings, and is measured as it is"
    )


def require(role: Role, model: Model | None, kind: type[Model]) -> None:
    """Raise `ConfigurationError` unless the model can play the role."""
    if not isinstance(model, kind):
        raise ConfigurationError(f"{model!r} cannot be the {role}. Make one with load(SPEC); `rsd models` lists specs.")
