"""The state of one request while it is decoded: plain data that anyone can read. What calls models is in `calls.py`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from rsd_core.events import Degraded
from rsd_core.ledger import Ledger
from rsd_core.paths import Path, Prompt, Step
from rsd_core.progress import Progress, Terms
from rsd_core.randomness import Randomness
from rsd_core.results import Degradation, DegradationKind, FinishReason, Result, StepRecord
from rsd_core.settings import Settings


class Request:
    """Path, records, ledger and finish of one request.

    Args:
        prompt: The normalised prompt.
        settings: The decoder's settings, the policy's limits worked in.
        seed: Of the request's random numbers.
        repeat: Tells several requests of the same prompt and seed apart.
        stop: The response ends before the first of these strings.
    """

    def __init__(
        self, prompt: Prompt, settings: Settings, seed: int, repeat: int = 0, stop: tuple[str, ...] = ()
    ) -> None:
        self.terms = Terms(settings, stop, Randomness(seed, prompt, repeat))
        self.settings = settings
        self.path = Path(prompt)
        """The prompt and the steps so far, as they were written."""
        self.progress = Progress(self.terms, self.path)
        self.ledger = Ledger()
        self.records: list[StepRecord] = []
        self.degradations: list[Degradation] = []
        self.attempt = 0
        """Drafts of the present step that were retried."""
        self.undecided: tuple[Step, ...] = ()
        """Drafts of the present step of which nothing is decided yet."""
        self.finish: FinishReason | None = None
        """Why the response is finished; None while it is not."""
        self.prompt_tokens = 0
        """Length of the prompt as the model that read it first counts it."""
        self._noticed = 0

    @property
    def index(self) -> int:
        """Index of the step that is being decoded."""
        return self.path.depth

    @property
    def coin(self) -> float:
        """A number in [0, 1) for the decision about the present draft."""
        return self.uniform("coin")

    def uniform(self, purpose: str) -> float:
        """The request's own random number in [0, 1) for a purpose, at this attempt at this step."""
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
            reward: Of the draft, accepted or not.
            rejected: The draft that it replaces.
            progress: The response with this step, where it was worked out before.
        """
        drafted = author == "draft"
        discarded = None if rejected is None else rejected.text
        record = StepRecord(step.text, author, reward, drafted, discarded, step.size, step.native)
        if progress is None:
            progress = self.progress.extend(step, self.terms.limits.exhausted(self.ledger))
        self.progress, self.path, self.finish = progress, progress.path, progress.finish
        self.attempt, self.undecided = 0, ()
        if not step.text:
            return record
        self.records.append(record)
        if progress.excess:
            self._cut(progress.excess)
        return self.records[-1]

    def rate(self, reward: float | None) -> StepRecord:
        """Note the reward of the last step itself, which the target wrote."""
        self.records[-1] = replace(self.records[-1], target_reward=reward)
        return self.records[-1]

    def discard(self, drafts: Sequence[Step], *, scored: bool) -> None:
        """Note discarded drafts on the ledger; a blank one was never scored."""
        self.ledger.drafter.discarded += sum([step.size for step in drafts])
        if scored:
            self.ledger.verifier.discarded += sum([step.size for step in drafts if step.text.strip()])
        if self.undecided:
            gone = {id(step) for step in drafts}
            self.undecided = tuple(step for step in self.undecided if id(step) not in gone)

    def degrade(self, kind: DegradationKind, message: str) -> None:
        """Note a fault or limit that was got over."""
        self.degradations.append(Degradation(self.index, kind, message))

    @property
    def has_notices(self) -> bool:
        """Whether something was noted since the last call of `pop_notices`."""
        return len(self.degradations) > self._noticed

    def pop_notices(self) -> list[Degraded]:
        """What was noted since the last call, as events."""
        fresh = self.degradations[self._noticed :]
        self._noticed += len(fresh)
        return [Degraded(item.step, item) for item in fresh]

    def branch(self, label: int) -> Request:
        """Another response from here on, with random numbers of its own, on the same ledger."""
        other = copy.copy(self)
        other.records = list(self.records)
        other.terms = self.terms.branch(label)
        other.progress = replace(self.progress, terms=other.terms)
        return other

    def adopt(self, branch: Request) -> list[StepRecord]:
        """Make a branch the response: its records."""
        self.progress, self.path, self.finish = branch.progress, branch.path, branch.finish
        self.records = list(branch.records)
        return list(branch.records)

    def result(self, reason: FinishReason, seconds: float) -> Result:
        """The request as it stands.

        Args:
            reason: Why the response ends.
            seconds: Wall-clock time since the request started.
        """
        return Result(
            prompt=self.path.prompt,
            text="".join([record.text for record in self.records]),
            finish_reason=reason,
            steps=tuple(self.records),
            ledger=self.ledger,
            seconds=seconds,
            degradations=tuple(self.degradations),
        )

    def _cut(self, excess: int) -> None:
        """Take so many characters off the end of the text, which may reach back over some steps."""
        for i in range(len(self.records) - 1, -1, -1):
            text = self.records[i].text
            gone = min(excess, len(text))
            self.records[i] = replace(self.records[i], text=text[: len(text) - gone])
            excess -= gone
            if not excess:
                return
