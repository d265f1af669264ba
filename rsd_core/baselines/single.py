"""The two ends of the scale: the drafter alone and the target alone, with the same interface and ledger."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from rsd_core.calls import Calls
from rsd_core.decoder import Decoder
from rsd_core.events import Event, StepAccepted, StepReplaced
from rsd_core.interfaces import Drafter, Target
from rsd_core.model import Model
from rsd_core.request import Request
from rsd_core.roles import require
from rsd_core.settings import Settings


class DraftOnly(Decoder):
    """The drafter writes every step; nothing is scored. A fault of the drafter ends the answer with an error."""

    def __init__(self, *, drafter: Drafter, settings: Settings | None = None) -> None:
        require("drafter", drafter, Drafter)
        self.drafter = drafter
        super().__init__(settings)

    @property
    def models(self) -> tuple[Model, ...]:
        return (self.drafter,)

    async def _decode(self, request: Request, calls: Calls) -> AsyncGenerator[Event, None]:
        while request.finish is None:
            i = request.index
            step = await calls.draft_or_fail(request, self.drafter)
            yield StepAccepted(i, request.extend(step, "draft"))


class TargetOnly(Decoder):
    """The target writes every step."""

    def __init__(self, *, target: Target, settings: Settings | None = None) -> None:
        require("target", target, Target)
        self._target = target
        super().__init__(settings)

    @property
    def models(self) -> tuple[Model, ...]:
        return (self._target,)

    @property
    def target(self) -> Target:
        return self._target

    async def _decode(self, request: Request, calls: Calls) -> AsyncGenerator[Event, None]:
        while request.finish is None:
            i = request.index
            (step,) = await calls.replace(request, self._target)
            yield StepReplaced(i, request.extend(step, "target"))
