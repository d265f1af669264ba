"""Speculation of a model whose calls are recorded: who drafts for it, and what tells one speculation from another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rsd_core import MissingDependency, Model, Speculation
from rsd_core.data import Data


@dataclass(frozen=True, slots=True)
class TapedSpeculation(Speculation):
    """One whose drafter is taped. A drafter that assists is called by its target, not through the tape."""

    drafting: Any = None
    """The drafter as the record knows it; `drafter` is the model beneath, where there is one."""

    @property
    def data(self) -> list[Any]:
        """What of it decides about the step, as JSON data. The content of files that it names does not count."""
        proposer = None if self.drafting is not None else _data(self.proposer)
        spec = None if self.drafting is None else self.drafting.spec
        return [spec, proposer, _data(self.rule), self.draft_length, None if self.beams is None else _data(self.beams)]


def taped_speculation(checked: Speculation, drafting: Model | None) -> TapedSpeculation:
    """A speculation with proposer, rule and beams as objects, whose drafter the record knows as `drafting`."""
    drafter: Any = drafting if checked.drafter is None else checked.drafter
    return TapedSpeculation(
        checked.proposer, checked.rule, drafter, checked.draft_length, checked.beams, drafting=drafting
    )


def with_objects(speculation: Speculation) -> Speculation:
    """The same with proposer, rule and beams as objects, where there is no model to make them.

    Raises:
        ConfigurationError: One of them is unknown, or what knows them is not installed.
    """
    try:
        from rsd_integrations.speculation.parsing import parsed
    except ModuleNotFoundError as error:
        raise MissingDependency(str(error.name), "hf", "replaying speculation") from error
    return parsed(speculation)


def _data(part: Data) -> dict[str, Any]:
    """A part without what is as by default, which later versions may have more of."""
    return {"kind": getattr(part, "kind", ""), **part.model_dump(mode="json", exclude_defaults=True)}
