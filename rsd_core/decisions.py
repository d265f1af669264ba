"""What becomes of drafts: which candidate goes before the policy, and what the policy says of it."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

from rsd_core.errors import RSDError, RunError
from rsd_core.paths import Step
from rsd_core.policies import Decision, WeightingPolicy
from rsd_core.request import Request

Author = Literal["draft", "target"]
_AUTHORS, _DECISIONS = get_args(Author), get_args(Decision)


def route(policy: WeightingPolicy, request: Request) -> Author:
    """Who writes the next step, before anything is drafted."""
    author: Author = _one_of(_AUTHORS, ask(policy, "route", request), policy, "route")
    return author


def choose(request: Request, rewards: Sequence[float | None]) -> int:
    """Which candidate goes before the policy: the best, or one drawn by the softmax of the rewards.

    One about which the verifier abstained is the last choice, or a middling one where such steps are kept.
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

    Without a reward, `on_abstain` says it where the draft was scored, and `on_verifier_error` where that failed.
    """
    if draft is not None and reward is not None:
        decision: Decision = _one_of(_DECISIONS, ask(policy, "decide", draft, reward, request), policy, "decide")
        return decision
    settings = request.settings
    if draft is not None and (settings.on_abstain if scored else settings.on_verifier_error) == "accept":
        return "accept"
    policy.on_target_forced()
    return "target"


def ask(policy: WeightingPolicy, method: Literal["route", "decide", "learn"], *given: Any) -> Any:
    """Call a method of a policy, which may be somebody's own.

    Raises:
        RunError: It failed; the message names the policy.
    """
    try:
        return getattr(policy, method)(*given)
    except RSDError:
        raise
    except Exception as error:
        raise RunError(f"{method}() of the policy {policy!r} failed: {type(error).__name__}: {error}") from error


def _one_of(known: tuple[str, ...], value: Any, policy: WeightingPolicy, method: str) -> Any:
    if value not in known:
        raise RunError(f"{method}() of the policy {policy!r} gave {value!r}, which is none of: {', '.join(known)}")
    return value
