"""What a server can do, tried out with some short requests in the way that it will be used: for `rsd doctor`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rsd_core import ConfigurationError, Path, RunError, Step, StepRequest, Usage, as_prompt

if TYPE_CHECKING:
    from rsd_integrations.openai_compatible.generator import OpenAIGenerator

QUESTION = "Count from one to ten."
HALF = 8
"""Tokens that are written at a time."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried."""

    name: str
    ok: bool | None
    """None for what is missing, and can be done without."""
    told: str


class Probe:
    """Short greedy answers of one model, and what they show. Nothing is raised: what fails is a finding."""

    def __init__(self, model: OpenAIGenerator) -> None:
        self.model = model
        self._path = Path(as_prompt(QUESTION))
        self._whole = Step("", "length")
        self._usage = Usage()

    async def findings(self) -> list[Finding]:
        """Everything that was found; no more than the first thing where nobody answers."""
        try:
            server = await self.model.server()
        except (ConfigurationError, RunError) as error:
            return [Finding("reachable", False, str(error))]
        there = self.model.endpoint.model in server.models if server.models else None
        found = [
            Finding("reachable", True, f"profile {server.profile.name}: {server.profile.summary}"),
            Finding("model", there, ", ".join(server.models[:8]) or "the server lists none"),
            Finding("context", None if server.context is None else True, _context(server.context)),
        ]
        for name, check in (
            ("answers", self._answers),
            ("prefix", self._prefix),
            ("steps", self._steps),
            ("token accounting", self._accounting),
            ("log-probabilities", self._logprobs),
            *([("guesses", self._guesses)] if self.model.guesses else ()),
        ):
            found.append(await _tried(name, check))
            if name == "answers" and not found[-1].ok:
                break
        return found

    async def _answers(self) -> Finding:
        made = await self.model.generate(self._path, StepRequest((0,), 2 * HALF, None))
        (self._whole,), self._usage = made.steps, made.usage
        return Finding("answers", bool(self._whole.text), repr(self._whole.text))

    async def _prefix(self) -> Finding:
        """Half an answer, gone on with, is the whole answer."""
        first = await self._write(self._path, HALF, _NEVER)
        second = Step("", "end")
        if first.ending != "end":
            second = await self._write(self._path.extend(first), HALF, _NEVER)
        exact = first.text + second.text == self._whole.text
        way = "exact ids" if self._whole.tokens else f"mode={self.model.prompts.mode}"
        told = f"{way}: an answer that is interrupted goes on as if it had not been"
        if not exact:
            told = f"{way}: {first.text!r} was gone on with by {second.text!r}, in one piece it is {self._whole.text!r}"
        return Finding("prefix", exact, told)

    async def _steps(self) -> Finding:
        """A step ends after its delimiter, and is told from the end of the answer."""
        text = self._whole.text.strip()
        mark = text[len(text) // 2 :][:2]
        step = await self._write(self._path, 2 * HALF, mark)
        ends = step.ending == "delimiter" and mark in step.text and self._whole.text.startswith(step.text)
        wrong = f"a step that was to end after {mark!r} is {step.text!r} and ended by {step.ending}"
        how = {"kept": "the server keeps and names stop strings", "left": "the server leaves stop strings in the text"}
        right = how.get((await self.model.server()).profile.stop, "steps are streamed and cut here")
        return Finding("steps", ends, right if ends else wrong)

    async def _accounting(self) -> Finding:
        usage, known = self._usage, len(self._whole.tokens)
        told = f"{usage.prefix} tokens read, {usage.reused} of them cached, {usage.generated} written"
        if not known:
            return Finding("token accounting", True if usage.generated else None, told)
        right = 0 <= usage.generated - known <= 1  # the token that ends an answer is no part of it
        return Finding("token accounting", right, told if right else f"{told}, but {known} ids came")

    async def _logprobs(self) -> Finding:
        try:
            await self.model.next_word(self._path, tuple("0123456789"))
        except ConfigurationError as error:
            return Finding("log-probabilities", None, str(error))
        return Finding("log-probabilities", True, "judges can read the likely words")

    async def _guesses(self) -> Finding:
        """An answer that is read is the answer that was written."""
        made = await self.model.generate(self._path, StepRequest((0,), 2 * HALF, None, guess=self._whole))
        if not made.usage.parts:
            return Finding("guesses", False, "the server does not tell the ranks of the tokens that it reads")
        same = made.steps[0].text == self._whole.text
        told = f"read as a guess, {self._whole.text!r} became {made.steps[0].text!r}"
        return Finding("guesses", same, "rejected drafts are read, and their right beginnings kept" if same else told)

    async def _write(self, path: Path, tokens: int, delimiter: str) -> Step:
        return (await self.model.generate(path, StepRequest((0,), tokens, delimiter))).steps[0]


_NEVER = "\x1f\x1f"
"""A delimiter that no answer holds: half an answer is asked for as a step is."""


def _context(tokens: int | None) -> str:
    return "not told; context=N says it" if tokens is None else f"{tokens} tokens"


async def _tried(name: str, check: Callable[[], Awaitable[Finding]]) -> Finding:
    try:
        return await check()
    except (ConfigurationError, RunError) as error:
        return Finding(name, False, str(error))
