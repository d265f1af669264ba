"""What models give is checked before it becomes part of a response: a plugin's mistake is told as that plugin's."""

from __future__ import annotations

from typing import get_args

from rsd_core.errors import RunError, VerifierError
from rsd_core.interfaces import Generation, Model, Scores, StepRequest, Usage
from rsd_core.paths import Ending, Step

_ENDINGS = frozenset(get_args(Ending))


def checked_steps(model: Model, generation: Generation, count: int, request: StepRequest) -> Generation:
    """Steps that are steps.

    Raises:
        RunError: Another number of steps than asked for, or one that contradicts itself.
    """
    usage = checked_usage(model, generation.usage)
    if len(generation.steps) != count:
        raise RunError(f"{model!r} gave {len(generation.steps)} steps where {count} were asked for", usage=usage)
    for step in generation.steps:
        if fault := _fault(step, request.delimiter):
            raise RunError(f"{model!r}: {fault}", usage=usage)
    return generation


def _fault(step: Step, delimiter: str | None) -> str | None:
    if not isinstance(step.text, str):
        return f"the text of a step is {type(step.text).__name__}, not str: {step.text!r}"
    if step.ending not in _ENDINGS:
        return f"the ending {step.ending!r} of a step is none of {', '.join(get_args(Ending))}"
    if step.ending == "delimiter" and delimiter is not None and delimiter not in step.text:
        return f"a step claims to end with the delimiter {delimiter!r} and does not hold it: {step.text[-40:]!r}"
    if step.size < 0:
        return f"the size {step.size!r} of a step is negative"
    return None


def checked_scores(model: Model, scores: Scores, count: int) -> Scores:
    """Rewards that are rewards.

    Raises:
        VerifierError: Another number of rewards than steps, or one that is no number in [0, 1].
    """
    usage = checked_usage(model, scores.usage)
    if len(scores.rewards) != count:
        raise VerifierError(f"{model!r} gave {len(scores.rewards)} rewards for {count} steps", usage=usage)
    for reward in scores.rewards:
        if reward is not None and not _is_reward(reward):
            raise VerifierError(f"{model!r}: the reward {reward!r} is no number in [0, 1]", usage=usage)
    return Scores(tuple([None if reward is None else float(reward) for reward in scores.rewards]), usage)


def _is_reward(reward: object) -> bool:
    try:
        return bool(0 <= reward <= 1)  # type: ignore[operator] - NaN fails this as well
    except (TypeError, ValueError):
        return False


def checked_usage(model: Model, usage: Usage) -> Usage:
    """Work that can have been done.

    Raises:
        RunError: A number that is negative, or no number.
    """
    try:
        least = min(usage.prefix, usage.computed, usage.reused, usage.generated, usage.scored, usage.seconds)
        if least >= 0:
            return usage
    except (AttributeError, TypeError):
        pass
    raise RunError(f"{model!r} reports work that cannot be: {usage!r}")
