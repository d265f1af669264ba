"""Standard speculative decoding: tokens are proposed, the target verifies them itself, and nothing else changes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from rsd_core.calls import Calls
from rsd_core.data import masked
from rsd_core.decoder import Decoder
from rsd_core.errors import ConfigurationError, SpecError
from rsd_core.events import Event, StepReplaced
from rsd_core.interfaces import DRAFTER, Drafter, Speculation, SpeculativeTarget, Target
from rsd_core.model import Model
from rsd_core.registry import parse_spec
from rsd_core.request import Request
from rsd_core.roles import cannot_verify, require
from rsd_core.settings import Settings


class SpeculativeDecoding(Decoder):
    """The target's own answers, sooner: proposed tokens are verified in one pass (arXiv 2211.17192, 2302.01318).

    Where a server speculates by itself, `TargetOnly` over that server is this baseline already.

    Args:
        drafter: The model that proposes; needed where the proposer is `drafter`.
        target: A model that verifies proposed tokens (`SpeculativeTarget`).
        settings: Everything else.
        proposer: What proposes: `drafter`, or a proposer without a model, such as `lookup`, as text, data or object.
        rule: Which proposed tokens are kept: `exact`, or a lossy acceptance rule, as text, data or object.
        draft_length: The most tokens proposed in a row, at least 1; by default 5, or more if the rule needs them.
    """

    def __init__(
        self,
        *,
        drafter: Drafter | None = None,
        target: Target,
        settings: Settings | None = None,
        proposer: Any = DRAFTER,
        rule: Any = "exact",
        draft_length: int | None = None,
    ) -> None:
        if proposer == DRAFTER:
            require("drafter", drafter, Drafter)
        require("target", target, Target)
        if not isinstance(target, SpeculativeTarget):
            raise cannot_verify("target", repr(target), proposer)
        used = drafter if proposer == DRAFTER else None
        self.speculation = target.checked_speculation(Speculation(proposer, rule, used, draft_length))
        self.drafter, self._target = used, target
        super().__init__(settings)

    def check(self, settings: Settings) -> Settings:
        if settings.limits.max_target_flops is not None:
            raise ConfigurationError(
                f"max_target_flops={settings.limits.max_target_flops:g} cannot be kept by {type(self).__name__}, whose "
                "target reads tokens that it rejects: limit max_flops, which is checked between steps, or "
                "max_target_tokens"
            )
        if settings.temperature == 0 and getattr(self.speculation.rule, "needs_draws", False):
            raise ConfigurationError(
                f"{self.speculation.rule!r} compares distributions that the drafter samples from: give settings with a "
                "temperature above 0 (got 0), or another rule"
            )
        return settings

    @property
    def models(self) -> tuple[Model, ...]:
        return (self._target,) if self.drafter is None else (self.drafter, self._target)

    @property
    def target(self) -> Target:
        return self._target

    @property
    def thinkers(self) -> tuple[Model, ...]:
        return (self._target,)  # the proposer continues from what the target reads

    async def _decode(self, request: Request, calls: Calls) -> AsyncGenerator[Event, None]:
        while request.finish is None:
            i = request.index
            (step,) = await calls.replace(request, self._target, speculation=self.speculation)
            yield StepReplaced(i, request.extend(step, "target"))


def check_specs(proposer: object, target: str | Model, drafter: str | Model | None) -> None:
    """Refuse models that cannot speculate, as far as their specs tell, before any of them is loaded.

    Args:
        proposer: What proposes tokens; None for nothing.
        target: The model that verifies them.
        drafter: The model that proposes them; None if the drafter is the one that verifies.

    Raises:
        ConfigurationError: Names the role, and what can take its place.
    """
    if proposer is not None and not _may_be(target, "embedded", "hf"):
        raise cannot_verify("drafter" if drafter is None else "target", repr(masked(str(target))), proposer)
    if proposer == DRAFTER and not _may_be(drafter, "embedded", "hf", "gguf"):
        raise ConfigurationError(
            f"the drafter {masked(str(drafter))!r} cannot propose tokens: give one in process (hf:, gguf:, embedded:), "
            "or a proposer without a model, such as 'lookup'"
        )


def _may_be(model: object, *kinds: str) -> bool:
    """Whether a model may be of one of these kinds: objects, and models of other packages, are checked later."""
    if not isinstance(model, str):
        return True
    try:
        backend, _ = parse_spec(model)
    except SpecError:  # a name that the setup's own `load` knows, or else refuses
        return True
    return backend.kind in kinds or backend.nested or backend.plugin is not None
