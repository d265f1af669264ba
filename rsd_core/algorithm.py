"""The algorithm: reward-guided speculative decoding (RSD, arXiv 2501.19324)."""

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Self

from rsd_core.calls import Calls
from rsd_core.decoder import Decoder
from rsd_core.errors import ConfigurationError
from rsd_core.events import Event, StepAccepted, StepDrafted, StepRejected, StepReplaced, StepScored
from rsd_core.interfaces import Drafter, Speculation, Target, Verifier
from rsd_core.ledger import Role
from rsd_core.limits import Limits
from rsd_core.model import Model
from rsd_core.paths import Step
from rsd_core.policies import BinaryStep, WeightingPolicy
from rsd_core.policies.decisions import choose, learn, route, settle
from rsd_core.request import Request
from rsd_core.roles import Cast, NoVerifier, Roles, Speculations
from rsd_core.settings import Settings
from rsd_core.thoughts.reading import Kind


class RewardGuidedDecoder(Decoder):
    """Reward-guided speculative decoding (RSD, arXiv 2501.19324).

    Args:
        drafter: The cheap model that proposes each step.
        verifier: The reward model that scores it; required unless the policy uses no rewards.
        target: The strong model that writes the steps whose drafts are rejected.
        policy: Maps a reward to a probability of acceptance; the paper's δ = 0.7 by default. Calibrate it: a threshold
            holds for one reward model only.
        settings: Everything else.
        thoughts: Models and a policy for thoughts, if they differ from the answer's.
    """

    def __init__(
        self,
        *,
        drafter: Drafter,
        verifier: Verifier | None = None,
        target: Target,
        policy: WeightingPolicy | None = None,
        settings: Settings | None = None,
        thoughts: Roles | None = None,
    ) -> None:
        self.drafter, self._target = drafter, target
        self.verifier = NoVerifier() if verifier is None else verifier
        self.policy = BinaryStep() if policy is None else policy
        self.thoughts = thoughts or Roles()
        self._speculations = Speculations()
        self.casts()
        super().__init__(settings)

    def check(self, settings: Settings) -> Settings:
        if settings.granularity == "turn" and self.thoughts != Roles():
            raise ConfigurationError(
                "roles for thoughts need granularity='step': one model writes a whole turn, thought and answer, in "
                "one piece"
            )
        for cast in self.casts().values():
            self._speculations.of(cast.target, settings.speculate, cast.drafter)
            self._speculations.of(cast.drafter, settings.speculate_drafts)
        return settings

    def casts(self) -> dict[Kind, Cast]:
        """Who plays which role in the thought, and in the answer."""
        answer = Cast(self.drafter, self.verifier, self._target, self.policy)
        return {"answer": answer, "thought": self.thoughts.filled(answer)}

    def in_one_turn(self, fields: Mapping[str, Any]) -> Self:
        """The same decoder for answers in one piece, with these fields in each request."""
        other = copy.copy(self)
        other.drafter, other._target = self.drafter.with_fields(fields), self._target.with_fields(fields)
        other.thoughts, other.settings = Roles(), self.settings.model_copy(update={"granularity": "turn"})
        return other

    @property
    def models(self) -> tuple[Model, ...]:
        casts = self.casts()
        return tuple(dict.fromkeys((*casts["answer"].models, *casts["thought"].models)))

    @property
    def thinkers(self) -> tuple[Model, ...]:
        cast = self.casts()["thought"]
        return cast.writers

    @property
    def target(self) -> Target:
        return self._target

    @property
    def limits(self) -> Limits:
        own = None if self.thoughts.policy is None else self.thoughts.policy.limits
        return self.settings.limits.tightened(self.policy.limits).tightened(own)

    @property
    def consequences(self) -> Mapping[Role, str]:
        accepts = self.settings.on_verifier_error == "accept"
        return {
            "drafter": "the target writes every step",
            "verifier": "every draft is kept" if accepts else "the target writes every step",
        }

    def _drafting(self, cast: Cast, request: Request) -> Speculation | None:
        """What proposes the tokens of a draft."""
        return self._speculations.of(cast.drafter, request.settings.speculate_drafts)

    def _replacing(self, cast: Cast, request: Request) -> Speculation | None:
        """What proposes the tokens of a step by the target, which reads some in vain."""
        wanted = request.settings.speculate is not None and request.terms.wastes_target
        return self._speculations.of(cast.target, request.settings.speculate, cast.drafter) if wanted else None

    async def _decode(self, request: Request, calls: Calls) -> AsyncGenerator[Event, None]:
        """Algorithm 1 of the paper, one step per turn of the loop."""
        casts = self.casts()
        while request.finish is None:
            i, cast = request.index, casts[request.progress.part.kind]
            if cast.policy.needs_entropy:
                await calls.measure_entropy(request, cast.drafter)
            author = route(cast.policy, request)
            if author == "target" and not calls.target_is_spent(request, cast.target):
                cast.policy.on_target_forced()
                yield await self._replace(request, calls, cast)
                continue
            if author == "answer":
                request.close_thought()
                continue
            calls.hedge(request, cast.target, self._replacing(cast, request))
            drafts = await calls.draft(request, cast.drafter, speculation=self._drafting(cast, request))
            if cast.policy.needs_reward:
                calls.look_ahead(request, cast.drafter, cast.verifier, drafts)
            if drafts:
                yield StepDrafted(i, drafts)
            rewards = await calls.score(request, cast.verifier, drafts) if cast.policy.needs_reward else ()
            if rewards:
                yield StepScored(i, rewards)
            drafts, rewards = request.competing(drafts, rewards)
            scored, best = bool(rewards), choose(request, rewards)
            draft = drafts[best] if drafts else None
            reward = rewards[best] if rewards else None
            request.discard(drafts[:best] + drafts[best + 1 :], scored=scored)
            decision, reward = await settle(cast, request, calls, draft, reward, scored=scored)
            spent = decision == "target" and draft is not None and calls.target_is_spent(request, cast.target)
            if draft is not None and (decision == "accept" or spent):
                yield StepAccepted(i, calls.commit(request, draft, "draft", reward))
                continue
            if draft is not None and decision == "another":
                calls.keep(request, draft, reward)
                continue
            if draft is not None:
                calls.reject(request, draft, scored=scored)
                yield StepRejected(i, draft, reward)
            if decision == "retry":
                request.attempt += 1
                continue
            yield await self._replace(request, calls, cast, draft, reward)

    async def _replace(
        self, request: Request, calls: Calls, cast: Cast, draft: Step | None = None, reward: float | None = None
    ) -> StepReplaced:
        """The target writes the step, and the policy may learn from it."""
        before = request.path
        speculation = self._replacing(cast, request)
        (step,) = await calls.replace(request, cast.target, rejected=draft, speculation=speculation)
        record = calls.commit(request, step, "target", reward, draft)
        if request.path is not before:
            if cast.policy.scores_target and (rewards := await calls.score(request, cast.verifier, [step], before)):
                record = request.rate(rewards[0])
            learn(cast.policy, request, record.target_reward)
        return StepReplaced(before.depth, record)
