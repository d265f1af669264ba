"""Work begun before it is known to be needed: drafts ahead of the verifier, the target ahead of a rejection.

A step's seeds depend on the request, the role, the step's index and the attempt, never on when it is asked for. So a
call that is begun early is the very call that would have been made later: whoever needs it finds it, and a result is
the same with and without. What nobody came to need is cancelled, and is on the ledger as discarded.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rsd_core.interfaces import Drafter, Interrupted, Model, Scores, ScoresRuns, StepRequest, Target, Usage, Verifier
from rsd_core.ledger import Ledger, Role
from rsd_core.paths import Path, Step

if TYPE_CHECKING:
    from rsd_core.request import Request

WORTHWHILE = 0.5
"""A draft ahead saves up to the time that the verifier takes where its step stays, and wastes as much of the drafter's
where not; so it pays where it is as likely as not to be used.

With a verifier that scores runs, a draft that stays saves one whole call, and one that does not wastes itself alone. Of
those k steps ahead, about k fit into a call; so with odds p, the k-th pays where p k >= 1 - p: from 1 / (1 + k) on."""

Asked = StepRequest | tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class _Call:
    model: Model
    asked: Asked
    task: asyncio.Task[Any]
    at: int | None = None
    """Which step of a run this is about; None where the call is about nothing else."""

    @property
    def result(self) -> Any:
        return self.task.result() if self.at is None else self.task.result()[self.at]

    @property
    def draft(self) -> tuple[Step, ...]:
        """The step that a drafter wrote; none while it writes, and none if it failed."""
        ready = self.task.done() and not self.task.cancelled() and not self.task.exception()
        return self.result.steps if ready and len(self.result.steps) == 1 else ()


class Lookahead:
    """The early calls of one request, each by its role and the path that it goes on from.

    Args:
        ledger: Where work that was thrown away is charged.
        depth: How many steps after the one that is being decided are drafted; from 2 on they are scored as well. Of a
            verifier that scores runs, after the last one that it is scoring.
    """

    def __init__(self, ledger: Ledger, depth: int) -> None:
        self._ledger, self.depth = ledger, depth
        self._begun: dict[tuple[Role, Path], _Call] = {}
        self._dropped: list[tuple[Role, _Call]] = []
        self._assumed: dict[Path, Request] = {}
        """By path: the request as it will be when the step drafted there stays."""
        self._go_on: Callable[[], object] = lambda: None

    def take(self, role: Role, path: Path, asked: Asked) -> Coroutine[Any, Any, Any] | None:
        """The result of this very call, if it was begun."""
        call = self._begun.get((role, path))
        return self._result(role, path) if call is not None and call.asked == asked else None

    def follow(self, request: Request, step: Step, drafter: Drafter, verifier: Verifier) -> None:
        """Let the drafter go on after a step that is being scored, as far as depth and odds allow.

        Goes on by itself when a draft is ready, until the step stays or falls. A verifier that scores runs is asked
        about the step and the drafts after it in one call, unless its last one was about the step as well.
        """
        if self.depth:
            self._go_on = lambda: self._follow(request, step, drafter, verifier)
            ready = self._follow(request, step, drafter, verifier)
            if isinstance(verifier, ScoresRuns) and ("verifier", request.path) not in self._begun:
                self._begin_run(verifier, ready, verifier.score_run)

    def hedge(self, request: Request, target: Target, asked: StepRequest) -> None:
        """Let the target write the present step, in case its draft is rejected."""
        self._begin("target", target, request.path, asked, target.generate)

    def stays(self, path: Path, step: Step) -> Path:
        """A step becomes part of the answer: the path that goes on with it. What was begun elsewhere is dropped."""
        assumed = self._assumed.pop(path, None)
        self._go_on = lambda: None
        if assumed is not None and assumed.path.step is step:
            self._drop(lambda _, at: at is path)
            return assumed.path
        self._assumed.clear()
        self._drop(lambda *_: True)
        return path.extend(step)

    def falls(self) -> None:
        """The drafted step is rejected: what was begun after it is dropped."""
        self._go_on = lambda: None
        self._assumed.clear()
        self._drop(lambda role, _: role != "target")

    async def aclose(self) -> None:
        """Cancel what nobody needs any more, wait for its end, and charge it."""
        self.falls()
        self._drop(lambda *_: True)
        if self._dropped:
            await asyncio.wait({call.task for _, call in self._dropped})
        while self._dropped:
            self._charge(*self._dropped.pop())

    def _follow(self, request: Request, step: Step, drafter: Drafter, verifier: Verifier) -> list[tuple[Path, Step]]:
        """Draft ahead; the present step and the drafts that are ready, each with the path before it."""
        odds, ready, runs = request.odds, [(request.path, step)], isinstance(verifier, ScoresRuns)
        scored = sum(runs and role == "verifier" for role, _ in self._begun)
        for level in range(1, scored + self.depth + 1):
            if odds**level < (1 / (1 + level) if runs else WORTHWHILE):
                break
            if level > 1 and not runs and step.text.strip():
                self._begin("verifier", verifier, request.path, (step,), verifier.score)
            if request.path not in self._assumed:
                self._assumed[request.path] = request.assuming(step)
            request = self._assumed[request.path]
            if request.finish is not None:
                break
            made = self._begin("drafter", drafter, request.path, request.asks("drafter", 1), drafter.generate)
            if not made.draft:
                break
            (step,) = made.draft
            ready.append((request.path, step))
        return ready

    def _begin(
        self, role: Role, model: Model, path: Path, asked: Any, work: Callable[[Path, Any], Coroutine[Any, Any, Any]]
    ) -> _Call:
        call = self._begun.get((role, path))
        if call is not None and call.asked == asked:
            return call
        self._drop(lambda *key: key == (role, path))

        async def run() -> Any:
            return await work(path, asked)

        call = _Call(model, asked, asyncio.ensure_future(run()))
        call.task.add_done_callback(lambda _: self._go_on())
        self._begun[role, path] = call
        return call

    def _begin_run(
        self,
        model: Model,
        ready: Sequence[tuple[Path, Step]],
        work: Callable[[Path, Sequence[Step]], Coroutine[Any, Any, Sequence[Scores]]],
    ) -> None:
        """One call for steps that follow each other, up to a blank one; none where it is a single step.

        The present step is the first of them and waits for the call, so while it runs they are only dropped together.
        """
        run = list(itertools.takewhile(lambda one: one[1].text.strip(), ready))

        async def score() -> list[Scores]:
            steps = [step for _, step in run]
            return [scores for scores, _ in zip(await work(run[0][0], steps), steps, strict=True)]

        if len(run) > 1:
            task = asyncio.ensure_future(score())
            for at, (path, step) in enumerate(run):
                self._begun["verifier", path] = _Call(model, (step,), task, at)

    async def _result(self, role: Role, path: Path) -> Any:
        # Taken out only here: a coroutine that is closed before it runs leaves its call to be charged as dropped.
        call = self._begun.pop((role, path))
        try:
            await call.task
            return call.result
        except Exception:
            if call.at is None:
                raise
        # A run may have failed because of another of its steps, so this one is asked for alone.
        assert isinstance(call.model, Verifier)
        assert isinstance(call.asked, tuple)
        return await call.model.score(path, call.asked)

    def _drop(self, unwanted: Callable[[Role, Path], bool]) -> None:
        for key in [key for key in self._begun if unwanted(*key)]:
            call = self._begun.pop(key)
            call.task.cancel()
            self._dropped.append((key[0], call))

    def _charge(self, role: Role, call: _Call) -> None:
        account = self._ledger.account(role)
        scored: tuple[Step, ...] = ()
        if call.at and call.task.cancelled():  # what a run had done by then is charged with its first step
            return
        try:
            usage: Usage = call.result.usage
            scored = call.asked if isinstance(call.asked, tuple) else ()
        except Interrupted as cut:
            usage = cut.usage
        except (Exception, asyncio.CancelledError):  # a call that failed costs nothing, as everywhere
            return
        account.charge(call.model, usage)
        account.discarded += usage.generated + sum(step.size for step in scored)
