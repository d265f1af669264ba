"""The work of one HTTP request: its answers, decoded side by side, each in its own slot."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from rsd_core import Cancellation, Decoder, Prompt, RequestOptions, Result, RunError
from rsd_core.concurrency import run_all
from rsd_core.queueing import side_by_side
from rsd_integrations.answer_forms import AnswerForm
from rsd_integrations.serve.admission import Admission, NoPlaceError
from rsd_integrations.serve.answers import Answer, Delta
from rsd_integrations.serve.metrics import Metrics

Tell = Callable[[Answer, Delta], Awaitable[None]]
"""Takes what an event adds to an answer; after the last event, the answer has its result."""


@dataclass(slots=True)
class Job:
    """The answers to one request: n to each of its prompts."""

    model: str
    """The name that the client asked for."""
    decoder: Decoder
    prompts: Sequence[Prompt]
    n: int = 1
    seed: int | None = None
    """Instead of the decoder's own."""
    stop: Sequence[str] = ()
    tools: bool = False
    """Whether the models may call tools."""
    trace: bool = False
    """Whether answers include their steps."""
    form: AnswerForm | None = None
    """The required form of the answers, if any."""
    cancel: Cancellation = field(default_factory=Cancellation)
    """Ends all of it early; what is written by then is kept, and charged."""
    arrived: float = field(default_factory=time.monotonic)
    answers: list[Answer] = field(init=False)
    """One for each requested answer, those to the same prompt together."""

    def __post_init__(self) -> None:
        self.answers = [
            Answer(i, self.stop, tools=self.tools, form=self.form) for i in range(self.n * len(self.prompts))
        ]

    @property
    def results(self) -> list[Result]:
        """The results of the answers that have ended."""
        return [answer.result for answer in self.answers if answer.result is not None]

    @property
    def answered(self) -> list[list[Result]]:
        """The same by prompt, also where two prompts are equal."""
        told = [answer.result for answer in self.answers]
        return [
            [result for result in told[first : first + self.n] if result is not None]
            for first in range(0, len(told), self.n)
        ]

    async def run(self, admission: Admission, metrics: Metrics, tell: Tell) -> None:
        """Decode all answers. `Admission.enter` has admitted the request.

        Raises:
            Exception: What the first one to fail raised; the others are ended, and everything is charged.
        """
        failures: list[Exception] = []
        asked = begun = 0

        async def one(answer: Answer) -> None:
            nonlocal asked, begun
            asked += 1
            try:
                try:
                    async with admission.place(self.cancel):
                        begun += 1
                        await self._decode(answer, metrics, tell)
                except NoPlaceError:
                    if not begun:
                        raise
                    await self._decode(answer, metrics, tell)  # cut before its first call, to be reported too
            except Exception as error:
                if isinstance(error, RunError) and error.partial is not None:
                    metrics.ended(self.model, error.partial)
                failures.append(error)
                self.cancel.cancel()

        try:
            with side_by_side(admission.places):
                await run_all([one(answer) for answer in self.answers])
        finally:
            admission.left(len(self.answers) - asked)
        if failures:
            raise failures[0]

    async def _decode(self, answer: Answer, metrics: Metrics, tell: Tell) -> None:
        prompt, repeat = divmod(answer.index, self.n)
        options = RequestOptions(repeat=repeat, stop=self.stop, cancel=self.cancel)
        if self.seed is not None:
            options["seed"] = self.seed
        waits = True
        async with aclosing(self.decoder.astream(self.prompts[prompt], **options)) as events:
            async for event in events:
                delta = answer.feed(event)
                if waits and delta:
                    waits = False
                    metrics.began(self.model, time.monotonic() - self.arrived)
                if answer.result is not None:
                    metrics.ended(self.model, answer.result)
                if delta or answer.result is not None:
                    await tell(answer, delta)
