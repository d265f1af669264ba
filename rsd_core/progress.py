"""How far a response is, and what decides whether it goes on: stop strings, ends, limits on length, repetition."""

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
    """After this; None where only the whole response ends."""
    cap: float
    """After so many tokens."""


class Terms:
    """What a request was made with: the same at all of its steps.

    Args:
        settings: The decoder's settings, the policy's limits worked in.
        stop: The response ends before the first of these strings.
        randomness: The request's own random numbers.
    """

    def __init__(self, settings: Settings, stop: tuple[str, ...], randomness: Randomness) -> None:
        self.settings, self.limits, self.sampling = settings, settings.limits, settings.sampling
        self.wastes_target = self.limits.allow_waste(of_target=True)
        """Whether no limit counts what the target does."""
        self.in_turns = settings.granularity == "turn"
        limited = settings.limits.max_tokens is not None
        cap: float = math.inf if self.in_turns and limited else settings.max_step_tokens
        self.answer = Shape(None if self.in_turns else settings.delimiter, cap)
        """How steps of the answer end; a turn is bounded by the limit on the response, where there is one."""
        own = settings.thoughts
        self.thought = (
            self.answer if self.in_turns else Shape(own.delimiter or self.answer.delimiter, own.max_step_tokens or cap)
        )
        self.stop = stop
        self.overlap = max(map(len, stop), default=1) - 1
        """Characters of a text that may begin a stop string which the next step completes."""
        self.randomness = randomness

    def branch(self, label: int) -> Terms:
        """The terms of another answer to the same request, with random numbers of its own."""
        return Terms(self.settings, self.stop, self.randomness.branch(label))


_START = Part.first(Reader(), thinks=False)


@dataclass(slots=True)  # immutable by agreement: frozen ones take four times as long to make, at every step
class Progress:
    """A response up to some step. Extending it costs as much as the step is long, however long it is."""

    terms: Terms
    path: Path
    tokens: int = 0
    """Tokens of the response so far."""
    finish: FinishReason | None = None
    """Why the response ends here; None while it goes on."""
    excess: int = 0
    """Characters at the end of the text that go because of a stop string, that one included."""
    tail: str = ""
    """End of the text that may begin a stop string."""
    said: str = ""
    """What the last step said, without space around it."""
    repeats: int = 0
    """How many times in a row that was said."""
    part: Part = _START
    """Whether the thought or the answer is being written."""

    @property
    def kind(self) -> Kind:
        """What the next step is part of."""
        return self.part.kind

    @property
    def thought_room(self) -> float:
        """Tokens that the thought may still have, where the next step is part of it and it is limited."""
        limit = self.terms.limits.max_thought_tokens
        return math.inf if limit is None or self.part.kind == "answer" else limit - self.part.tokens

    def is_mark(self, step: Step) -> bool:
        """Whether a step holds a marker of the thought and nothing else: there is nothing to be judged."""
        return not self.part.is_plain and self.part.is_mark(step)

    def extend(self, step: Step, exhausted: FinishReason | None = None) -> Progress:
        """The response with one more step.

        Args:
            step: The step; one without text does not become part of the path.
            exhausted: The limit on FLOPs or money that the step has reached, if any.
        """
        terms, tokens, text = self.terms, self.tokens + step.size, step.text
        if not (text or step.partial):  # nothing was written; if nothing ended either, the next try would be the same
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
        """The response with its thought closed in the models' own way."""
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
        """What a model is asked for here.

        Args:
            role: Whose random numbers are used.
            count: Candidates.
            attempt: Drafts of this step that were retried before; the target's step does not depend on them.
            at_most: A cap on the step's tokens besides those of the settings.
            guess: A step that may begin as the wanted one.
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
