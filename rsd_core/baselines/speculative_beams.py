"""Dynamic-width speculative beam decoding: the target's beam sampling, drafted by a cheaper model."""

from __future__ import annotations

from dataclasses import replace

from rsd_core.baselines.speculative import SpeculativeDecoding
from rsd_core.errors import ConfigurationError
from rsd_core.interfaces import Drafter, SpeculativeTarget, Target
from rsd_core.settings import Settings


class SpeculativeBeams(SpeculativeDecoding):
    """Beam sampling of the target at token level (DSBD, arXiv 2409.16560): each step is the likeliest of its beams.

    The drafter samples a forest of beams some tokens ahead, the target reads it in one pass and keeps as many beams as
    it is likely to accept. Every beam is distributed as if the target alone had sampled it; with one beam, steps are
    the target's own. `StepBeam` searches whole steps by a reward model instead.

    Args:
        drafter: Drafts the beams; has the target's vocabulary.
        target: A model that verifies proposed tokens (`SpeculativeTarget`).
        beams: The most beams that survive, in [1, 64].
        drafts: Beams drafted at each token, in [1, 256].
        levels: Tokens drafted ahead, in [1, 64].
        confidence: A token gets as many beams as are accepted with this probability, in (0, 1].
        settings: Need a temperature above 0.
    """

    def __init__(
        self,
        *,
        drafter: Drafter,
        target: Target,
        beams: int = 4,
        drafts: int = 8,
        levels: int = 4,
        confidence: float = 0.7,
        settings: Settings | None = None,
    ) -> None:
        super().__init__(drafter=drafter, target=target, settings=settings)
        assert isinstance(target, SpeculativeTarget)
        numbers = {"beams": beams, "drafts": drafts, "levels": levels, "confidence": confidence}
        self.speculation = target.checked_speculation(replace(self.speculation, beams=numbers))

    def check(self, settings: Settings) -> Settings:
        if settings.temperature == 0:
            raise ConfigurationError("SpeculativeBeams samples: give settings with a temperature above 0 (got 0)")
        return super().check(settings)
