"""The progress of a response, and what decides whether it continues: stop strings, ends, length limits, repetition."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from rsd_core.interfaces import Sampling, Speculation, StepRequest
from rsd_core.ledger import Role
from rsd_core.paths import Path, Step
from rsd_core.randomness import Randomness
from rsd_core.results import FinishReason
from rsd_core.settings import Settings
from rsd_core.splitting import Splitter
from rsd_core.stopping import stops_at
from rsd_core.thoughts.part import Part
from rsd_core.thoughts.reading import Kind, Reader


@dataclass(frozen=True, slots=True)
class Shape:
    """How steps end."""

    delimiter: str | Splitter | None
    """After this text; None if only the whole response ends."""
    cap: float
    """After this many tokens."""


class Terms:
    """What stays the same at all steps of a request.

    Args:
        settings: The decoder's settings, including the policy's limits.
        stop: The response ends before the first of these strings.
        randomness: The request's own random numbers.
    """

    def __init__(self, settings: Settings, stop: tuple[str, ...], randomness: Randomness) -> None:
        self.settings, self.limits, self.sampling = settings, settings.limits, settings.sampling
        self.wastes_target = self.limits.allow_waste(of_target=True)
        """Whether no limit applies to the target."""
        self.in_turns = settings.granularity == "turn"
        limited = settings.limits.max_tokens is not None
        cap: float = math.inf if self.in_turns and limited else settings.max_step_tokens
        self.answer = Shape(None if self.in_turns else settings.delimiter, cap)
        """How steps of the answer end; a turn is bounded by the limit on the response, if any."""
        own = settings.thoughts
        self.thought = (
            self.answer if self.in_turns else Shape(own.delimiter or self.answer.delimiter, own.max_step_tokens or cap)
        )
        self.stop = stop
        self.overlap = max(map(len, stop), default=1) - 1
        """How many trailing characters may begin a stop string that the next step completes."""
        self.randomness = randomness

    def branch(self, label: int) -> Terms:
        """The terms of another answer to the same request, with its own random numbers."""
        return Terms(self.settings, self.stop, self.randomness.branch(label))


_START = Part.first(Reader(), thinks=False)


@dataclass(slots=True)  # immutable by convention: frozen instances take four times as long to create, at every step
class Progress:
    """A response up to some step. The cost of extending it depends on the step's length, not the response's."""

    terms: Terms
    path: Path
    tokens: int = 0
    """Tokens of the response so far."""
    finish: FinishReason | None = None
    """Why the response ends here; None while it continues."""
    excess: int = 0
    """Characters to remove from the end of the text because of a stop string, itself included."""
    tail: str = ""
    """End of the text that may begin a stop string."""
    said: str = ""
    """The last step's text, stripped."""
    repeats: int = 0
    """How many times in a row it occurred."""
    part: Part = _START
    """Whether the thought or the answer is being written."""

    @property
    def kind(self) -> Kind:
        """Which part the next step belongs to."""
        return self.part.kind

    @property
    def thought_room(self) -> float:
        """Tokens left for the thought, if the next step is part of it and it is limited."""
        limit = self.terms.limits.max_thought_tokens
        return math.inf if limit is None or self.part.kind == "answer" else limit - self.part.tokens

    def is_mark(self, step: Step) -> bool:
        """Whether a step is a bare thought marker: there is nothing to judge."""
        return not self.part.is_plain and self.part.is_mark(step)

    def extend(self, step: Step, exhausted: FinishReason | None = None) -> Progress:
        """The response with one more step.

        Args:
            step: The step; one without text is not added to the path.
            exhausted: The limit on FLOPs or money that the step has reached, if any.
        """
        terms, tokens, text = self.terms, self.tokens + step.size, step.text
        if not (text or step.partial):  # nothing was written; if nothing ended either, another try would give the same
            used_up: FinishReason = "max_tokens" if step.size else "context"
            reasons: dict[str, FinishReason] = {"end": "stop", "length": used_up, "delimiter": "empty_step"}
            part = replace(self.part, pieces=None, closed=None)
            return replace(self, tokens=tokens, finish=reasons[step.ending], excess=0, part=part)
        path, said, tail, excess = self.path.extend(step), text.strip(), "", 0
        repeats = self.repeats + 1 if said == self.said else 1
        stopped: FinishReason | None = "stop" if step.ending == "end" else None
        part = self.part
        if not part.is_plain:
            part, text = part.read(step)
        if terms.stop:
            text = self.tail + text
            if (at := stops_at(text, terms.stop)) is not None:
                stopped, excess = "stop", len(text) - at
            tail = text[-terms.overlap :] if terms.overlap else ""
        finish = stopped or terms.limits.reached(path.depth, tokens) or exhausted or self._stuck(said, repeats)
        limit = terms.limits.max_thought_tokens
        if limit is not None and part.kind == "thought" and finish is None and part.tokens >= limit:
            return Progress(terms, path, tokens, finish, excess, tail, said, repeats, part).closed()
        return Progress(terms, path, tokens, finish, excess, tail, said, repeats, part)

    def closed(self) -> Progress:
        """The response with its thought closed as the models do."""
        part = self.part.close("" if self.path.step is None else self.path.step.text)
        if part.closed is None:
            return replace(self, part=part)
        path = self.path.extend(part.closed)
        return replace(self, path=path, part=part, finish=self.terms.limits.reached(path.depth, self.tokens))

    def _stuck(self, said: str, repeats: int) -> FinishReason | None:
        if repeats == self.terms.limits.max_repeats:
            return "repetition" if said else "empty_step"
        return "max_tokens" if self.terms.in_turns else None  # a turn was cut at its cap

    def step_request(
        self,
        role: Role,
        count: int = 1,
        attempt: int = 0,
        at_most: float = math.inf,
        guess: Step | None = None,
        ahead: int = 0,
        speculation: Speculation | None = None,
    ) -> StepRequest:
        """The request for a model's next step.

        Args:
            role: Whose random numbers are used.
            count: Candidates.
            attempt: Drafts of this step that were retried before; the target's step does not depend on them.
            at_most: A cap on the step's tokens in addition to those of the settings.
            guess: A step that may begin like the wanted one.
            ahead: How many steps after this one are likely to be asked for next.
            speculation: What proposes the step's tokens.
        """
        terms, index, close = self.terms, self.path.depth, ""
        shape, limits = terms.answer, terms.limits
        room = min(shape.cap, at_most)
        if self.part.kind == "thought" and not terms.in_turns:
            shape, markers = terms.thought, self.part.reader.markers
            close = "" if markers is None else markers.close
            room = min(shape.cap, at_most, self.thought_room)
        if limits.max_tokens is not None:
            room = min(room, limits.max_tokens - self.tokens)
        first, sampling = 0, terms.sampling
        if attempt and role == "drafter":
            first, sampling = attempt * count, _warmed(sampling, terms.settings.retry_temperature)
        seed = terms.randomness.seed
        seeds = (seed(role, index, first),) if count == 1 else tuple(seed(role, index, first + i) for i in range(count))
        return StepRequest(seeds, int(room), shape.delimiter, sampling, guess, speculation, ahead, close)


def _warmed(sampling: Sampling, temperature: float) -> Sampling:
    return replace(sampling, temperature=max(sampling.temperature, temperature))
