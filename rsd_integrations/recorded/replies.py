"""Replies of models as JSON data, and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from rsd_core import (
    DrafterError,
    Entropy,
    Generation,
    Likelihoods,
    PromptError,
    RSDError,
    Scores,
    Step,
    TargetError,
    Thinking,
    Usage,
    VerifierError,
)
from rsd_core.data import masked
from rsd_core.thoughts.markers import Markers

Reply = Generation | Scores | Likelihoods | Entropy
Data = dict[str, Any]

_ERRORS: dict[str, Callable[[str], RSDError]] = {
    "prompt": PromptError, "drafter": DrafterError, "verifier": VerifierError, "target": TargetError
}  # fmt: skip


def reply_data(reply: Reply) -> Data:
    """A reply without its usage, native messages and log-probabilities of tokens."""
    if isinstance(reply, Generation):
        return {"steps": [_step_data(step) for step in reply.steps]}
    if isinstance(reply, Scores):
        return {"rewards": list(reply.rewards)}
    if isinstance(reply, Likelihoods):
        return {"values": list(reply.values)}
    return {"nats": reply.nats}


def reply_of(data: Data, usage: Usage) -> Reply:
    """The inverse of `reply_data`.

    Raises:
        KeyError: It is not a reply.
    """
    if "steps" in data:
        return Generation(tuple(_step(step) for step in data["steps"]), usage)
    if "rewards" in data:
        return Scores(tuple(data["rewards"]), usage)
    if "values" in data:
        return Likelihoods(tuple(data["values"]), usage)
    return Entropy(data["nats"], usage)


def error_data(error: Exception, role: str) -> Data:
    """A failed call, without secrets."""
    kind = "prompt" if isinstance(error, PromptError) else role
    return {"error": [kind, masked(f"{error}" if isinstance(error, RSDError) else f"{type(error).__name__}: {error}")]}


def error_of(data: Data) -> RSDError:
    """The error to raise for a call that failed when it was recorded."""
    kind, message = data["error"]
    return _ERRORS[kind](message)


def thinking_data(thinking: Thinking) -> Data:
    """How a model thinks, as JSON data."""
    return {"thinking": [None if thinking.markers is None else asdict(thinking.markers), thinking.opening]}


def thinking_of(data: Data) -> Thinking:
    """The inverse of `thinking_data`."""
    markers, opening = data["thinking"]
    return Thinking(None if markers is None else Markers(**markers), opening)


def _step_data(step: Step) -> list[Any]:
    known: list[Any] = [step.text, step.ending, step.size]
    if step.tokens or step.partial:
        known += [list(step.tokens), step.vocabulary, step.partial]
    return known


def _step(data: list[Any]) -> Step:
    text, ending, size, *more = data
    tokens, vocabulary, partial = more or ((), "", False)
    return Step(text, ending, tuple(tokens), vocabulary, size, partial=partial)
