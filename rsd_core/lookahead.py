"""Speculative calls: drafts ahead of the verifier, and the target ahead of a rejection.

A step's seeds depend on the request, the role, the step's index and the attempt, never on when it is requested. So a
call begun early is the very call that would have been made later: it is claimed when needed, and the result is the same
either way. Unused speculative calls are cancelled and go on the ledger as discarded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, Self, cast

from rsd_core.concurrency import contained, settle
from rsd_core.errors import VerifierError
from rsd_core.interfaces import Drafter, Scores, ScoresRuns, Speculation, StepRequest, Target, Verifier
from rsd_core.ledger import Ledger, Role
from rsd_core.model import Interrupted, Model, Usage, usage_of
from rsd_core.observing import Watches
from rsd_core.paths import Path, Step
from rsd_core.queueing import CALLER, Caller
from rsd_core.results import FinishReason
from rsd_core.thoughts.reading import Kind

WORTHWHILE = 0.5
"""A draft ahead saves up to the verifier's time if the step before it is accepted, and wastes as much of the drafter's
if not; so it pays off if it is more likely than not to be used.

With a verifier that scores runs, a used draft saves one whole call, and an unused one wastes only itself. About k
drafts up to k steps ahead fit into a call; so the k-th, used with probability p (all before it accepted), pays off if
p k >= 1 - p, that is from p = 1 / (1 + k) on."""

CallRequest = StepRequest | tuple[Step, ...]


@cache
def _scores_runs(kind: type[Verifier]) -> bool:
    """Whether verifiers of a class score runs; cached, since protocol checks are slow."""
    return issubclass(kind, ScoresRuns)


class Position(Protocol):
    """What lookahead needs to know about a response: where it is, whether it continues, and how with one more step."""

    @property
    def path(self) -> Path:
        """The steps so far."""

    @property
    def kind(self) -> Kind:
        """Whether the next step is part of the thought or the answer, which may have different models."""

    @property
    def finish(self) -> FinishReason | None:
        """Why the response ends here, if it does."""

    def extend(self, step: Step) -> Self:
        """The response with this step accepted."""

    def is_mark(self, step: Step) -> bool:
        """Whether a step is a bare marker, which is never scored."""

    def step_request(self, role: Role, *, ahead: int, speculation: Speculation | None) -> StepRequest:
        """The request for a model's next step."""


@dataclass(slots=True)
class AcceptanceEstimate:
    """How likely a drafted step is to be accepted, estimated from this response (Laplace's rule of succession)."""

    accepted: int = 0
    drafted: int = 0

    def add(self, accepted: bool) -> None:
        """Count a decision about a drafted step."""
        self.accepted += accepted
        self.drafted += 1

    @property
    def value(self) -> float:
        """The probability, in (0, 1)."""
        return (self.accepted + 1) / (self.drafted + 2)


