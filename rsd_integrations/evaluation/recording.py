"""Records what calibration needs to know about each problem.

Each problem is decoded twice: by the drafter, with all of its steps scored, and by the target, with a draft at each
step, scored and discarded. A problem in which a role failed says nothing about the rewards of its steps, so it is left
out. A step on which the verifier abstained is not a failure: it has no reward, and `Settings.on_abstain` decides it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rsd_core import (
    BatchError,
    ConfigurationError,
    Constant,
    DrafterError,
    PromptLike,
    Result,
    RewardGuidedDecoder,
    RunError,
    StepRecord,
    TargetError,
    VerifierError,
    WeightingPolicy,
)
from rsd_core.ledger import Role
from rsd_integrations.evaluation.tasks import Item

logger = logging.getLogger(__name__)

USABLE = 0.5
"""The minimum share of problems recorded in full: those that failures leave over are not a fair sample."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """The record of one problem."""

    drafted: tuple[float | None, ...]
    """Rewards of the drafter's own answer, step by step; None if the verifier abstained."""
    beside: tuple[float | None, ...]
    """Rewards of the drafts along the target's answer."""
    draft_right: bool | None
    """Whether the drafter's answer is correct; None if unknown."""
    target_right: bool | None
    sizes: tuple[int, ...]
    """Tokens of the target's steps."""
    read: int
    """Tokens that the target read before and between its own steps."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A problem in which a role failed."""

    problem: int
    """Its number, from 0."""
    reason: str


@dataclass(frozen=True, slots=True)
class Rates:
    """The cost of a step, in FLOPs; None if the size of a model is unknown."""

    accepted: float | None
    """Drafter and verifier, for a draft that is accepted."""
    replaced: float | None
    """The same for one that is rejected."""
    token: float | None
    """The target, for a token."""
    drafted: float | None = None
    """The drafter without a verifier, for a step of its own answer."""


@dataclass(frozen=True, slots=True)
class Recording:
    """All problems, and the cost of their steps."""

    problems: tuple[Recorded, ...]
    left_out: tuple[LeftOut, ...]
    charged: Rates
    """Per step, everything charged."""
    paper: Rates
    """Per step, by the paper's convention."""


@dataclass(frozen=True, slots=True)
class _Pair:
    """The two answers to one problem, and the errors of those that failed."""

    drafted: Result
    beside: Result
    errors: tuple[Exception, ...] = ()

    @property
    def failures(self) -> list[tuple[str, str]]:
        """Who failed at each step, and how. A target fault that the request recovered from does not affect rewards."""
        noted = [
            (_WHO[degradation.kind], degradation.message)
            for result in (self.drafted, self.beside)
            for degradation in result.degradations
            if degradation.kind in _WHO
        ]
        return noted + [(_who(error), f"{type(error).__name__}: {error}") for error in self.errors]

    @property
    def steps(self) -> int:
        return len(self.drafted.steps) + len(self.beside.steps) + len(self.errors)


_WHO = {
    "drafter_error": "the drafter failed",
    "verifier_error": "the verifier failed",
    "target_limit": "a limit on the target was reached",
}


def _who(error: Exception) -> str:
    roles = {DrafterError: "drafter", VerifierError: "verifier", TargetError: "target"}
    return f"the {next((role for kind, role in roles.items() if isinstance(error, kind)), 'request')} failed"


