"""The state of one request while it is decoded: what every decoder's loop is written in terms of."""

from __future__ import annotations

import asyncio
import bisect
import copy
import itertools
import math
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar

from rsd_core.errors import ConfigurationError, DrafterError, RunError, TargetError, VerifierError
from rsd_core.events import Degraded
from rsd_core.interfaces import (
    Drafter,
    Generation,
    HasLikelihood,
    Interrupted,
    Likelihoods,
    Model,
    Scores,
    SpeculativeTarget,
    StepRequest,
    Target,
    Verifier,
)
from rsd_core.ledger import Ledger, Role
from rsd_core.limits import Cancellation, Guard, LimitReached
from rsd_core.lookahead import WORTHWHILE, Lookahead
from rsd_core.paths import Path, Prompt, Step
from rsd_core.policies import Decision, WeightingPolicy
from rsd_core.randomness import Randomness
from rsd_core.results import Degradation, DegradationKind, FinishReason, Result, StepRecord
from rsd_core.settings import Settings
from rsd_core.stopping import stops_at

Work = TypeVar("Work", Generation, Scores, Likelihoods)


class Request:
    """Path, ledger and history of one request, with the moves a decoder can make.

    A step that reaches a limit sets `finish`. A call that may not be made, or is cut short, raises `LimitReached`,
    which the decoder's frame turns into the result's finish reason.
    """

    def __init__(
        self,
        prompt: Prompt,
        settings: Settings,
        seed: int,
        repeat: int = 0,
        cancel: Cancellation | None = None,
        stop: tuple[str, ...] = (),
    ) -> None:
        self.settings = settings
        self.path = Path(prompt)
        self.ledger = Ledger()
        self.records: list[StepRecord] = []
        self.degradations: list[Degradation] = []
        self.attempt = 0
        """Drafts of the present step that were retried."""
        self.finish: FinishReason | None = None
        """Why the answer is finished; None while it is not."""
        self.tokens = 0
        """Tokens of the answer so far."""
        self.prompt_tokens = 0
        """Length of the prompt as the model that read it first counts it."""
        self._stop = stop
        self._told = 0
        self._random = Randomness(seed, prompt, repeat)
        self._guard = Guard(settings.limits, cancel)
        self._early = Lookahead(self.ledger, settings.lookahead if settings.limits.allow_waste() else 0)

    @property
    def index(self) -> int:
        """Index of the step that is being decoded."""
        return self.path.depth

    @property
    def coin(self) -> float:
        """A number in [0, 1) for the decision about the present draft."""
        return self._random.uniform("coin", self.index, self.attempt)

    @property
    def odds(self) -> float:
        """How likely a drafted step is to stay, by this answer's own steps (Laplace's rule of succession)."""
        kept = sum(record.accepted for record in self.records)
        drafted = kept + sum(record.discarded_draft is not None for record in self.records)
        return (kept + 1) / (drafted + 2)

    def branch(self, label: int) -> Request:
        """Another answer from here on, with random numbers of its own, on the same ledger and under the same limits."""
        other = copy.copy(self)
        other.records = list(self.records)
        other._random = self._random.branch(label)
        return other

    def adopt(self, branch: Request) -> list[StepRecord]:
        """Take over a branch's answer; the records of its steps."""
        self.path, self.tokens, self.finish = branch.path, branch.tokens, branch.finish
        self.records = list(branch.records)
        return list(branch.records)

    def assuming(self, step: Step) -> Request:
        """The request as it will be when a drafted step stays."""
        other = copy.copy(self)
        other.records, other._early = list(self.records), Lookahead(self.ledger, self._early.depth)
        other.extend(step, "draft", None)
        return other

    def hedge(self, target: Target) -> None:
        """Let the target begin the step at once where its draft is likely to be rejected, see `Settings.hedge`."""
        threshold = self.settings.hedge
        if threshold is not None and 1 - self.odds > threshold and self.settings.limits.allow_waste(of_target=True):
            self._early.hedge(self, target, self.asks("target", 1))

    def look_ahead(self, drafter: Drafter, verifier: Verifier, drafts: Sequence[Step]) -> None:
        """Let the drafter go on while its step is scored, see `Settings.lookahead`."""
        if len(drafts) == 1:
            self._early.follow(self, drafts[0], drafter, verifier)

    async def draft(self, drafter: Drafter, count: int | None = None) -> tuple[Step, ...]:
        """Candidates for the next step; none when the drafter failed, which is noted."""
        try:
            return (await self._generate("drafter", drafter, count or self.settings.candidates)).steps
        except Exception as error:
            self._pass_configuration(error)
            self.degrade("drafter_error", f"{type(error).__name__}: {error}")
            return ()

    async def draft_or_fail(self, drafter: Drafter) -> Step:
        """The drafter's step where there is no target to fall back on.

        Raises:
            DrafterError: The drafter failed.
        """
        steps = await self.draft(drafter, 1)
        if not steps:
            raise DrafterError(f"the drafter {drafter.name!r} failed: {self.degradations[-1].message}")
        return steps[0]

    async def score(
        self, verifier: Verifier, candidates: Sequence[Step], path: Path | None = None
    ) -> tuple[float | None, ...]:
        """Rewards of the candidates; none when the verifier failed and the settings do not ask to raise.

        A reward is None where the verifier abstains. A blank candidate adds nothing that could be judged: its reward
        is 0, and the verifier is not asked. The candidates follow the path, by default the present one.
        """
        written = [step for step in candidates if step.text.strip()]
        found: tuple[float | None, ...] = ()
        if written:
            try:
                at, asked = path or self.path, tuple(written)
                work = self._early.take("verifier", at, asked) or verifier.score(at, asked)
                scores = await self._call("verifier", verifier, work)
                found = _checked(scores.rewards, len(written))
            except Exception as error:
                self._pass_configuration(error)
                if self.settings.on_verifier_error == "raise":
                    raise VerifierError(
                        f"the verifier {verifier.name!r} failed at step {self.index}: {error}"
                    ) from error
                self.degrade("verifier_error", f"{type(error).__name__}: {error}")
                return ()
        rewards = iter(found)
        return tuple(next(rewards) if step.text.strip() else 0.0 for step in candidates)

    def choose(self, rewards: Sequence[float | None]) -> int:
        """Which candidate goes before the policy: the best, or one drawn by the softmax of the rewards.

        One about which the verifier abstained is the last choice, or a middling one where such steps are kept.
        """
        unknown = 0.5 if self.settings.on_abstain == "accept" else -math.inf
        values = [unknown if reward is None else reward for reward in rewards]
        best, beta = max(values, default=-math.inf), self.settings.softmax_beta
        if beta is None or len(values) < 2 or best == -math.inf:
            return values.index(best) if values else 0
        mass = list(itertools.accumulate(math.exp(beta * (value - best)) for value in values))
        return bisect.bisect(mass, self._random.uniform("choice", self.index, self.attempt) * mass[-1])

    def decide(self, policy: WeightingPolicy, draft: Step | None, reward: float | None, *, scored: bool) -> Decision:
        """What becomes of the draft.

        Without a reward, `on_abstain` says it where the draft was scored, and `on_verifier_error` where that failed.
        """
        if draft is not None and reward is not None:
            return policy.decide(draft, reward, self)
        if draft is not None and (self.settings.on_abstain if scored else self.settings.on_verifier_error) == "accept":
            return "accept"
        policy.on_target_forced()
        return "target"

    def target_is_spent(self, target: Target) -> bool:
        """Whether a limit took the target away, so that a rejected draft has to be kept; noted when it did."""
        room, limit = self._target_room(target)
        if room < 1:
            self.degrade("target_limit", f"{limit} is reached: the draft is kept whatever its reward")
        return room < 1

    async def replace(self, target: Target, count: int = 1, rejected: Step | None = None) -> tuple[Step, ...]:
        """The target's step in place of a rejected one, or several candidates for it, tried again after a fault.

        Raises:
            TargetError: It failed once more than `target_retries` allows.
        """
        room, limit = self._target_room(target)
        if room < count and limit is not None:
            raise LimitReached(limit)
        reused = self.settings.reuse_rejected and self.settings.limits.allow_waste(of_target=True)
        for attempt in range(self.settings.target_retries + 1):
            try:
                guess = rejected if reused and attempt == 0 else None  # which a fault may come from
                return (await self._generate("target", target, count, room / count, guess)).steps
            except Exception as error:
                self._pass_configuration(error)
                if attempt == self.settings.target_retries:
                    raise TargetError(
                        f"the target {target.name!r} failed {attempt + 1} times at step {self.index}: {error}"
                    ) from error
                self.degrade("target_error", f"{type(error).__name__}: {error}; trying again")
        raise AssertionError("unreachable")

    async def likelihoods(self, role: Role, model: Drafter | Target, candidates: Sequence[Step]) -> tuple[float, ...]:
        """Log-probabilities of the candidates by a drafter or target that can tell them."""
        assert isinstance(model, HasLikelihood)
        return (await self._call(role, model, model.log_likelihoods(self.path, candidates))).values

    async def speculate(self, target: Target, drafter: Drafter) -> Step:
        """The rest of the answer by the target, with the drafter as its assistant."""
        assert isinstance(target, SpeculativeTarget)
        room = self.settings.limits.max_tokens
        asked = replace(
            self.asks("target", 1), delimiter=None, max_tokens=2**31 if room is None else room - self.tokens
        )
        made, assistance = await self._guard.call(target.speculate(self.path, asked, drafter))
        self.ledger.target.charge(target, made.usage)
        self.ledger.drafter.charge(drafter, assistance)
        self._count_prompt(made)
        return made.steps[0]

    def discard(self, rejected: Sequence[Step], scored: bool) -> None:
        """Note rejected drafts on the ledger; what was begun after them is dropped."""
        if rejected:
            self._early.falls()
        self.ledger.drafter.discarded += sum(step.size for step in rejected)
        if scored:
            self.ledger.verifier.discarded += sum(step.size for step in rejected if step.text.strip())

    def extend(
        self, step: Step, author: Literal["draft", "target"], reward: float | None, rejected: Step | None = None
    ) -> StepRecord:
        """Make a step part of the answer."""
        record = StepRecord(
            text=step.text,
            author=author,
            reward=reward,
            accepted=author == "draft",
            discarded_draft=None if rejected is None else rejected.text,
            size=step.size,
            native=step.native,
        )
        self.tokens += step.size
        self.attempt = 0
        if not step.text:
            self.finish = self._finish(step)
            return record
        self.records.append(record)
        self.path = self._early.stays(self.path, step)
        self.finish = "stop" if self._cut() else self._finish(step)
        return self.records[-1]

    def rate(self, rewards: Sequence[float | None]) -> StepRecord:
        """Note the reward of the last step itself, which the target wrote; none where the verifier failed."""
        if rewards:
            self.records[-1] = replace(self.records[-1], target_reward=rewards[0])
        return self.records[-1]

    def degrade(self, kind: DegradationKind, message: str) -> None:
        """Note a fault or limit that was got over."""
        self.degradations.append(Degradation(self.index, kind, message))

    def news(self) -> list[Degraded]:
        """What was noted since the last call, as events."""
        fresh = self.degradations[self._told :]
        self._told += len(fresh)
        return [Degraded(item.step, item) for item in fresh]

    def result(self, reason: FinishReason) -> Result:
        """The request as it stands."""
        return Result(
            prompt=self.path.prompt,
            text="".join(record.text for record in self.records),
            finish_reason=reason,
            steps=tuple(self.records),
            ledger=self.ledger,
            seconds=self._guard.elapsed,
            degradations=tuple(self.degradations),
        )

    async def aclose(self) -> None:
        """End what was begun early and is not needed; its work is on the ledger then."""
        await self._early.aclose()

    def _target_room(self, target: Target) -> tuple[float, FinishReason | None]:
        # Before any model has counted the prompt: no tokenizer makes more tokens than there are bytes.
        read = self.prompt_tokens or sum(len(message.content.encode()) for message in self.path.prompt)
        return self.settings.limits.target_room(target, self.ledger.target, read + self.tokens)

    async def _generate(
        self, role: Role, model: Drafter | Target, count: int, at_most: float = math.inf, guess: Step | None = None
    ) -> Generation:
        asked = self.asks(role, count, at_most)
        work = self._early.take(role, self.path, asked) or model.generate(self.path, replace(asked, guess=guess))
        made: Generation = await self._call(role, model, work)
        self._count_prompt(made)
        if len(made.steps) != count:
            raise RunError(f"{model.name!r} gave {len(made.steps)} steps where {count} were asked for")
        return made

    def asks(self, role: Role, count: int, at_most: float = math.inf) -> StepRequest:
        """What a model is asked for at the present step."""
        settings, sampling, first = self.settings, self.settings.sampling, self.attempt * count
        room = settings.max_step_tokens
        if settings.limits.max_tokens is not None:
            left = settings.limits.max_tokens - self.tokens
            room = left if settings.granularity == "turn" else min(room, left)
        if self.attempt and role == "drafter":
            sampling = replace(sampling, temperature=max(sampling.temperature, settings.retry_temperature))
        return StepRequest(
            seeds=tuple(self._random.seed(role, self.index, first + i) for i in range(count)),
            max_tokens=int(min(room, at_most)),
            delimiter=settings.delimiter if settings.granularity == "step" else None,
            sampling=sampling,
            ahead=self._early.depth * bool(self._early.depth and role == "drafter" and self.odds >= WORTHWHILE),
        )

    def _count_prompt(self, made: Generation) -> None:
        if self.path.depth == 0 and not self.prompt_tokens:
            self.prompt_tokens = made.usage.prefix

    async def _call(self, role: Role, model: Model, work: Coroutine[Any, Any, Work]) -> Work:
        """Await a call of a model and charge it, also when it is cut short."""
        try:
            made = await self._guard.call(work)
        except (LimitReached, Interrupted) as cut:
            if cut.usage is not None:
                self.ledger.account(role).charge(model, cut.usage)
            raise (cut if isinstance(cut, LimitReached) else asyncio.CancelledError()) from None  # what timeouts know
        self.ledger.account(role).charge(model, made.usage)
        return made

    def _pass_configuration(self, error: Exception) -> None:
        """Raise what the caller has to put right; once text is written, it is a fault of the role like any other."""
        if isinstance(error, ConfigurationError) and not self.records:
            raise error

    def _cut(self) -> bool:
        """End the text before the first stop string, which may have begun some steps ago; whether there was one."""
        text = self.path.text if self._stop else ""
        at = stops_at(text, self._stop)
        if at is None:
            return False
        for i, record in enumerate(self.records):
            self.records[i] = replace(record, text=record.text[:at])
            at -= len(self.records[i].text)
        return True

    def _finish(self, last: Step) -> FinishReason | None:
        """Why the answer ends with this step, if it does."""
        if last.ending == "end":
            return "stop"
        if not last.text:  # nothing was written and nothing ended: the next try would be the same
            return "context" if last.ending == "length" else "empty_step"
        limits = self.settings.limits
        reason = limits.reached(self.ledger, len(self.records), self.tokens)
        if reason is not None:
            return reason
        texts = [record.text.strip() for record in self.records[-(limits.max_repeats or 0) :]]
        if len(texts) == limits.max_repeats and len(set(texts)) == 1:
            return "repetition" if texts[0] else "empty_step"
        return "max_tokens" if self.settings.granularity == "turn" else None  # a turn was cut at its cap


def _checked(rewards: tuple[float | None, ...], count: int) -> tuple[float | None, ...]:
    if len(rewards) != count:
        raise VerifierError(f"{len(rewards)} rewards for {count} steps")
    for reward in rewards:
        if reward is not None and not 0 <= reward <= 1:  # NaN fails this as well
            raise VerifierError(f"the reward {reward!r} is no number in [0, 1]")
    return tuple(None if reward is None else float(reward) for reward in rewards)
