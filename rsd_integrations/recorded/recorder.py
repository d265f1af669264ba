"""Records the calls of models."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from rsd_core import ConfigurationError, RSDError, Scores, Thinking, Usage, load
from rsd_core.data import masked
from rsd_core.model import usage_of
from rsd_integrations.batch.lock import WriterLock
from rsd_integrations.recorded.costs import Begun, cost_data
from rsd_integrations.recorded.file import Recorded, RunRecord, append
from rsd_integrations.recorded.models import Call, Live, TapedModel, facts_of, taped
from rsd_integrations.recorded.replies import error_data, reply_data, thinking_data


class Recorder:
    """A context manager that records the calls of models in a file.

    Calls are unaffected. An existing file is extended: with more methods, more problems, or the rest of an interrupted
    run. Recorded replies are kept; a reply replaces an error.

    Args:
        file: The record; `.jsonl.gz` by convention.
        run: The request of the run, as JSON data; secrets are masked.

    Raises:
        ConfigurationError: The file is not a record, or is being written by another process.
    """

    def __init__(self, file: Path, run: dict[str, Any]) -> None:
        self._file = file
        self._lock = WriterLock(file)
        try:
            self.record = self._opened()
        except BaseException:
            self._lock.release()
            raise
        self._new: list[dict[str, Any]] = [] if self.record.models or self.record.runs else [self.record.header]
        self._models: dict[str, TapedModel] = {}
        run = json.loads(masked(json.dumps(run)))
        if run not in self.record.runs:
            self._add({"run": run})

    def _opened(self) -> RunRecord:
        if not self._file.exists() or not self._file.stat().st_size:
            return RunRecord.new()
        record, whole = RunRecord.read(self._file)
        if whole < self._file.stat().st_size:  # the last writer was killed
            os.truncate(self._file, whole)
        return record

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def load(self, given: Any) -> Any:
        """Load a model by its spec and record it; each is loaded once. For `RSDConfig.setup(load=…)`."""
        if given not in self._models:
            if not isinstance(given, str):
                raise ConfigurationError(f"{given!r} has no spec under which to record it: give the model by its spec")
            self._models[given] = self.wrap(load(given), given)
        return self._models[given]

    def wrap(self, model: Any, spec: str) -> Any:
        """A recorded model with the same roles and abilities.

        Args:
            model: The model.
            spec: Its spec in the record.

        Raises:
            ConfigurationError: The record has another model with this spec.
        """
        facts = facts_of(model, masked(spec))
        stronger = getattr(model, "stronger", None)
        if stronger is not None:
            wrapped = self.wrap(stronger, f"{spec}, when asked by the policy")
            facts["leaves_it_to"] = wrapped.spec
        known = next((other for other in self.record.models if other["spec"] == facts["spec"]), None)
        if known is None:
            self._add(facts)
        elif known != facts:
            raise ConfigurationError(
                f"{self._file} holds calls of another {spec!r} ({_difference(known, facts)}); record into another file"
            )
        made = taped(self, facts, model)
        if stronger is not None:
            made.stronger = wrapped
        return made

    async def answer(self, call: Call, live: Live) -> Any:
        """Make a call and record its reply, or its error."""
        begun = call.begin()
        try:
            reply = await live()
        except Exception as error:
            role = next(iter(call.model.facts["roles"]))
            self._note(call, error_data(error, role), begun, usage_of(error) or Usage())
            raise
        call.note(reply.usage, getattr(reply, "steps", ()))
        self._note(call, reply_data(reply), begun, reply.usage)
        return reply

    async def answer_run(self, calls: Sequence[Call], live: Live) -> Sequence[Scores]:
        """Make a call for several scorings, and record each separately."""
        all_begun = [call.begin() for call in calls]
        replies: Sequence[Scores] = await live()
        for call, begun, scores in zip(calls, all_begun, replies, strict=False):
            call.note(scores.usage)
            self._note(call, reply_data(scores), begun, scores.usage)
        return replies

    def thinking(self, model: TapedModel, key: str, live: Callable[[], Thinking | None]) -> Thinking | None:
        """Ask a model how it thinks, and record its answer unless that is unknown (None)."""
        thinking = live()
        if thinking is not None and key not in self.record.calls:
            self._note_line(key, Recorded(self._number(model), "thinking", thinking_data(thinking)))
        return thinking

    def _note(self, call: Call, reply: dict[str, Any], begun: Begun, usage: Usage) -> None:
        known = self.record.calls.get(call.key)
        if known is not None and begun.label in known.costs and "error" not in known.reply:
            return
        costs = {begun.label: cost_data(usage, call.drafter)}
        self._note_line(call.key, Recorded(self._number(call.model), call.name, reply, costs))

    def _note_line(self, key: str, recorded: Recorded) -> None:
        self._add(recorded.lines(key))

    def _number(self, model: TapedModel) -> int:
        return next(i for i, facts in enumerate(self.record.models) if facts["spec"] == model.spec)

    def _add(self, line: dict[str, Any]) -> None:
        self.record.add(line)
        self._new.append(line)

    def flush(self) -> None:
        """Write everything recorded so far to the file.

        Raises:
            RSDError: It cannot be written.
        """
        new, self._new = self._new, []  # swapped at once, since models may be running
        if not new:
            return
        try:
            append(self._file, new)
        except OSError as error:
            self._new = new + self._new
            raise RSDError(f"{self._file} cannot be written: {error.strerror}; make room, then run again") from error

    def close(self) -> None:
        """Rewrite the file as one compressed block, and release its lock.

        Raises:
            RSDError: It cannot be written; flushed calls remain in the file.
        """
        try:
            if self.record.calls:
                self.record.write(self._file)
        finally:
            self._lock.release()


def _difference(known: dict[str, Any], facts: dict[str, Any]) -> str:
    name = next(name for name in facts if known.get(name) != facts[name])
    return f"its {name} is {known.get(name)!r} there and {facts[name]!r} now"
