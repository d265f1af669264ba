"""Decisions on drafts: which candidate is put to the policy, and what the policy decides."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from typing import get_args

from rsd_core.calls import Calls
from rsd_core.errors import RSDError, RunError
from rsd_core.paths import Step
from rsd_core.policies.base import Decision, Route, WeightingPolicy
from rsd_core.request import Request
from rsd_core.roles import Cast

_ROUTES, _DECISIONS = get_args(Route), get_args(Decision)


def route(policy: WeightingPolicy, request: Request) -> Route:
    """Who writes the next step, before anything is drafted.

    Raises:
        RunError: The policy failed, or returned neither; the message names it.
    """
    if request.kept is not None:  # a draft already exists
        return "draft"
    try:
        author = policy.route(request)
    except RSDError:
        raise
    except Exception as error:
        raise _failure(policy, "route", error) from error
    if author not in _ROUTES or (author == "answer" and request.kind == "answer"):
        raise _no_answer(policy, "route", author, _ROUTES[: -1 if request.kind == "answer" else None])
    return author


def choose(request: Request, rewards: Sequence[float | None]) -> int:
    """Which candidate is put to the policy: the best, or one drawn by the softmax of the rewards.

    One on which the verifier abstained ranks last, or in the middle if such steps are kept.
    """
    if len(rewards) < 2:
        return 0
    settings = request.settings
    unknown = 0.5 if settings.on_abstain == "accept" else -math.inf
    values = [unknown if reward is None else reward for reward in rewards]
    best, beta = max(values), settings.softmax_beta
    if beta is None or best == -math.inf:
        return values.index(best)
    mass = list(itertools.accumulate([math.exp(beta * (value - best)) for value in values]))
    return bisect.bisect(mass, request.uniform("choice") * mass[-1])


def decide(
    policy: WeightingPolicy, request: Request, draft: Step | None, reward: float | None, *, scored: bool
) -> Decision:
    """What becomes of the draft.

    A bare marker is kept, and so is any draft if the policy uses no rewards. Without a reward, `on_abstain` decides if
    the verifier abstained, and `on_verifier_error` if it failed.

    Raises:
        RunError: The policy failed, or gave no decision; named in the message.
    """
    if draft is not None and (not policy.needs_reward or request.progress.is_mark(draft)):
        return "accept"
    if draft is not None and reward is not None:
        try:
            decision = policy.decide(draft, reward, request)
        except RSDError:
            raise
        except Exception as error:
            raise _failure(policy, "decide", error) from error
        if decision not in _DECISIONS:
            raise _no_answer(policy, "decide", decision, _DECISIONS)
        return decision
    settings = request.settings
    if draft is not None and (settings.on_abstain if scored else settings.on_verifier_error) == "accept":
        return "accept"
    policy.on_target_forced()
    return "target"


async def settle(
    cast: Cast, request: Request, calls: Calls, draft: Step | None, reward: float | None, *, scored: bool
) -> tuple[Decision, float | None]:
    """The decision on the draft, and its reward, after scoring by the stronger verifier if the policy wants that.

    Raises:
        RunError: The policy failed, or gave no decision; named in the message.
    """
    stronger = cast.verifier.stronger
    request.unverified = stronger is not None and request.verified is not draft
    decision = decide(cast.policy, request, draft, reward, scored=scored)
    if decision == "verify" and draft is not None and stronger is not None and request.unverified:
        request.verified, request.unverified = draft, False
        request.rewards = await calls.score(request, stronger, (draft,)) or (None,)
        reward = reward if request.rewards[0] is None else request.rewards[0]
        decision = decide(cast.policy, request, draft, reward, scored=scored)
    if decision == "verify":
        raise _no_answer(cast.policy, "decide", decision, _DECISIONS[:-1])
    return decision, reward


def learn(policy: WeightingPolicy, request: Request, reward: float | None) -> None:
    """Let the policy learn from the step that the target wrote.

    Raises:
        RunError: The policy failed; named in the message.
    """
    try:
        policy.learn(reward, request)
    except RSDError:
        raise
    except Exception as error:
        raise _failure(policy, "learn", error) from error


def _failure(policy: WeightingPolicy, method: str, error: Exception) -> RunError:
    return RunError(f"{method}() of the policy {policy!r} failed: {type(error).__name__}: {error}")


def _no_answer(policy: WeightingPolicy, method: str, value: object, known: tuple[str, ...]) -> RunError:
    return RunError(f"{method}() of the policy {policy!r} returned {value!r}, not one of: {', '.join(known)}")
