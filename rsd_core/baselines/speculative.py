"""Standard speculative decoding: the target verifies the drafter's tokens itself, and nothing else changes."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from rsd_core.calls import Calls
from rsd_core.decoder import Decoder
from rsd_core.errors import ConfigurationError
from rsd_core.events import Event, StepReplaced
from rsd_core.interfaces import Drafter, SpeculativeTarget, Target
from rsd_core.model import Model
from rsd_core.request import Request
from rsd_core.roles import require
from rsd_core.settings import Settings


class SpeculativeDecoding(Decoder):
    """The target with the drafter as its assistant (arXiv 2211.17192): the target's own answers, sooner.

    Where a server speculates by itself, `TargetOnly` over that server is this baseline already.

    Args:
        drafter: The assistant.
        target: A model that can be assisted (`SpeculativeTarget`).
        settings: Everything else.
    """

    def __init__(self, *, drafter: Drafter, target: Target, settings: Settings | None = None) -> None:
        require("drafter", drafter, Drafter)
        require("target", target, Target)
        if not isinstance(target, SpeculativeTarget):
            raise ConfigurationError(
                f"{target!r} takes no assistant. Models in process do (hf:, embedded:); a server speculates by its own "
                "settings, and is measured as the target alone."
            )
        self.drafter, self._target = drafter, target
        super().__init__(settings)

    @property
    def models(self) -> tuple[Model, ...]:
        return (self.drafter, self._target)

    @property
    def target(self) -> Target:
        return self._target

    @property
    def thinkers(self) -> tuple[Model, ...]:
        return (self._target,)  # the assistant goes on from what the target reads

    async def _decode(self, request: Request, calls: Calls) -> AsyncGenerator[Event, None]:
        while request.finish is None:
            i = request.index
            step = await calls.speculate(request, self._target, self.drafter)
            yield StepReplaced(i, request.extend(step, "target"))