class _Work:
    """A running call; the steps of a run share one."""

    def __init__(self, caller: Caller, model: Model, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        self.started = False
        """Whether it has reached its model: a call cancelled before that costs nothing."""
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
    """Which step of a run this is; None for a call about a single step."""

    @property
    def result(self) -> Any:
        result = self.work.task.result()
        return result if self.at is None else result[self.at]

    @property
    def draft(self) -> tuple[Step, ...]:
        """The step that a drafter wrote; empty while it writes, and if it failed."""
        task = self.work.task
        ready = task.done() and not task.cancelled() and not task.exception()
        return self.result.steps if ready and len(self.result.steps) == 1 else ()


class Lookahead:
    """The speculative calls of one request, by role and by the path that they continue.

    Args:
        ledger: Where discarded work is charged.
        depth: How many steps to draft after the one being decided; from 2 on they are scored as well. For a verifier
            that scores runs, counted from the last step that it is scoring.
        caller: The request that makes the calls.
    """

    def __init__(self, ledger: Ledger, depth: int, caller: Caller) -> None:
        self._ledger, self.depth, self._caller = ledger, depth, caller
        self.watches: Watches | None = None
        """Observers of the calls."""
        self.speculation: Speculation | None = None
        """What proposes the drafter's tokens."""
        self.estimate = AcceptanceEstimate()
        self._calls: dict[tuple[Role, Path], _Call] = {}
        self._dropped: list[tuple[Role, _Call]] = []
        self._assumed: dict[Path, Any] = {}
        """By path: the position once the step drafted there is accepted."""
        self._go_on: Callable[[], object] | None = None

    @property
    def ahead(self) -> int:
        """How many steps after the current one are likely to be requested next."""
        return self.depth if self.depth and self.estimate.value >= WORTHWHILE else 0

    def claim(self, role: Role, model: Model, path: Path, request: CallRequest) -> Coroutine[Any, Any, Any] | None:
        """The result of this very call, if it was begun."""
        call = self._calls.get((role, path)) if self._calls else None
        begun = call is not None and call.request == request and call.model is model
        return self._result(role, path) if begun else None

    def follow(self, position: Position, step: Step, drafter: Drafter, verifier: Verifier) -> None:
        """Let the drafter continue after a step that is being scored, as far as depth and acceptance estimate allow.

        Continues whenever a draft is ready, until the step is decided. A verifier that scores runs gets the step and
        the drafts after it in one call, unless its last call already included the step.
        """
        self._go_on = lambda: self._follow(position, step, drafter, verifier)
        ready = self._follow(position, step, drafter, verifier)
        if _scores_runs(type(verifier)) and ("verifier", position.path) not in self._calls:
            self._begin_run(verifier, ready, cast("ScoresRuns", verifier).score_run)

    def hedge(self, path: Path, target: Target, request: StepRequest) -> None:
        """Let the target write the current step, in case its draft is rejected."""
        self._begin("target", target, path, request, target.generate)

    def on_accept(self, path: Path, step: Step) -> Any:
        """A step becomes part of the response: return the position after it, if that was assumed.

        Calls begun elsewhere are dropped. Speculative calls, and the caches of their models, are keyed on the assumed
        position's path.
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
        """The drafted step is rejected: calls begun after it are dropped, except the target's hedge."""
        self._go_on = None
        self._assumed.clear()
        if self._calls:
            self._drop(lambda role, _: role != "target")

    async def aclose(self) -> None:
        """Cancel unused calls, wait for them to end, and charge them."""
        self.on_reject()
        self._drop(lambda *_: True)
        try:
            await settle(call.work.task for _, call in self._dropped)
        finally:
            while self._dropped:
                self._charge(*self._dropped.pop())

    def _follow(self, position: Position, step: Step, drafter: Drafter, verifier: Verifier) -> list[tuple[Path, Step]]:
        """Draft ahead; return the current step and the finished drafts, each with the path before it."""
        estimate, runs, kind = self.estimate.value, _scores_runs(type(verifier)), position.kind
        ready = [(position.path, step)] if _is_judged(position, step) else []
        # With a verifier of runs, depth counts from the last step that it is scoring: drafts gather for its next call.
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
                request = position.step_request("drafter", ahead=self.ahead, speculation=self.speculation)
                call = self._begin("drafter", drafter, position.path, request, drafter.generate)
            if not call.draft:
                break
            (step,) = call.draft
            if len(ready) == level and _is_judged(position, step):  # a run ends at a step with nothing to judge
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
        """One call for consecutive steps; none for a single step.

        The current step is the first of them and waits for the call, so while it runs they are only dropped together.
        """

        async def score() -> list[Scores]:
            replies = await work(run[0][0], [step for _, step in run])
            if len(replies) != len(run):
                read = sum([scores.usage for scores in replies], Usage())
                raise VerifierError(f"{model!r} returned {len(replies)} scores for {len(run)} steps", usage=read)
            return list(replies)

        if len(run) > 1:
            shared = self._work("verifier", model, score)
            for at, (path, step) in enumerate(run):
                self._calls["verifier", path] = _Call(model, (step,), shared, at)

    def _work(self, role: Role, model: Model, work: Callable[[], Coroutine[Any, Any, Any]]) -> _Work:
        watches = self.watches
        return _Work(self._caller, model, work if watches is None else lambda: watches.call(role, model, work()))

    async def _result(self, role: Role, path: Path) -> Any:
        # Removed only here: if this coroutine is closed before it runs, its call stays to be charged as dropped.
        call = self._calls.pop((role, path))
        try:
            await call.work.task
            return call.result
        except Exception as error:
            if call.at is None:
                raise
            self._charge_run(role, call, error)
        except asyncio.CancelledError:
            call.work.charged = True  # by the caller that claimed it
            task = call.work.task
            if task.done() and not task.cancelled() and not task.exception():  # finished just before the cancellation
                raise Interrupted(call.result.usage) from None
            raise
        # Another step may have made the run fail, so this one is requested alone.
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
        asked, failed = call.request, False
        try:
            usage: Usage = call.result.usage
        except (Exception, asyncio.CancelledError) as error:
            if call.at is not None:
                return self._charge_run(role, call, error)
            usage, failed = usage_of(error) or Usage(), True
        speculation = asked.speculation if isinstance(asked, StepRequest) else None
        assistant = None if speculation is None else speculation.drafter
        self._ledger.charge(role, call.model, usage, assistant, failed=failed, kept=False)
        if isinstance(asked, tuple) and not failed:
            self._ledger.account(role).discarded += sum(step.size for step in asked)
        return None

    def _charge_run(self, role: Role, call: _Call, error: BaseException) -> None:
        """Charge a failed or interrupted run once for all of its steps."""
        if not call.work.charged:
            call.work.charged = True
            self._ledger.account(role).charge(call.model, usage_of(error) or Usage(), failed=True)


def _is_judged(position: Position, step: Step) -> bool:
    """Whether a step is sent to the verifier."""
    return bool(step.text.strip()) and not position.is_mark(step)
