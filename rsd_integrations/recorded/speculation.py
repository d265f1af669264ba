"""Speculation of a model whose calls are recorded: who drafts for it, and what tells one speculation from another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rsd_core import MissingDependency, Speculation
from rsd_core.data import Data


@dataclass(frozen=True, slots=True)
class TapedSpeculation(Speculation):
    """One whose drafter is taped. A drafter that assists is called by its target, not through the tape."""

    drafting: Any = None
    """The drafter as the record knows it; `drafter` is the model beneath, where there is one."""
    asked: object = None
    """What decides about the step, as JSON data. The content of files that are named does not count."""

    @classmethod
    def of(cls, checked: Speculation, drafting: Any, asked: object) -> TapedSpeculation:
        """A checked speculation with what the record knows of it."""
        drafter = drafting if checked.drafter is None else checked.drafter
        return cls(checked.proposer, checked.rule, drafter, checked.draft_length, checked.beams, drafting, asked)


def with_objects(speculation: Speculation) -> Speculation:
    """The same with proposer, rule and beams as objects, however they were written, and without any model.

    Raises:
        ConfigurationError: One of them is unknown, or what knows them is not installed.
    """
    try:
        from rsd_integrations.speculation.parsing import parsed
    except ModuleNotFoundError as error:
        raise MissingDependency(str(error.name), "huggingface", "a recorded run that speculates") from error
    return parsed(speculation)


def speculation_data(speculation: Speculation, drafter: str | None) -> list[Any]:
    """What of a speculation with objects decides about the step, as JSON data; the drafter by its spec."""
    proposer, rule, beams = (_data(part) for part in (speculation.proposer, speculation.rule, speculation.beams))
    return [drafter, proposer, rule, speculation.draft_length, beams]


def _data(part: object) -> object:
    """A part without what is as by default, of which later versions may have more."""
    if not isinstance(part, Data):
        return part
    return {"kind": getattr(part, "kind", ""), **part.model_dump(mode="json", exclude_defaults=True)}