def record(
    decoder: RewardGuidedDecoder,
    items: Sequence[Item],
    *,
    concurrency: int = 16,
    progress: Callable[[int], None] = lambda _: None,
) -> Recording:
    """Decode all problems, both ways.

    Args:
        decoder: Models and settings; its policy and its rules for failed and silent verifiers are not used.
        items: Problems, with or without known answers.
        concurrency: Requests in flight.
        progress: Called with the number of problems that are done.

    Raises:
        ConfigurationError: No problem is given.
        RunError: A role failed in more than half of the problems, or in all of the first ones; or the verifier
            abstained at every step. Says which, how often, and why.
    """
    if not items:
        raise ConfigurationError("a calibration needs at least one problem (got none)")
    # Only the policy may decide about a draft, not a verifier that fails or abstains.
    drafted, beside = (
        _recorder(decoder, policy, rule) for policy, rule in ((Constant(p=1), "accept"), (Constant(p=0), "target"))
    )
    pairs: list[_Pair] = []
    while len(pairs) < len(items):
        size = 4 * concurrency if pairs else concurrency  # notices a broken set-up before everything is paid for
        prompts = [item.prompt for item in items[len(pairs) : len(pairs) + size]]
        (own, own_errors), (other, other_errors) = (_answers(d, prompts, concurrency) for d in (drafted, beside))
        for i, results in enumerate(zip(own, other, strict=True)):
            pairs.append(_Pair(*results, tuple(e[i] for e in (own_errors, other_errors) if i in e)))
        if all(pair.failures for pair in pairs):
            raise _refusal(pairs)
        progress(len(pairs))
    usable = [(item, pair) for item, pair in zip(items, pairs, strict=True) if not pair.failures]
    if len(usable) < USABLE * len(pairs):
        raise _refusal(pairs)
    problems = tuple(_recorded(item, pair) for item, pair in usable)
    if problems and all(reward is None for one in problems for reward in (*one.drafted, *one.beside)):
        raise RunError(
            f"nothing can be calibrated: the verifier {decoder.verifier.name!r} abstained at every step of "
            f"{len(problems)} problems, so thresholds have no effect; choose a verifier that scores such steps"
        )
    left_out = tuple(LeftOut(i, ": ".join(pair.failures[-1])) for i, pair in enumerate(pairs) if pair.failures)
    if left_out:
        logger.warning(
            "%d of %d problems are left out, the last one because %s", len(left_out), len(pairs), left_out[-1].reason
        )
    whole = [pair for _, pair in usable]
    return Recording(problems, left_out, _rates(whole, "flops"), _rates(whole, "flops_paper"))


def _recorder(decoder: RewardGuidedDecoder, policy: WeightingPolicy, rule: str) -> RewardGuidedDecoder:
    return RewardGuidedDecoder(
        drafter=decoder.drafter,
        verifier=decoder.verifier,
        target=decoder.target,
        policy=policy,
        thoughts=replace(decoder.thoughts, policy=None),
        settings=decoder.settings.updated(on_verifier_error=rule, on_abstain=rule),
    )


def _answers(
    decoder: RewardGuidedDecoder, prompts: Sequence[PromptLike], concurrency: int
) -> tuple[list[Result], dict[int, Exception]]:
    """One result per prompt, and the errors of those that failed."""
    try:
        return decoder.run_many(prompts, concurrency=concurrency), {}
    except BatchError as error:
        return error.results, error.errors


def _refusal(pairs: Sequence[_Pair]) -> RunError:
    """Who failed most often, how often, and the last error."""
    failures = [failure for pair in pairs for failure in pair.failures]
    who = Counter(who for who, _ in failures).most_common(1)[0][0]
    messages = [message for other, message in failures if other == who]
    spoilt = sum(any(other == who for other, _ in pair.failures) for pair in pairs)
    steps = sum(pair.steps for pair in pairs)
    return RunError(
        f"nothing can be calibrated: {who} at {len(messages)} of {steps} steps, in {spoilt} of {len(pairs)} problems, "
        f"most recently with {messages[-1]!r}. Fix the cause, then calibrate again"
    )


def _recorded(item: Item, pair: _Pair) -> Recorded:
    drafted, beside = pair.drafted, pair.beside
    target, written = beside.ledger.target, _judged(beside)
    return Recorded(
        drafted=tuple(step.reward for step in _judged(drafted)),
        beside=tuple(step.reward for step in written),
        draft_right=_right(item, drafted),
        target_right=_right(item, beside),
        sizes=tuple(step.size for step in written),
        read=max(0, target.computed - target.generated),
    )


def _right(item: Item, result: Result) -> bool | None:
    verdict = item.verdict(result.text)
    if verdict.error is not None:
        logger.warning("an answer is left out of the accuracy: %s", verdict.error)
    return verdict.right


def _judged(result: Result) -> list[StepRecord]:
    """The steps that a verifier is asked about; mere markers of thoughts are kept whatever the threshold."""
    return [step for step in result.steps if step.pieces is None or step.thought or step.content.strip()]


def _rates(pairs: Sequence[_Pair], kind: str) -> Rates:
    def cheap(results: Sequence[Result], *roles: Role) -> float | None:
        spent = [getattr(r.ledger.account(role), kind) for r in results for role in roles]
        return None if None in spent else sum(spent) / max(1, sum(len(r.steps) for r in results))

    drafted, beside = [pair.drafted for pair in pairs], [pair.beside for pair in pairs]
    flops = [getattr(result.ledger.target, kind) for result in beside]
    tokens = sum(getattr(r.ledger.target, "computed" if kind == "flops" else "generated") for r in beside)
    return Rates(
        cheap(drafted, "drafter", "verifier"),
        cheap(beside, "drafter", "verifier"),
        None if None in flops else sum(flops) / max(1, tokens),
        cheap(drafted, "drafter"),
    )
