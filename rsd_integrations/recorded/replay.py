"""Answers in place of models from a record of their calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path as FilePath
from typing import Any

from rsd_core import ConfigurationError, Path, Scores, Thinking, UnrecoverableError, Usage, add_usage
from rsd_core.data import masked
from rsd_integrations.recorded.costs import estimated, usage_of
from rsd_integrations.recorded.file import Recorded, RunRecord
from rsd_integrations.recorded.models import Call, Live, TapedModel, taped
from rsd_integrations.recorded.replies import error_of, reply_of, thinking_of


class MissingCallError(UnrecoverableError):
    """A call that was never recorded, so there is no reply to it."""


class Replay:
    """The models of a record, which reply as recorded.

    Args:
        file: The record, or the name of one that ships with the package.

    Raises:
        ConfigurationError: There is none, or the file is not a record.
    """

    def __init__(self, file: FilePath | str) -> None:
        self.record = RunRecord.load(file)
        self._file = file
        self._models: dict[str, TapedModel] = {}

    @property
    def title(self) -> str:
        """The source of the answers, for display."""
        return f"{self._file}, recorded {self.record.header['created']}"

    def load(self, given: Any) -> Any:
        """A model by its recorded spec. For `RSDConfig.setup(load=…)`.

        Raises:
            ConfigurationError: No such model was recorded.
        """
        spec = masked(str(given))
        if spec not in self._models:
            facts = next((facts for facts in self.record.models if facts["spec"] == spec), None)
            if facts is None:
                known = ", ".join(facts["spec"] for facts in self.record.models)
                raise ConfigurationError(f"{self._file} holds no calls of {spec!r}; its models are {known}")
            model = taped(self, facts)
            if facts["leaves_it_to"] is not None:
                model.stronger = self.load(facts["leaves_it_to"])
            self._models[spec] = model
        return self._models[spec]

    async def answer(self, call: Call, live: Live) -> Any:  # noqa: ARG002
        """The recorded reply.

        Raises:
            MissingCallError: The call was never recorded.
            RSDError: The call failed when it was recorded.
        """
        recorded, usage = self._found(call)
        if "error" in recorded.reply:
            error = error_of(recorded.reply)
            add_usage(error, usage)
            raise error
        reply = reply_of(recorded.reply, usage)
        call.note(usage, getattr(reply, "steps", ()))
        return reply

    async def answer_run(self, calls: Sequence[Call], live: Live) -> Sequence[Scores]:
        """The recorded replies, one by one."""
        return [await self.answer(call, live) for call in calls]

    def thinking(self, model: TapedModel, key: str, live: Callable[[], Thinking | None]) -> Thinking | None:  # noqa: ARG002
        """The recorded value; None if there is none, as models return if it is unknown."""
        recorded = self.record.calls.get(key)
        return None if recorded is None else thinking_of(recorded.reply)

    def _found(self, call: Call) -> tuple[Recorded, Usage]:
        begun = call.begin()
        recorded = self.record.calls.get(call.key)
        if recorded is None:
            raise MissingCallError(self._missing(call))
        cost = recorded.costs.get(begun.label)
        return recorded, usage_of(cost, call.drafter) if cost else estimated(recorded.costs, begun, call.drafter)

    def _missing(self, call: Call) -> str:
        roles = "/".join(call.model.facts["roles"])
        methods = sorted({method for run in self.record.runs for method in run.get("methods", ())})
        made = f" The record was made with {', '.join(methods)}." if methods else ""
        return (
            f"{self._file} does not hold this call: {call.name} of the {roles} {call.model.spec}, {_where(call.path)}."
            f"{made} A replay can only make recorded calls; to extend the record, run the same command on "
            "the models, with --record in place of --replay"
        )


def _where(path: Path) -> str:
    question = _short(path.prompt[-1].content)
    if path.step is None:
        return f"at the beginning of the answer to {question!r}"
    return f"after step {path.depth} ({_short(path.step.text)!r}) of the answer to {question!r}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:57]}…"
