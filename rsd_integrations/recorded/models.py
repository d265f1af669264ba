"""Models whose calls go through a tape, which records or answers them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Protocol

from rsd_core import (
    ConfigurationError,
    Drafter,
    Entropy,
    FirstTokenEntropy,
    Generation,
    HasLikelihood,
    Likelihoods,
    Model,
    Path,
    Price,
    Prompt,
    Scores,
    ScoresRuns,
    Speculation,
    SpeculativeTarget,
    Step,
    StepRequest,
    Target,
    Thinking,
    Usage,
    Verifier,
)
from rsd_core.registry import ROLES
from rsd_integrations.recorded.costs import Begun, Reading, price_data, share
from rsd_integrations.recorded.keys import call_key, path_digest, prompt_digest, request_data, steps_data
from rsd_integrations.recorded.speculation import TapedSpeculation, speculation_data, with_objects

Live = Callable[[], Coroutine[Any, Any, Any]]


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a model."""

    model: TapedModel
    name: str
    """The model's method."""
    path: Path
    key: str
    guess: str = ""
    """The digest of a step given as a guess, which only affects the cost."""
    drafter: Model | None = None
    """The model that proposes tokens in it, as it appears in the usage."""
    drafting: TapedModel | None = None
    """The same model, as recorded."""

    def begin(self) -> Begun:
        """Note its beginning; returns what was read before."""
        begun = self.model.reading.begin(self.path, self.key, self.guess)
        if self.drafting is None:
            return begun
        other = self.drafting.reading.begin(self.path, self.key)
        return Begun(f"{begun.label}/{other.label}", begun.known, other.known)

    def note(self, usage: Usage, steps: Sequence[Step] = ()) -> None:
        """Note its result."""
        own, proposing = share(usage, self.drafter)
        if self.drafting is not None and proposing.prefix:
            self.drafting.reading.note(self.path, proposing)
        self.model.reading.note(self.path, own, steps)


class Tape(Protocol):
    """Records calls or answers them."""

    async def answer(self, call: Call, live: Live) -> Any:
        """The reply to a call; `live` makes the call, if there is a model."""

    async def answer_run(self, calls: Sequence[Call], live: Live) -> Sequence[Scores]:
        """The replies to a run of scorings made by one call."""

    def thinking(self, model: TapedModel, key: str, live: Callable[[], Thinking | None]) -> Thinking | None:
        """How a model thinks before it answers a prompt."""


class TapedModel(Model):
    """A model whose calls go through a tape.

    Args:
        tape: The tape.
        facts: The model's properties (see `facts_of`).
        inner: The model; None if the tape alone answers.
    """

    def __init__(self, tape: Tape, facts: dict[str, Any], inner: Any = None) -> None:
        self.tape, self.facts, self.inner = tape, facts, inner
        self.name, self.spec = facts["name"], facts["spec"]
        self.flops_per_token = facts["flops_per_token"]
        self.price = None if facts["price"] is None else Price(*facts["price"])
        self.renders_tools, self.dtype = facts["renders_tools"], facts.get("dtype")
        self.may_abstain = getattr(inner, "may_abstain", True)  # a replay tells nothing that was told before
        self.reading = Reading()

    async def aclose(self) -> None:
        if self.inner is not None:
            await self.inner.aclose()

    def _call(self, name: str, path: Path, asked: object = None, guess: Step | None = None) -> Call:
        digest = "" if guess is None else call_key("", "", b"", steps_data([guess]))
        return Call(self, name, path, call_key(self.spec, name, path_digest(path), asked), digest)


class _Writing(TapedModel):
    def thinking(self, prompt: Prompt) -> Thinking | None:
        key = call_key(self.spec, "thinking", prompt_digest(prompt))
        return self.tape.thinking(self, key, lambda: self.inner.thinking(prompt))

    async def generate(self, path: Path, request: StepRequest) -> Generation:
        asked, speculation = request_data(request), request.speculation
        if isinstance(speculation, TapedSpeculation):
            asked.append(speculation.asked)
        call = self._call("generate", path, asked, request.guess)
        if isinstance(speculation, TapedSpeculation):
            call = replace(call, drafter=speculation.drafter, drafting=speculation.drafting)
        generation: Generation = await self.tape.answer(call, lambda: self.inner.generate(path, request))
        return generation


