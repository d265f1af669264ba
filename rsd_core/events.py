"""What happens while a request is decoded, as it happens. A decoder's public methods are built on this stream."""

from __future__ import annotations

from dataclasses import dataclass

from rsd_core.paths import Step
from rsd_core.results import Degradation, Result, StepRecord


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events."""

    index: int
    """The step that the event is about, counted from 0."""


@dataclass(frozen=True, slots=True)
class StepDrafted(Event):
    """The drafter wrote candidates for the next step."""

    candidates: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class StepScored(Event):
    """The verifier scored the candidates."""

    rewards: tuple[float | None, ...]
    """None for a candidate about which the verifier abstained."""


@dataclass(frozen=True, slots=True)
class StepRejected(Event):
    """The policy rejected the chosen candidate: the target writes the step, or the drafter tries again."""

    step: Step
    reward: float | None


@dataclass(frozen=True, slots=True)
class StepFinished(Event):
    """Base of the two events that add a step to the answer."""

    record: StepRecord


@dataclass(frozen=True, slots=True)
class StepAccepted(StepFinished):
    """A drafted step became part of the answer."""


@dataclass(frozen=True, slots=True)
class StepReplaced(StepFinished):
    """A step by the target became part of the answer."""


@dataclass(frozen=True, slots=True)
class Degraded(Event):
    """The request recovered from a fault, or a limit changed its course."""

    degradation: Degradation


@dataclass(frozen=True, slots=True)
class Finished(Event):
    """The last event of every request; its index is the number of steps."""

    result: Result
