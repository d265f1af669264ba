"""The calls of one request: the one place that guards them, charges them and applies the rules for faults."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Literal, TypeVar, cast

from rsd_core.checks import checked_entropy, checked_likelihoods, checked_scores, checked_steps
from rsd_core.concurrency import ended_process
from rsd_core.errors import (
    ConfigurationError,
    DrafterError,
    RunError,
    TargetError,
    UnrecoverableError,
    VerifierError,
    may_pass,
)
from rsd_core.guard import Guard
from rsd_core.health import Health
from rsd_core.interfaces import (
    Drafter,
    Entropy,
    FirstTokenEntropy,
    Generation,
    HasLikelihood,
    Likelihoods,
    Scores,
    Speculation,
    Target,
    Verifier,
)
from rsd_core.ledger import Role
from rsd_core.limits import LimitReached
from rsd_core.lookahead import Lookahead
from rsd_core.model import Interrupted, Model, Usage, usage_of
from rsd_core.observing import Watches
from rsd_core.paths import Path, Step
from rsd_core.queueing import CALLER, Caller
from rsd_core.request import Request
from rsd_core.results import DegradationKind, FinishReason, StepRecord
from rsd_core.thoughts.reading import reader_at

logger = logging.getLogger(__name__)
Reply = TypeVar("Reply", Generation, Scores, Likelihoods, Entropy)
_NOTHING = Usage()


class Calls:
    """Calls models for a request and its branches.

    A call that may not be made, or is cut short, raises `LimitReached`, which the decoder's facade turns into the
    result's finish reason. Whatever ends a call, its work is on the ledger before anything is raised.

    Args:
        guard: Deadline and cancellation.
        early: Work begun speculatively.
        health: Which of the decoder's models have ever worked.
        caller: The request that makes the calls.
    """

    def __init__(self, guard: Guard, early: Lookahead, health: Health, caller: Caller) -> None:
        self._guard, self._early, self._health, self._caller = guard, early, health, caller
        self.watches: Watches | None = None
        """Who watches the request."""
        self._given_up: set[Drafter] = set()

    def watched_by(self, watches: Watches | None) -> None:
        """Report all calls from now on, including speculative ones."""
        self.watches = self._early.watches = watches

    async def draft(
        self, request: Request, drafter: Drafter, count: int | None = None, speculation: Speculation | None = None
    ) -> tuple[Step, ...]:
        """Candidates for the next step; none when the drafter failed, which is noted, or would fail again."""
        if drafter in self._given_up:
            return ()
        self._early.speculation = speculation
        try:
            wanted = count or request.settings.candidates
            generation = await self._generate(request, "drafter", drafter, wanted, speculation=speculation)
        except Exception as error:
            self._fault(request, "drafter", error)
            if not may_pass(error):
                self._given_up.add(drafter)
            return ()
        request.undecided += generation.steps
        return generation.steps

    async def measure_entropy(self, request: Request, drafter: Drafter) -> None:
        """Note how uncertain the drafter is about the first token of the step; a fault leaves it unknown."""
        assert isinstance(drafter, FirstTokenEntropy)
        try:
            self._guard.check()
            work = self._seen("drafter", drafter, drafter.first_token_entropy(request.path))
            entropy: Entropy = await self._call(request, "drafter", drafter, work, checked_entropy)
        except Exception as error:
            self._fault(request, "drafter", error)
        else:
            request.entropy = entropy.nats

    async def draft_or_fail(self, request: Request, drafter: Drafter) -> Step:
        """The drafter's step where there is no target to fall back on.

        Raises:
            DrafterError: The drafter failed.
        """
        return (await self.drafts_or_fail(request, drafter, 1))[0]

    async def drafts_or_fail(self, request: Request, drafter: Drafter, count: int) -> tuple[Step, ...]:
        """Candidates where there is no target to fall back on.

        Raises:
            DrafterError: The drafter failed.
        """
        try:
            generation = await self._generate(request, "drafter", drafter, count)
        except Exception as error:
            self._fault(request, "drafter", error)
            raise DrafterError(f"the drafter {drafter.name!r} failed: {error}") from error
        request.undecided = generation.steps
        return generation.steps

    async def score(
        self, request: Request, verifier: Verifier, candidates: Sequence[Step], path: Path | None = None
    ) -> tuple[float | None, ...]:
        """Rewards of the candidates; none if the verifier failed and the settings do not say to raise.

        A reward is None if the verifier abstains. Candidates with nothing to judge are not sent to it: a blank one gets
        the reward 0, a bare marker None. The candidates follow the path, by default the request's.

        Raises:
            VerifierError: The verifier failed, and `on_verifier_error` is `raise`.
        """
        at, part = path or request.path, request.progress.part
        if part.is_plain and path is None:
            marks: Sequence[Step] = ()
        else:
            reader = part.reader if path is None else reader_at(path)
            marks = [step for step in candidates if reader.is_mark(step.text)]
        nonblank = tuple([step for step in candidates if step.text.strip() and step not in marks])
        if not nonblank:
            return tuple([None if step in marks else 0.0 for step in candidates])
        try:
            if self._guard.watches:
                self._guard.check()
            begun = self._early.claim("verifier", verifier, at, nonblank)
            work = begun or self._seen("verifier", verifier, verifier.score(at, nonblank))
            scores: Scores = await self._call(request, "verifier", verifier, work, checked_scores, len(nonblank))
        except Exception as error:
            if request.settings.on_verifier_error == "raise":
                self._raise_if_unrecoverable(request, error)
                self._health.warn()
                message = f"the verifier {verifier.name!r} failed at step {request.index}: {error}"
                raise VerifierError(message) from error
            self._fault(request, "verifier", error)
            return ()
        abstained = scores.rewards.count(None)
        request.ledger.verifier.abstained += abstained
        if self._health.silent is not None:
            self._health.scored(verifier, rewarded=abstained < len(nonblank))
            self._health.warn()
        if len(nonblank) == len(candidates):
            return scores.rewards
        rewards = iter(scores.rewards)
        return tuple([None if step in marks else next(rewards) if step.text.strip() else 0.0 for step in candidates])

    def target_is_spent(self, request: Request, target: Target, reads: int | None = None) -> bool:
        """Whether a limit rules the target out, so that the draft must be kept; noted once a step, if so.

        `reads` is the most tokens that it would read, by default those of prompt and response.
        """
        room, limit = self._target_room(request, target, reads or request.read_at_most)
        noted = (request.index, "target_limit") in [(last.step, last.kind) for last in request.degradations[-1:]]
        if room < 1 and not noted:
            request.degrade("target_limit", f"{limit} is reached: the draft is kept whatever its reward")
        return room < 1

    async def replace(
        self,
        request: Request,
        target: Target,
        count: int = 1,
        rejected: Step | None = None,
        speculation: Speculation | None = None,
    ) -> tuple[Step, ...]:
        """The target's step in place of a rejected one, or several candidates for it, tried again after a fault.

        After a fault the target is asked for nothing but the step: without a guess, and without speculation.

        Raises:
            TargetError: It failed once more than `target_retries` allows, or in a way that no retry can help.
        """
        settings = request.settings
        reused = settings.reuse_rejected and request.terms.wastes_target
        for attempt in range(settings.target_retries + 1):
            room, limit = self._target_room(request, target, request.read_at_most)
            if limit is not None and room < count:
                raise LimitReached(limit)
            guess = rejected if reused and attempt == 0 else None  # which a fault may come from
            speculation = speculation if attempt == 0 else None
            try:
                reply = await self._generate(request, "target", target, count, room / count, guess, speculation)
                return reply.steps
            except Exception as error:
                self._raise_if_unrecoverable(request, error)
                wrong = isinstance(error, ConfigurationError) and guess is None
                if wrong or attempt == settings.target_retries or not may_pass(error):
                    self._health.warn()
                    times = f"{attempt + 1} times" if attempt else "once"
                    message = f"the target {target.name!r} failed {times} at step {request.index}: {error}"
                    raise TargetError(message) from error
                self._fault(request, "target", error, "; trying again")
                logger.info("step %d: the target %r is tried again (%d)", request.index, target.name, attempt + 1)
        raise AssertionError("unreachable")

    async def log_likelihoods(
        self, request: Request, role: Role, model: Drafter | Target, candidates: Sequence[Step]
    ) -> tuple[float, ...]:
        """Log-probabilities of the candidates, from a drafter or target that reports them; none after a fault of it."""
        assert isinstance(model, HasLikelihood)
        try:
            self._guard.check()
            work = self._seen(role, model, model.log_likelihoods(request.path, candidates))
            reply: Likelihoods = await self._call(request, role, model, work, checked_likelihoods, len(candidates))
        except Exception as error:
            self._fault(request, role, error)
            return ()
        return reply.values

    def hedge(self, request: Request, target: Target, speculation: Speculation | None = None) -> None:
        """Let the target begin the step at once if the draft is likely to be rejected (see `Settings.hedge`)."""
        threshold = request.settings.hedge
        if threshold is None or 1 - self._early.estimate.value <= threshold:
            return
        if request.terms.wastes_target:
            wanted = request.progress.step_request("target", speculation=speculation)
            self._early.hedge(request.path, target, wanted)

    def look_ahead(self, request: Request, drafter: Drafter, verifier: Verifier, drafts: Sequence[Step]) -> None:
        """Let the drafter continue while its step is scored (see `Settings.lookahead`)."""
        if self._early.depth and len(drafts) == 1:
            self._early.follow(request.progress, drafts[0], drafter, verifier)

    def reject(self, request: Request, draft: Step, *, scored: bool) -> None:
        """Reject a draft, and drop what was begun after it."""
        self._early.on_reject()
        request.discard([draft], scored=scored)

    def keep(self, request: Request, draft: Step, reward: float | None) -> None:
        """Keep a draft while another one is written, and drop what was begun after it."""
        self._early.on_reject()
        request.kept, request.attempt = (draft, reward), request.attempt + 1

    def commit(
        self,
        request: Request,
        step: Step,
        author: Literal["draft", "target"],
        reward: float | None = None,
        rejected: Step | None = None,
    ) -> StepRecord:
        """Make a step part of the response, and keep the early work that continues it."""
        if author == "draft" or rejected is not None:
            self._early.estimate.add(author == "draft")
        return request.extend(step, author, reward, rejected, self._early.on_accept(request.path, step))

    async def aclose(self) -> None:
        """Cancel unused speculative calls and put their work on the ledger."""
        await self._early.aclose()

    def _generate(
        self,
        request: Request,
        role: Literal["drafter", "target"],
        model: Drafter | Target,
        count: int,
        at_most: float = math.inf,
        guess: Step | None = None,
        speculation: Speculation | None = None,
    ) -> Coroutine[Any, Any, Generation]:
        if self._guard.watches:
            self._guard.check()
        ahead = self._early.ahead if role == "drafter" and self._early.depth else 0
        step_request = request.progress.step_request(role, count, request.attempt, at_most, guess, ahead, speculation)
        begun = self._early.claim(role, model, request.path, step_request)
        work = begun or self._seen(role, model, model.generate(request.path, step_request))
        assistant = None if speculation is None else speculation.drafter
        return self._call(request, role, model, work, checked_steps, count, step_request, assistant=assistant)

    def _seen(self, role: Role, model: Model, work: Coroutine[Any, Any, Reply]) -> Coroutine[Any, Any, Reply]:
        """A call that begins now, wrapped by the observers if there are any."""
        return work if self.watches is None else self.watches.call(role, model, work)

    async def _call(
        self,
        request: Request,
        role: Role,
        model: Model,
        work: Coroutine[Any, Any, Reply],
        check: Callable[..., Reply],
        *terms: Any,
        assistant: Model | None = None,
    ) -> Reply:
        """Await a call of a model and charge it, whatever its end; what the check refuses has failed as well.

        The work of an assistant, which the usage reports in its parts, goes on the drafter's account.
        """
        token = CALLER.set(self._caller)
        try:
            reply = check(model, await (self._guard.call(work) if self._guard.watches else work), *terms)
        except BaseException as error:
            request.ledger.charge(role, model, usage_of(error) or _NOTHING, assistant, failed=True)
            failure = error if isinstance(error, Exception) else _as_fault(model, error)
            if isinstance(failure, Exception):
                self._health.failed(role, failure)
            if failure is not error:
                raise failure from error
            if isinstance(error, Interrupted):
                raise asyncio.CancelledError from None  # as timeouts expect
            raise
        finally:
            CALLER.reset(token)
        own = request.ledger.charge(role, model, reply.usage, assistant)
        if role in self._health.unproven:
            self._health.worked(role)
        if role != "verifier" and not request.prompt_tokens and not request.index:
            request.prompt_tokens = own.prefix
        return reply

    def _target_room(self, request: Request, target: Target, reads: int) -> tuple[float, FinishReason | None]:
        if request.terms.wastes_target:
            return math.inf, None
        return request.settings.limits.target_room(target, request.ledger.target, reads)

    def _fault(self, request: Request, role: Role, error: Exception, then: str = "") -> None:
        """Note a fault of a role that the request recovers from."""
        self._raise_if_unrecoverable(request, error)
        kind = cast("DegradationKind", f"{role}_error")
        request.degrade(kind, f"{type(error).__name__}: {error}{then}")
        logger.debug("step %d: %s", request.index, kind, exc_info=error)
        self._health.warn()

    def _raise_if_unrecoverable(self, request: Request, error: Exception) -> None:
        """Raise what no rule applies to, and what the caller has to put right, unless text is written already."""
        if isinstance(error, UnrecoverableError) or (isinstance(error, ConfigurationError) and not request.records):
            raise error


def _as_fault(model: Model, error: BaseException) -> BaseException:
    """Turn an exception that would end the task or process into a fault of the model that raised it."""
    if isinstance(error, SystemExit | KeyboardInterrupt):
        return ended_process(model, error)
    task = asyncio.current_task()
    if isinstance(error, asyncio.CancelledError) and task is not None and not task.cancelling():
        return RunError(f"{model!r} cancelled its own call")
    return error