class _Scoring(TapedModel):
    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        call = self._call("score", path, steps_data(steps))
        scores: Scores = await self.tape.answer(call, lambda: self.inner.score(path, steps))
        return scores


class _ScoringRuns(_Scoring):
    async def score_run(self, path: Path, steps: Sequence[Step]) -> Sequence[Scores]:
        calls, node = list[Call](), path
        for step in steps:
            calls.append(self._call("score", node, steps_data([step])))
            node = node.extend(step)
        return await self.tape.answer_run(calls, lambda: self.inner.score_run(path, steps))


class _WithLikelihood(TapedModel):
    async def log_likelihoods(self, path: Path, steps: Sequence[Step]) -> Likelihoods:
        call = self._call("log_likelihoods", path, steps_data(steps))
        likelihoods: Likelihoods = await self.tape.answer(call, lambda: self.inner.log_likelihoods(path, steps))
        return likelihoods


class _WithEntropy(TapedModel):
    async def first_token_entropy(self, path: Path) -> Entropy:
        call = self._call("first_token_entropy", path)
        entropy: Entropy = await self.tape.answer(call, lambda: self.inner.first_token_entropy(path))
        return entropy


class _Speculative(TapedModel):
    def checked_speculation(self, speculation: Speculation) -> Speculation:
        """The model's own checked speculation, or an equivalent one if the tape alone answers."""
        drafter: Any = speculation.drafter
        if isinstance(speculation, TapedSpeculation):  # checked before, then given beams
            drafter = speculation.drafting
        if drafter is not None and not isinstance(drafter, TapedModel):
            raise ConfigurationError(
                f"{drafter!r} proposes tokens to {self.spec!r}, whose calls are recorded: also record those of the "
                "drafter"
            )
        checked = with_objects(speculation)
        asked = speculation_data(checked, None if drafter is None else drafter.spec)
        if self.inner is not None:
            inner = None if drafter is None else drafter.inner
            checked = self.inner.checked_speculation(replace(speculation, drafter=inner))
        return TapedSpeculation.of(checked, drafter, asked)


_ABILITIES: dict[str, tuple[type, type]] = {
    "score_run": (ScoresRuns, _ScoringRuns),
    "log_likelihoods": (HasLikelihood, _WithLikelihood),
    "first_token_entropy": (FirstTokenEntropy, _WithEntropy),
    "speculate": (SpeculativeTarget, _Speculative),
}
"""Optional abilities of models: the protocol that shows them, and the class that passes them on."""


def facts_of(model: Any, spec: str) -> dict[str, Any]:
    """A model's properties for a record, as JSON data.

    Args:
        model: The model.
        spec: Its spec, without secrets.
    """
    return {
        "spec": spec,
        "name": model.name,
        "roles": [role for role, kind in ROLES.items() if isinstance(model, kind)],
        "abilities": [name for name, (protocol, _) in _ABILITIES.items() if isinstance(model, protocol)],
        "flops_per_token": model.flops_per_token,
        "price": price_data(model.price),
        "dtype": model.dtype,
        "renders_tools": model.renders_tools,
        "leaves_it_to": None,
    }


def taped(tape: Tape, facts: dict[str, Any], inner: Any = None) -> Any:
    """A model with the same roles and abilities, whose calls go through a tape."""
    return _class_of(tuple(facts["roles"]), tuple(facts["abilities"]))(tape, facts, inner)


@cache
def _class_of(roles: tuple[str, ...], abilities: tuple[str, ...]) -> type[TapedModel]:
    parts: list[type] = [passing for name, (_, passing) in _ABILITIES.items() if name in abilities]
    kinds: list[type] = [kind for role, kind in ROLES.items() if role in roles]
    if Drafter in kinds or Target in kinds:
        parts.append(_Writing)
    if Verifier in kinds:
        parts.append(_Scoring)
    return type("TapedModel", (*parts, *kinds), {})
