"""Speculation of a model whose calls are recorded: its drafter, and the identity of a speculation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rsd_core import MissingDependency, Speculation
from rsd_core.data import Data


@dataclass(frozen=True, slots=True)
class TapedSpeculation(Speculation):
    """A speculation whose drafter is taped. A drafter that assists is called by its target, not through the tape."""

    drafting: Any = None
    """The drafter as recorded; `drafter` is the model itself, if there is one."""
    asked: object = None
    """Everything that determines the step, as JSON data, but not the content of named files."""

    @classmethod
    def of(cls, checked: Speculation, drafting: Any, asked: object) -> TapedSpeculation:
        """A checked speculation with its recorded drafter and data."""
        drafter = drafting if checked.drafter is None else checked.drafter
        return cls(checked.proposer, checked.rule, drafter, checked.draft_length, checked.beams, drafting, asked)


def with_objects(speculation: Speculation) -> Speculation:
    """The same with proposer, rule and beams as objects, however they were given, and without any model.

    Raises:
        ConfigurationError: One of them is unknown, or the package that defines them is not installed.
    """
    try:
        from rsd_integrations.speculation.parsing import parsed
    except ModuleNotFoundError as error:
        raise MissingDependency(str(error.name), "huggingface", "a recorded run that speculates") from error
    return parsed(speculation)


def speculation_data(speculation: Speculation, drafter: str | None) -> list[Any]:
    """The parts of a speculation that determine the step, as JSON data; the drafter by its spec."""
    proposer, rule, beams = (_data(part) for part in (speculation.proposer, speculation.rule, speculation.beams))
    return [drafter, proposer, rule, speculation.draft_length, beams]


def _data(part: object) -> object:
    """A part without default values, since later versions may add fields."""
    if not isinstance(part, Data):
        return part
    return {"kind": getattr(part, "kind", ""), **part.model_dump(mode="json", exclude_defaults=True)}
