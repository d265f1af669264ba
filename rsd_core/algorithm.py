"""The algorithm: reward-guided speculative decoding (RSD, arXiv 2501.19324)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping

from rsd_core.calls import Calls
from rsd_core.decisions import choose, decide, learn, route
from rsd_core.decoder import Decoder, require
from rsd_core.errors import ConfigurationError
from rsd_core.events import Event, StepAccepted, StepDrafted, StepRejected, StepReplaced, StepScored
from rsd_core.interfaces import Drafter, Model, Target, Verifier
from rsd_core.ledger import Role
from rsd_core.limits import Limits
from rsd_core.paths import Step
from rsd_core.policies import BinaryStep, WeightingPolicy
from rsd_core.request import Request
from rsd_core.settings import Settings


class RewardGuidedDecoder(Decoder):
    """Reward-guided speculative decoding (RSD, arXiv 2501.19324).

    Args:
        drafter: The cheap model that proposes each step.
        verifier: The reward model that scores it.
        target: The strong model that writes the steps whose drafts are rejected.
        policy: From reward to probability of acceptance; the paper's δ = 0.7 by default. Calibrate it: a threshold
            belongs to one reward model.
        settings: Everything else.
    """

    def __init__(
        self,
        *,
        drafter: Drafter,
        verifier: Verifier,
        target: Target,
        policy: WeightingPolicy | None = None,
        settings: Settings | None = None,
    ) -> None:
        require("drafter", drafter, Drafter)
        require("verifier", verifier, Verifier)
        require("target", target, Target)
        self.drafter, self.verifier, self._target = drafter, verifier, target
        self.policy = BinaryStep() if policy is None else policy
        if not isinstance(self.policy, WeightingPolicy):
            raise ConfigurationError(
                f"{policy!r} is no policy. Give an object such as BinaryStep(delta=0.7), or parse_policy(TEXT)."
            )
        super().__init__(settings)

    @property
    def models(self) -> tuple[Model, ...]:
        return (self.drafter, self.verifier, self._target)

    @property
    def target(self) -> Target:
        return self._target

    @property
    def limits(self) -> Limits:
        return self.settings.limits.tightened(self.policy.limits)

    @property
    def consequences(self) -> Mapping[Role, str]:
        accepts = self.settings.on_verifier_error == "accept"
        return {
            "drafter": "the target writes every step",
            "verifier": "every draft is kept" if accepts else "the target writes every step",
        }

    async def _decode(self, request: Request, calls: Calls) -> AsyncGenerator[Event, None]:
        """Algorithm 1 of the paper, one step per turn of the loop."""
        while request.finish is None:
            i = request.index
            if route(self.policy, request) == "target" and not calls.target_is_spent(request, self._target):
                self.policy.on_target_forced()
                yield await self._replace(request, calls)
                continue
            calls.hedge(request, self._target)
            drafts = await calls.draft(request, self.drafter)
            calls.look_ahead(request, self.drafter, self.verifier, drafts)
            if drafts:
                yield StepDrafted(i, drafts)
            rewards = await calls.score(request, self.verifier, drafts)
            scored = bool(rewards)
            if scored:
                yield StepScored(i, rewards)
            best = choose(request, rewards)
            draft = drafts[best] if drafts else None
            reward = rewards[best] if rewards else None
            if len(drafts) > 1:
                request.discard(drafts[:best] + drafts[best + 1 :], scored=scored)
            decision = decide(self.policy, request, draft, reward, scored=scored)
            spent = decision == "target" and draft is not None and calls.target_is_spent(request, self._target)
            if draft is not None and (decision == "accept" or spent):
                yield StepAccepted(i, calls.commit(request, draft, "draft", reward))
                continue
            if draft is not None:
                calls.reject(request, draft, scored=scored)
                yield StepRejected(i, draft, reward)
            if decision == "retry":
                request.attempt += 1
                continue
            yield await self._replace(request, calls, draft, reward)

    async def _replace(
        self, request: Request, calls: Calls, draft: Step | None = None, reward: float | None = None
    ) -> StepReplaced:
        """The target writes the step, and the policy learns from it what it wants to."""
        before = request.path
        (step,) = await calls.replace(request, self._target, rejected=draft)
        record = calls.commit(request, step, "target", reward, draft)
        if request.path is not before:
            if self.policy.scores_target and (rewards := await calls.score(request, self.verifier, [step], before)):
                record = request.rate(rewards[0])
            learn(self.policy, request, record.target_reward)
        return StepReplaced(before.depth, record)
