"""Guided speculative inference (GSI, arXiv 2506.04118): rewards tilted by the target's relative likelihood."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Sequence

from rsd_core.algorithm import RewardGuidedDecoder
from rsd_core.calls import Calls
from rsd_core.errors import ConfigurationError
from rsd_core.events import Event, StepAccepted, StepDrafted, StepRejected, StepReplaced, StepScored
from rsd_core.interfaces import Drafter, HasLikelihood, Target, Verifier
from rsd_core.paths import Step
from rsd_core.policies.decisions import choose
from rsd_core.request import Request
from rsd_core.settings import Settings


class TiltedDecoder(RewardGuidedDecoder):
    """GSI: soft best of n by r + (log P_M − log P_m) / β; if that is too low, by r among steps of the target.

    n is `Settings.candidates`. Drafter and target must report log-likelihoods (`HasLikelihood`); where one of them
    fails to, the target writes the step.

    Args:
        drafter: The cheap model.
        verifier: The reward model.
        target: The strong model.
        threshold: u in the paper: the lowest accepted tilted reward.
        beta: β in the paper; the larger, the closer to plain best of n.
        settings: Everything else.
    """

    def __init__(
        self,
        *,
        drafter: Drafter,
        verifier: Verifier,
        target: Target,
        threshold: float = 0.5,
        beta: float = 20.0,
        settings: Settings | None = None,
    ) -> None:
        if beta <= 0:
            raise ConfigurationError(f"beta must be above 0 (got {beta})")
        for model in (drafter, target):
            if not isinstance(model, HasLikelihood):
                raise ConfigurationError(f"{model!r} reports no log-likelihoods, which GSI needs from both models")
        self.threshold, self.beta = threshold, beta
        super().__init__(drafter=drafter, verifier=verifier, target=target, settings=settings)

    def check(self, settings: Settings) -> Settings:
        return super().check(settings).model_copy(update={"softmax_beta": self.beta})

    async def _decode(self, request: Request, calls: Calls) -> AsyncGenerator[Event, None]:
        while request.finish is None:
            i = request.index
            drafts = await calls.draft(request, self.drafter)
            if drafts:
                yield StepDrafted(i, drafts)
            rewards = await calls.score(request, self.verifier, drafts)
            rejected: Step | None = None
            reward: float | None = None
            if rewards:
                yield StepScored(i, rewards)
                reads = sum(request.read_at_most + draft.size for draft in drafts)
                spent = calls.target_is_spent(request, self._target, reads)  # then it reports no likelihoods either
                tilted = rewards if spent else await self._tilted(request, calls, drafts, rewards)
                chosen = choose(request, tilted or rewards)
                request.discard(drafts[:chosen] + drafts[chosen + 1 :], scored=True)
                rejected, reward = drafts[chosen], rewards[chosen]
                tilt = tilted[chosen] if tilted else -math.inf
                accepted = self.settings.on_abstain == "accept" if tilt is None else tilt >= self.threshold
                accepted = accepted or request.progress.is_mark(rejected)
                if spent or accepted or calls.target_is_spent(request, self._target):
                    yield StepAccepted(i, calls.commit(request, rejected, "draft", reward))
                    continue
                calls.reject(request, rejected, scored=True)
                yield StepRejected(i, rejected, reward)
            elif drafts:
                request.discard(drafts[1:], scored=False)
                if self.settings.on_verifier_error == "accept":
                    yield StepAccepted(i, calls.commit(request, drafts[0], "draft"))
                    continue
                request.discard(drafts[:1], scored=False)
            steps = await calls.replace(request, self._target, self.settings.candidates)
            request.ledger.target.discarded += sum(step.size for step in steps)  # until one of them is chosen
            step = steps[choose(request, await calls.score(request, self.verifier, steps) or (0.0,) * len(steps))]
            request.ledger.target.discarded -= step.size
            yield StepReplaced(i, calls.commit(request, step, "target", reward, rejected))

    async def _tilted(
        self, request: Request, calls: Calls, drafts: Sequence[Step], rewards: Sequence[float | None]
    ) -> tuple[float | None, ...]:
        """R + (log P_M − log P_m) / β for each draft; None if the verifier abstained, nothing after a fault."""
        likely = await calls.log_likelihoods(request, "target", self._target, drafts)
        cheap = likely and await calls.log_likelihoods(request, "drafter", self.drafter, drafts)
        if not cheap:
            return ()
        return tuple(
            None if reward is None else reward + (a - b) / self.beta
            for reward, a, b in zip(rewards, likely, cheap, strict=True)
        )
