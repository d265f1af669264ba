"""Checks of what models return before it becomes part of a response; errors name the model at fault."""

from __future__ import annotations

import math
from typing import get_args

from rsd_core.errors import RunError, VerifierError
from rsd_core.interfaces import Entropy, Generation, Likelihoods, Scores, StepRequest
from rsd_core.model import Model, Usage
from rsd_core.paths import Ending, Step

_ENDINGS, _INF = get_args(Ending), math.inf
_MANY = (tuple, list)


def checked_steps(model: Model, generation: Generation, count: int, request: StepRequest) -> Generation:
    """Return valid steps.

    Raises:
        RunError: The number of steps is not the one requested, or a step contradicts itself.
    """
    if not isinstance(generation, Generation):
        raise RunError(f"{model!r} returned {generation!r:.80} instead of a Generation")
    usage = checked_usage(model, generation.usage)
    if not isinstance(generation.steps, _MANY):
        raise RunError(f"{model!r} returned {generation.steps!r:.80} instead of steps", usage=usage)
    if len(generation.steps) != count:
        raise RunError(f"{model!r} returned {len(generation.steps)} steps instead of {count}", usage=usage)
    for step in generation.steps:
        if not isinstance(step, Step):
            fault = f"returned {step!r:.80} instead of a Step"
        elif not isinstance(step.text, str):
            fault = f"the text of a step is {type(step.text).__name__}, not str: {step.text!r:.80}"
        elif not isinstance(step.size, int) or step.size < 0:
            fault = f"the size of a step is {step.size!r}, which is not a number of tokens"
        elif step.ending == "delimiter":
            delimiter = request.delimiter
            if (
                not isinstance(delimiter, str)
                or delimiter in step.text
                or (request.close and request.close in step.text)
            ):
                continue
            fault = f"a step claims to end with {delimiter!r} but does not contain it: {step.text[-40:]!r}"
        elif step.ending in _ENDINGS:
            continue
        else:
            fault = f"the ending {step.ending!r} of a step is not one of {', '.join(_ENDINGS)}"
        raise RunError(f"{model!r}: {fault}", usage=usage)
    return generation


def checked_scores(model: Model, scores: Scores, count: int) -> Scores:
    """Return valid rewards.

    Raises:
        VerifierError: The number of rewards differs from that of the steps, or one is not a number in [0, 1].
    """
    if not isinstance(scores, Scores):
        raise VerifierError(f"{model!r} returned {scores!r:.80} instead of Scores")
    usage = checked_usage(model, scores.usage)
    if len(scores.rewards) != count:
        raise VerifierError(f"{model!r} returned {len(scores.rewards)} rewards for {count} steps", usage=usage)
    for reward in scores.rewards:
        if type(reward) is not float and reward is not None:  # numpy's numbers, integers, True
            return _as_floats(model, scores)
        if reward is not None and not 0 <= reward <= 1:  # also false for NaN
            raise VerifierError(f"{model!r}: the reward {reward!r} is not a number in [0, 1]", usage=usage)
    return scores


def _as_floats(model: Model, scores: Scores) -> Scores:
    rewards: list[float | None] = []
    for reward in scores.rewards:
        try:
            rewards.append(None if reward is None else reward.__float__())  # float() would accept text
        except Exception as error:
            message = f"{model!r}: the reward {reward!r:.80} is not a number in [0, 1]"
            raise VerifierError(message, usage=scores.usage) from error
    return checked_scores(model, Scores(tuple(rewards), scores.usage), len(rewards))


def checked_likelihoods(model: Model, likelihoods: Likelihoods, count: int) -> Likelihoods:
    """Return valid log-probabilities.

    Raises:
        RunError: Their number differs from that of the steps, or one is above 0.
    """
    usage = checked_usage(model, likelihoods.usage)
    if len(likelihoods.values) != count or not all(value <= 0 for value in likelihoods.values):
        raise RunError(f"{model!r} returned log-likelihoods {likelihoods.values!r} for {count} steps", usage=usage)
    return likelihoods


def checked_entropy(model: Model, entropy: Entropy) -> Entropy:
    """Return a valid entropy.

    Raises:
        RunError: It is not a number of at least 0.
    """
    usage = checked_usage(model, entropy.usage)
    if not 0 <= entropy.nats < _INF:
        raise RunError(f"{model!r} returned the entropy {entropy.nats!r}, not a number of at least 0", usage=usage)
    return entropy


def checked_usage(model: Model, usage: Usage) -> Usage:
    """Return a valid usage.

    Raises:
        RunError: A count is negative or not a number.
    """
    try:
        # Written out for speed, since it runs at every call. NaN fails each of these comparisons.
        tokens = 0 <= usage.prefix < _INF and 0 <= usage.computed < _INF and 0 <= usage.reused < _INF
        if tokens and 0 <= usage.generated < _INF and 0 <= usage.scored < _INF and 0 <= usage.seconds < _INF:
            return usage
    except (AttributeError, TypeError):
        pass
    raise RunError(f"{model!r} reports an impossible usage: {usage!r}")
