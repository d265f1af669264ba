"""The state of one request while it is decoded: plain, readable data. The model calls are in `calls.py`."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from rsd_core.control_characters import visible
from rsd_core.events import Degraded
from rsd_core.ledger import Ledger
from rsd_core.paths import Path, Prompt, Step
from rsd_core.progress import Progress, Terms
from rsd_core.randomness import Randomness
from rsd_core.results import Degradation, DegradationKind, FinishReason, Result, StepRecord
from rsd_core.settings import Settings
from rsd_core.stopping import stops_at
from rsd_core.thoughts.markers import Thinking
from rsd_core.thoughts.part import Part
from rsd_core.thoughts.reading import Kind, Piece, reader_of

logger = logging.getLogger(__name__)


class Request:
    """Path, records, ledger and finish of one request.

    Args:
        prompt: The normalised prompt.
        settings: The decoder's settings, including the policy's limits.
        seed: Seed of the request's random numbers.
        repeat: Distinguishes requests with the same prompt and seed.
        stop: The answer ends before the first of these strings.
        thinking: How the models' thoughts begin; None if none is known to think.
        reasons: Whether everything is thought until the answer is requested by a separate prompt.
    """

    def __init__(
        self,
        prompt: Prompt,
        settings: Settings,
        seed: int,
        repeat: int = 0,
        stop: tuple[str, ...] = (),
        thinking: Thinking | None = None,
        *,
        reasons: bool = False,
    ) -> None:
        self.terms = Terms(settings, stop, Randomness(seed, prompt, repeat))
        self.settings = settings
        self.path = Path(prompt, thinking=thinking)
        """The prompt and the steps so far, as written."""
        self.progress = Progress(
            self.terms, self.path, part=Part.first(reader_of(prompt, thinking), thinks=thinking is not None)
        )
        self.ledger = Ledger()
        self.records: list[StepRecord] = []
        self.degradations: list[Degradation] = []
        self.attempt = 0
        """Retried drafts of the current step."""
        self.undecided: tuple[Step, ...] = ()
        """Undecided drafts of the current step."""
        self.kept: tuple[Step, float | None] | None = None
        """A draft of the current step that competes with the next draft, and its reward."""
        self.rewards: tuple[float | None, ...] = ()
        """The latest rewards of the current step's drafts, in order."""
        self.verified: Step | None = None
        """The draft that the stronger verifier has scored."""
        self.unverified = False
        """Whether the stronger verifier may still score the current draft."""
        self.notes: dict[object, Any] = {}
        """A policy's private notes on the request."""
        self.entropy: float | None = None
        """Entropy of the current step's first token under the drafter, in nats, if the policy needs it."""
        self.finish: FinishReason | None = None
        """Why the response is finished; None while it is not."""
        self.prompt_tokens = 0
        """Length of the prompt by the count of the first model that read it."""
        self.reasons = reasons
        """Whether everything written now is thought (see `answer_by`)."""
        self._root = self.path
        self._asked = 0
        self._wrote: Kind = "answer"
        self._noticed = 0
        self._is_branch = False

    @property
    def index(self) -> int:
        """Index of the step being decoded."""
        return self.path.depth

    @property
    def kind(self) -> Kind:
        """Whether the step being decoded is part of the thought or the answer."""
        return self.progress.kind

    @property
    def coin(self) -> float:
        """A random number in [0, 1) for the decision about the current draft."""
        return self.uniform("coin")

    def uniform(self, purpose: str) -> float:
        """The request's random number in [0, 1) for a purpose, at this step and attempt."""
        return self.terms.randomness.uniform(purpose, self.index, self.attempt)

    def extend(
        self,
        step: Step,
        author: Literal["draft", "target"],
        reward: float | None = None,
        rejected: Step | None = None,
        progress: Progress | None = None,
    ) -> StepRecord:
        """Make a step part of the response.

        Args:
            step: The step.
            author: Who wrote it.
            reward: The draft's reward, accepted or not.
            rejected: The draft that it replaces.
            progress: The response with this step, if already computed.
        """
        drafted = author == "draft"
        discarded = None if rejected is None else rejected.text
        if progress is None:
            progress = self.progress.extend(step, self.terms.limits.exhausted(self.ledger))
        if step.partial and progress.finish is not None:  # no step will complete the character
            step = replace(step, text=f"{step.text}\ufffd", partial=False)
            progress = replace(self.progress.extend(step), finish=progress.finish)
        pieces = progress.part.pieces
        if self.reasons and step.text:
            pieces = self._as_thought(pieces or (("answer", step.text),))
        native = None if self._asked else step.native  # only JSON is requested
        record = StepRecord(step.text, author, reward, drafted, discarded, step.size, native, pieces=pieces)
        self.progress, self.path, self.finish = progress, progress.path, progress.finish
        self.attempt, self.undecided, self.entropy = 0, (), None
        if not (step.text or step.partial):
            return record
        self.records.append(record)
        if progress.excess:
            self._cut(progress.excess)
        part = progress.part
        if part.closed is None:
            return self.records[-1]
        self._record_closing()
        return self.records[-2]

    def _record_closing(self, why: str | None = None) -> None:
        part = self.progress.part
        if part.closed is None:  # there was no thought
            return
        self.records.append(StepRecord(part.closed.text, "limit", None, accepted=False, pieces=part.closed_pieces))
        if not self._is_branch:
            self._note_closing(self.index - 1, why)

    def _as_thought(self, pieces: Sequence[Piece]) -> tuple[Piece, ...]:
        """All text of a step as thought: its answer part follows after a blank line."""
        thought: list[Piece] = []
        for kind, text in pieces:
            thought.append(("thought", f"\n\n{text}" if kind != self._wrote == "thought" else text))
            self._wrote = kind
        return tuple(thought)

    def answer_by(self, prompt: Prompt, settings: Settings, thinking: Thinking | None) -> None:
        """Continue with the answer, requested by a separate prompt: everything written so far is its thought.

        Limits count both. The prompt's last message is the new request.
        """
        self.settings, self.terms = settings, Terms(settings, (), self.terms.randomness)
        self.path = Path(prompt, depth=self.path.depth, thinking=thinking)
        part = Part.first(reader_of(prompt, thinking), thinks=thinking is not None)
        self.progress = Progress(self.terms, self.path, self.progress.tokens, part=part)
        self.attempt, self.undecided, self.entropy, self.finish, self.reasons = 0, (), None, None, False
        self._asked = len(prompt[-1].content.encode())

    @property
    def read_at_most(self) -> int:
        """The tokens a model must read to continue; until one has read the prompt, by its messages' bytes."""
        read = self.prompt_tokens or sum(len(message.content.encode()) for message in self._root.prompt)
        return read + self.progress.tokens + self._asked

    def _note_closing(self, step: int, why: str | None = None) -> None:
        limit = why or f"max_thought_tokens={self.terms.limits.max_thought_tokens} is reached: the thought was closed"
        self.degrade("thought_limit", limit, step)

    def rate(self, reward: float | None) -> StepRecord:
        """Note the reward of the last step, which the target wrote."""
        last = -1 if self.progress.part.closed is None else -2
        self.records[last] = replace(self.records[last], target_reward=reward)
        return self.records[last]

    def discard(self, drafts: Sequence[Step], *, scored: bool) -> None:
        """Note discarded drafts on the ledger; a blank one was never scored."""
        if not drafts:
            return
        self.ledger.drafter.discarded += sum([step.size for step in drafts])
        if scored:
            self.ledger.verifier.discarded += sum([step.size for step in drafts if step.text.strip()])
        if self.undecided:
            gone = {id(step) for step in drafts}
            self.undecided = tuple(step for step in self.undecided if id(step) not in gone)

    def degrade(self, kind: DegradationKind, message: str, step: int | None = None) -> None:
        """Note and log a degradation, by default of the next step: a fault or limit that the request recovered from."""
        at = self.index if step is None else step
        self.degradations.append(Degradation(at, kind, message))
        logger.warning("step %d: %s: %s", at, kind, visible(message))

    @property
    def has_notices(self) -> bool:
        """Whether anything was noted since the last call of `pop_notices`."""
        return len(self.degradations) > self._noticed

    def pop_notices(self) -> list[Degraded]:
        """What was noted since the last call, as events."""
        fresh = self.degradations[self._noticed :]
        self._noticed += len(fresh)
        return [Degraded(item.step, item) for item in fresh]

    def competing(
        self, drafts: tuple[Step, ...], rewards: tuple[float | None, ...]
    ) -> tuple[tuple[Step, ...], tuple[float | None, ...]]:
        """The candidates and their rewards, preceded by the draft that was kept."""
        self.rewards = rewards
        if self.kept is None:
            return drafts, rewards
        (step, reward), self.kept = self.kept, None
        if not rewards:  # unknown whether they are better
            self.discard(drafts, scored=False)
            drafts = ()
        return (step, *drafts), (reward, *rewards)

    def close_thought(self) -> None:
        """End the thought at the policy's request; the answer follows."""
        self.progress = self.progress.closed()
        self.path, self.finish = self.progress.path, self.progress.finish
        self.attempt, self.undecided, self.entropy = 0, (), None
        self._record_closing("the policy ended the thought early")

    def text(self, kind: Kind) -> str:
        """The thought or the answer so far, without markers."""
        own = [record.content if kind == "answer" else record.text_of("thought") for record in self.records]
        if self.progress.excess:  # held-back text comes after the stop string
            return "".join(own)
        rest = self.progress.part.rest
        text = "".join([*own, *(text for part, text in rest if kind == ("thought" if self.reasons else part))])
        return text[: stops_at(text, self.terms.stop)] if kind == "answer" else text

    def branch(self, label: int) -> Request:
        """Another response from here on, with its own random numbers and the same ledger."""
        other = copy.copy(self)
        other._is_branch = True
        other.records = list(self.records)
        other.terms = self.terms.branch(label)
        other.progress = replace(self.progress, terms=other.terms)
        return other

    def adopt(self, branch: Request) -> list[StepRecord]:
        """Make a branch the response by taking over its records."""
        self.progress, self.path, self.finish = branch.progress, branch.path, branch.finish
        self.records = list(branch.records)
        for i, record in enumerate(self.records):
            if record.author == "limit":
                self._note_closing(i)
        return list(branch.records)

    def result(self, reason: FinishReason, seconds: float) -> Result:
        """The request as it stands.

        Args:
            reason: Why the response ends.
            seconds: Wall-clock time since the request started.
        """
        root, apart = self._root, self.reasons or self._root.prompt is not self.path.prompt
        thinks = root.opening is not None or any(record.pieces is not None for record in self.records)
        markers = self.progress.part.reader.markers if thinks else None
        return Result(
            prompt=root.prompt,
            text=self.text("answer"),
            finish_reason=reason,
            steps=tuple(self.records if markers or apart else [_plain(record) for record in self.records]),
            ledger=self.ledger,
            seconds=seconds,
            degradations=tuple(self.degradations),
            thought=self.text("thought"),
            opening=root.opening or "",
            markers=markers,
            prompt_tokens=self.prompt_tokens,
        )

    def _cut(self, excess: int) -> None:
        """Remove this many characters from the end of the answer, possibly across several steps."""
        read = written = excess  # the end of a step's text may be held back and become answer in the next step
        for i in range(len(self.records) - 1, -1, -1):
            text, content = self.records[i].text, self.records[i].content
            self.records[i] = _without_end(self.records[i], min(written, len(text)), min(read, len(content)))
            read, written = max(0, read - len(content)), max(0, written - len(text))
            if not read and not written:
                return


def _plain(record: StepRecord) -> StepRecord:
    """A step of a response without any marker: text held back for one is answer."""
    return record if record.pieces is None else replace(record, pieces=None)


def _without_end(record: StepRecord, written: int, read: int) -> StepRecord:
    """A step without this many characters at the end of its text, and of its answer."""
    text, pieces = record.text[: len(record.text) - written], record.pieces
    if pieces is not None:
        rest = record.content[: len(record.content) - read]
        pieces = (*[piece for piece in pieces if piece[0] == "thought"], ("answer", rest))
    return replace(record, text=text, pieces=pieces)
