"""Work begun before it is known to be needed: drafts ahead of the verifier, the target ahead of a rejection.

A step's seeds depend on the request, the role, the step's index and the attempt, never on when it is asked for. So a
call that is begun early is the very call that would have been made later: whoever needs it claims it, and a result is
the same with and without. What nobody came to claim is cancelled, and is on the ledger as discarded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, Self, cast

from rsd_core.concurrency import contained, settle
from rsd_core.errors import VerifierError
from rsd_core.interfaces import Drafter, Scores, ScoresRuns, StepRequest, Target, Verifier
from rsd_core.ledger import Ledger, Role
from rsd_core.model import Interrupted, Model, Usage, usage_of
from rsd_core.observing import Watches
from rsd_core.paths import Path, Step
from rsd_core.queueing import CALLER, Caller
from rsd_core.results import FinishReason
from rsd_core.thoughts.reading import Kind

WORTHWHILE = 0.5
"""A draft ahead saves up to the time that the verifier takes where its step is accepted, and wastes as much of the
drafter's where not; so it pays where it is as likely as not to be used.

With a verifier that scores runs, an accepted draft saves one whole call, and a rejected one wastes itself alone. Of
those k steps ahead, about k fit into a call; so with an acceptance estimate p, the k-th pays where p k >= 1 - p: from
1 / (1 + k) on."""

CallRequest = StepRequest | tuple[Step, ...]


@cache
def _scores_runs(kind: type[Verifier]) -> bool:
    """Whether verifiers of a class score runs; looked up once, since a protocol is slow to ask."""
    return issubclass(kind, ScoresRuns)


class Position(Protocol):
    """What lookahead needs to know of a response: where it is, whether it goes on, and how it would with a step."""

    @property
    def path(self) -> Path:
        """The steps so far."""

    @property
    def kind(self) -> Kind:
        """What the next step is part of, thought or answer: each may have models of its own."""

    @property
    def finish(self) -> FinishReason | None:
        """Why the response ends here, if it does."""

    def extend(self, step: Step) -> Self:
        """The response as it will be when the step is accepted."""

    def is_mark(self, step: Step) -> bool:
        """Whether a step holds a marker alone, which is never scored."""

    def step_request(self, role: Role, *, ahead: int) -> StepRequest:
        """What a model is asked for here."""


@dataclass(slots=True)
class AcceptanceEstimate:
    """How likely a drafted step is to be accepted, by this response's own steps (Laplace's rule of succession)."""

    accepted: int = 0
    drafted: int = 0

    def add(self, accepted: bool) -> None:
        """Count a drafted step that was decided."""
        self.accepted += accepted
        self.drafted += 1

    @property
    def value(self) -> float:
        """The probability, in (0, 1)."""
        return (self.accepted + 1) / (self.drafted + 2)


class _Work:
    """A call at work; the steps of a run share one."""

    def __init__(self, caller: Caller, model: Model, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        self.started = False
        """Whether it has reached its model: a call that was cancelled before costs nothing."""
        self.charged = False
        """Whether a run that failed or was cut is on the ledger."""
        self.task: asyncio.Task[Any] = asyncio.ensure_future(self._run(caller, model, work))

    async def _run(self, caller: Caller, model: Model, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        self.started = True
        CALLER.set(caller)  # for this task
        return await contained(model, work())


@dataclass(frozen=True, slots=True)
class _Call:
    model: Model
    request: CallRequest
    work: _Work
    at: int | None = None
    """Which step of a run this is about; None where the call is about nothing else."""

    @property
    def result(self) -> Any:
        result = self.work.task.result()
        return result if self.at is None else result[self.at]

    @property
    def draft(self) -> tuple[Step, ...]:
        """The step that a drafter wrote; none while it writes, and none if it failed."""
        task = self.work.task
        ready = task.done() and not task.cancelled() and not task.exception()
        return self.result.steps if ready and len(self.result.steps) == 1 else ()


class Lookahead:
    """The early calls of one request, each by its role and the path that it goes on from.

    Args:
        ledger: Where discarded work is charged.
        depth: How many steps after the one that is being decided are drafted; from 2 on they are scored as well. Of a
            verifier that scores runs, after the last one that it is scoring.
        caller: Whose calls they are.
    """

    def __init__(self, ledger: Ledger, depth: int, caller: Caller) -> None:
        self._ledger, self.depth, self._caller = ledger, depth, caller
        self.watches: Watches | None = None
        """Who watches the calls."""
        self.estimate = AcceptanceEstimate()
        self._calls: dict[tuple[Role, Path], _Call] = {}
        self._dropped: list[tuple[Role, _Call]] = []
        self._assumed: dict[Path, Any] = {}
        """By path: the position as it will be when the step drafted there is accepted."""
        self._go_on: Callable[[], object] | None = None

    @property
    def ahead(self) -> int:
        """How many steps after the present one are likely to be asked for next."""
        return self.depth if self.depth and self.estimate.value >= WORTHWHILE else 0

    def claim(self, role: Role, model: Model, path: Path, request: CallRequest) -> Coroutine[Any, Any, Any] | None:
        """The result of this very call, if it was begun."""
        call = self._calls.get((role, path)) if self._calls else None
        begun = call is not None and call.request == request and call.model is model
        return self._result(role, path) if begun else None

    def follow(self, position: Position, step: Step, drafter: Drafter, verifier: Verifier) -> None:
        """Let the drafter go on after a step that is being scored, as far as depth and the acceptance estimate allow.

        Goes on by itself when a draft is ready, until the step is decided. A verifier that scores runs is asked about
        the step and the drafts after it in one call, unless its last one was about the step as well.
        """
        self._go_on = lambda: self._follow(position, step, drafter, verifier)
        ready = self._follow(position, step, drafter, verifier)
        if _scores_runs(type(verifier)) and ("verifier", position.path) not in self._calls:
            self._begin_run(verifier, ready, cast("ScoresRuns", verifier).score_run)

    def hedge(self, path: Path, target: Target, request: StepRequest) -> None:
        """Let the target write the present step, in case its draft is rejected."""
        self._begin("target", target, path, request, target.generate)

    def on_accept(self, path: Path, step: Step) -> Any:
        """A step becomes part of the response: the position after it, where that was assumed.

        What was begun elsewhere is dropped. The assumed position's path is the one that early calls, and the caches
        of their models, are keyed on.
        """
        if not self._calls and not self._assumed:
            return None
        assumed = self._assumed.pop(path, None)
        self._go_on = None
        if assumed is not None and assumed.path.step is step:
            self._drop(lambda _, at: at is path)
            return assumed
        self._assumed.clear()
        self._drop(lambda *_: True)
        return None

    def on_reject(self) -> None:
        """The drafted step is rejected: what was begun after it is dropped, but for the target's hedge."""
        self._go_on = None
        self._assumed.clear()
        if self._calls:
            self._drop(lambda role, _: role != "target")

    async def aclose(self) -> None:
        """Cancel what nobody needs any more, wait for its end, and charge it."""
        self.on_reject()
        self._drop(lambda *_: True)
        try:
            await settle(call.work.task for _, call in self._dropped)
        finally:
            while self._dropped:
                self._charge(*self._dropped.pop())

    def _follow(self, position: Position, step: Step, drafter: Drafter, verifier: Verifier) -> list[tuple[Path, Step]]:
        """Draft ahead; the present step and the drafts that are ready, each with the path before it."""
        estimate, runs, kind = self.estimate.value, _scores_runs(type(verifier)), position.kind
        ready = [(position.path, step)] if _is_judged(position, step) else []
        # The depth of a verifier of runs counts from the last step that it is scoring: drafts gather for its next call.
        scored = sum(runs and role == "verifier" for role, _ in self._calls)
        for level in range(1, scored + self.depth + 1):
            if estimate**level < (1 / (1 + level) if runs else WORTHWHILE):
                break
            path = position.path
            if level > 1 and not runs and _is_judged(position, step):
                self._begin("verifier", verifier, path, (step,), verifier.score)
            if path not in self._assumed:
                self._assumed[path] = position.extend(step)
            position = self._assumed[path]
            if position.finish is not None or position.kind != kind:
                break
            call = self._calls.get(("drafter", position.path))
            if call is None:
                request = position.step_request("drafter", ahead=self.ahead)
                call = self._begin("drafter", drafter, position.path, request, drafter.generate)
            if not call.draft:
                break
            (step,) = call.draft
            if len(ready) == level and _is_judged(position, step):  # a run ends where there is nothing to be judged
                ready.append((position.path, step))
        return ready

    def _begin(
        self, role: Role, model: Model, path: Path, request: Any, work: Callable[[Path, Any], Coroutine[Any, Any, Any]]
    ) -> _Call:
        call = self._calls.get((role, path))
        if call is not None and call.request == request:
            return call
        self._drop(lambda *key: key == (role, path))
        call = _Call(model, request, self._work(role, model, lambda: work(path, request)))
        call.work.task.add_done_callback(lambda _: self._go_on and self._go_on())
        self._calls[role, path] = call
        return call

    def _begin_run(
        self,
        model: Model,
        run: Sequence[tuple[Path, Step]],
        work: Callable[[Path, Sequence[Step]], Coroutine[Any, Any, Sequence[Scores]]],
    ) -> None:
        """One call for steps that follow each other; none where it is a single step.

        The present step is the first of them and waits for the call, so while it runs they are only dropped together.
        """

        async def score() -> list[Scores]:
            replies = await work(run[0][0], [step for _, step in run])
            if len(replies) != len(run):
                read = sum([scores.usage for scores in replies], Usage())
                raise VerifierError(f"{model!r} scored {len(replies)} steps of a run of {len(run)}", usage=read)
            return list(replies)

        if len(run) > 1:
            shared = self._work("verifier", model, score)
            for at, (path, step) in enumerate(run):
                self._calls["verifier", path] = _Call(model, (step,), shared, at)

    def _work(self, role: Role, model: Model, work: Callable[[], Coroutine[Any, Any, Any]]) -> _Work:
        watches = self.watches
        return _Work(self._caller, model, work if watches is None else lambda: watches.call(role, model, work()))

    async def _result(self, role: Role, path: Path) -> Any:
        # Taken out only here: a coroutine that is closed before it runs leaves its call to be charged as dropped.
        call = self._calls.pop((role, path))
        try:
            await call.work.task
            return call.result
        except Exception as error:
            if call.at is None:
                raise
            self._charge_run(role, call, error)
        except asyncio.CancelledError:
            call.work.charged = True  # by whoever claimed it
            task = call.work.task
            if task.done() and not task.cancelled() and not task.exception():  # just before it could be cancelled
                raise Interrupted(call.result.usage) from None
            raise
        # A run may have failed because of another of its steps, so this one is asked for alone.
        assert isinstance(call.model, Verifier)
        assert isinstance(call.request, tuple)
        work = call.model.score(path, call.request)
        return await (work if self.watches is None else self.watches.call(role, call.model, work))

    def _drop(self, unwanted: Callable[[Role, Path], bool]) -> None:
        for key in [key for key in self._calls if unwanted(*key)]:
            call = self._calls.pop(key)
            call.work.task.cancel()
            self._dropped.append((key[0], call))

    def _charge(self, role: Role, call: _Call) -> None:
        if not call.work.started:
            return None
        account = self._ledger.account(role)
        scored: tuple[Step, ...] = ()
        try:
            usage: Usage = call.result.usage
        except (Exception, asyncio.CancelledError) as error:
            if call.at is not None:
                return self._charge_run(role, call, error)
            usage = usage_of(error) or Usage()
            account.charge(call.model, usage, failed=True)
        else:
            account.charge(call.model, usage)
            scored = call.request if isinstance(call.request, tuple) else ()
        account.discarded += usage.generated + sum(step.size for step in scored)
        return None

    def _charge_run(self, role: Role, call: _Call, error: BaseException) -> None:
        """Charge a run that failed or was cut, once for all of its steps."""
        if not call.work.charged:
            call.work.charged = True
            self._ledger.account(role).charge(call.model, usage_of(error) or Usage(), failed=True)


def _is_judged(position: Position, step: Step) -> bool:
    """Whether a verifier is asked about a step."""
    return bool(step.text.strip()) and not position.is_mark(step)
