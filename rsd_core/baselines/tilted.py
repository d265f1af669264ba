"""Guided speculative inference (GSI, arXiv 2506.04118): rewards tilted by how much likelier the target finds a step."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from rsd_core.decoder import RewardGuidedDecoder
from rsd_core.errors import ConfigurationError
from rsd_core.events import Event, StepAccepted, StepDrafted, StepRejected, StepReplaced, StepScored
from rsd_core.interfaces import Drafter, HasLikelihood, Target, Verifier
from rsd_core.paths import Step
from rsd_core.request import Request
from rsd_core.settings import Settings


class TiltedDecoder(RewardGuidedDecoder):
    """GSI: soft best of n by r + (log P_M − log P_m) / β, and by r among steps of the target where that is too low.

    n is `Settings.candidates`. Drafter and target have to tell log-likelihoods (`HasLikelihood`).

    Args:
        drafter: The cheap model.
        verifier: The reward model.
        target: The strong model.
        threshold: u of the paper: the least tilted reward that is accepted.
        beta: β of the paper; the larger, the closer to the plain best of n.
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
        made = (settings or Settings()).model_copy(update={"softmax_beta": beta})
        super().__init__(drafter=drafter, verifier=verifier, target=target, settings=made)
        if beta <= 0:
            raise ConfigurationError(f"beta must be above 0 (got {beta})")
        for model in (drafter, target):
            if not isinstance(model, HasLikelihood):
                raise ConfigurationError(f"{model!r} tells no log-likelihoods, which GSI needs of drafter and target")
        self.threshold, self.beta = threshold, beta

    async def _decode(self, request: Request) -> AsyncGenerator[Event, None]:
        while request.finish is None:
            i = request.index
            drafts = await request.draft(self.drafter)
            if drafts:
                yield StepDrafted(i, drafts)
            rewards = await request.score(self.verifier, drafts)
            rejected: Step | None = None
            reward: float | None = None
            if rewards:
                yield StepScored(i, rewards)
                likely = await request.likelihoods("target", self._target, drafts)
                cheap = await request.likelihoods("drafter", self.drafter, drafts)
                tilted = [
                    None if reward is None else reward + (a - b) / self.beta
                    for reward, a, b in zip(rewards, likely, cheap, strict=True)
                ]
                chosen = request.choose(tilted)
                request.discard(drafts[:chosen] + drafts[chosen + 1 :], scored=True)
                rejected, reward = drafts[chosen], rewards[chosen]
                tilt = tilted[chosen]
                kept = self.settings.on_abstain == "accept" if tilt is None else tilt >= self.threshold
                if kept or request.target_is_spent(self._target):
                    yield StepAccepted(i, request.extend(rejected, "draft", reward))
                    continue
                request.discard([rejected], scored=True)
                yield StepRejected(i, rejected, reward)
            steps = await request.replace(self._target, self.settings.candidates)
            step = steps[request.choose(await request.score(self.verifier, steps) or (0.0,) * len(steps))]
            yield StepReplaced(i, request.extend(step, "target", reward, rejected=rejected))
