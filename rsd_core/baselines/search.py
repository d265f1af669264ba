"""Searches over the cheap model's steps, guided by a reward model."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping

from rsd_core.calls import Calls
from rsd_core.concurrency import run_all
from rsd_core.decoder import Decoder
from rsd_core.errors import ConfigurationError
from rsd_core.events import Event, StepAccepted
from rsd_core.interfaces import Drafter, Verifier
from rsd_core.ledger import Role
from rsd_core.limits import LimitReached
from rsd_core.model import Model
from rsd_core.paths import Step
from rsd_core.request import Request
from rsd_core.roles import require
from rsd_core.settings import Settings


class GuidedSearch(Decoder):
    """Base of the searches: a drafter and a verifier, and an answer that is final only at the end."""

    def __init__(self, *, drafter: Drafter, verifier: Verifier, settings: Settings | None = None) -> None:
        require("drafter", drafter, Drafter)
        require("verifier", verifier, Verifier)
        self.drafter, self.verifier = drafter, verifier
        super().__init__(settings)

    @property
    def models(self) -> tuple[Model, ...]:
        return (self.drafter, self.verifier)

    @property
    def consequences(self) -> Mapping[Role, str]:
        return {"verifier": "the search chooses blindly"}

    async def _candidates(
        self, branch: Request, calls: Calls, count: int
    ) -> tuple[tuple[Step, ...], tuple[float, ...]]:
        """Drafted steps with their rewards; 0 if the verifier failed or abstained, 1 for a bare marker."""
        drafts = await calls.drafts_or_fail(branch, self.drafter, count)
        try:
            rewards = await calls.score(branch, self.verifier, drafts) or (0.0,) * len(drafts)
        except BaseException:
            branch.discard(drafts, scored=False)  # written and paid for, but never scored
            raise
        marks = [branch.progress.is_mark(step) for step in drafts]
        return drafts, tuple(1.0 if mark else reward or 0.0 for mark, reward in zip(marks, rewards, strict=True))


class StepBeam(GuidedSearch):
    """Step-level beam search: each beam drafts some steps, and those with the highest rewards survive.

    Beams compete by the reward of their last step, finished ones included (as in arXiv 2408.03314).

    Args:
        drafter: Writes the steps.
        verifier: Scores them.
        width: Number of beams that survive.
        expand: Number of steps that each beam drafts.
        settings: Needs a temperature above 0 if `expand` is above 1.
    """

    def __init__(
        self, *, drafter: Drafter, verifier: Verifier, width: int = 4, expand: int = 4, settings: Settings | None = None
    ) -> None:
        self.width, self.expand = width, expand
        super().__init__(drafter=drafter, verifier=verifier, settings=settings)

    def check(self, settings: Settings) -> Settings:
        if self.width < 1 or self.expand < 1 or (self.expand > 1 and settings.temperature == 0):
            raise ConfigurationError(
                f"StepBeam takes width ≥ 1, expand ≥ 1 and a temperature above 0 (got width={self.width}, "
                f"expand={self.expand}, temperature={settings.temperature})"
            )
        return settings

    async def _decode(self, request: Request, calls: Calls) -> AsyncGenerator[Event, None]:
        beams, scored = [request.branch(0)], list[Step]()
        ended: LimitReached | Exception | None = None
        try:
            while any(beam.finish is None for beam in beams):
                live = [beam for beam in beams if beam.finish is None]
                # The single root drafts for all, so that the full number of beams can survive from the start; not if
                # its drafts would be the same.
                alone = len(beams) == 1 and request.settings.temperature > 0
                count = self.expand * self.width if alone else self.expand
                grown = await run_all([self._grow(beam, calls, count, scored) for beam in live])
                rivals = [beam for beam in beams if beam.finish is not None] + [new for news in grown for new in news]
                beams = sorted(rivals, key=_last_reward, reverse=True)[: self.width]
        except LimitReached as limit:
            beams[0].finish = beams[0].finish or limit.reason
        except Exception as error:
            ended = error  # raised after keeping the best beam
        on_path = {id(step) for step in beams[0].path.steps}
        request.discard([step for step in scored if id(step) not in on_path], scored=True)
        for i, record in enumerate(request.adopt(beams[0])):
            yield StepAccepted(i, record)
        if ended is not None:
            raise ended

    async def _grow(self, beam: Request, calls: Calls, count: int, scored: list[Step]) -> list[Request]:
        drafts, rewards = await self._candidates(beam, calls, count)
        scored += drafts
        grown = [beam.branch(i) for i in range(len(drafts))]
        for new, step, reward in zip(grown, drafts, rewards, strict=True):
            new.extend(step, "draft", None if new.progress.is_mark(step) else reward)
        return grown


def _last_reward(beam: Request) -> float:
    """The reward of the last scored step; markers are not scored."""
    return next((record.reward for record in reversed(beam.records) if record.reward is not None), 0.0)
