"""What a server can do, tried out with some short requests in the way that it will be used: for `rsd doctor`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from rsd_core import ConfigurationError, Generation, NextWord, Path, RunError, Step, StepRequest, Usage, as_prompt
from rsd_integrations.openai_compatible.endpoint import Endpoint
from rsd_integrations.openai_compatible.errors import readable
from rsd_integrations.openai_compatible.prompts import Prompts
from rsd_integrations.openai_compatible.server import Server

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
    """What it showed, or why it failed."""


class Probed(Protocol):
    """A generator behind an endpoint, as far as it is tried out."""

    endpoint: Endpoint
    prompts: Prompts
    guesses: bool
    tells_ranks: bool

    async def server(self) -> Server:
        """What the server says about itself."""

    async def generate(self, path: Path, request: StepRequest) -> Generation:
        """Write the step that follows the path."""

    async def next_word(self, path: Path, words: Sequence[str]) -> NextWord:
        """Log-probabilities of words as the next text."""


class Probe:
    """Short greedy answers of one model, and what they show. Nothing is raised: what fails is a finding."""

    def __init__(self, model: Probed) -> None:
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
        listed = self.model.endpoint.model in server.models if server.models else None
        findings = [
            Finding("reachable", True, f"profile {server.profile.name}: {server.profile.summary}"),
            Finding("model", listed, list_models(server)),
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
            findings.append(await _tried(name, check))
            if name == "answers" and not findings[-1].ok:
                break
        return findings

    async def _answers(self) -> Finding:
        generation = await self.model.generate(self._path, StepRequest((0,), 2 * HALF, None))
        (self._whole,), self._usage = generation.steps, generation.usage
        return Finding("answers", bool(self._whole.text), repr(self._whole.text))

    async def _prefix(self) -> Finding:
        """Half an answer, gone on with, is the whole answer."""
        first = await self._write(self._path, HALF, _NEVER)
        second = Step("", "end")
        if first.ending != "end":
            second = await self._write(self._path.extend(first), HALF, _NEVER)
        exact = first.text + second.text == self._whole.text
        way = "exact ids" if self._whole.tokens else f"mode={self.model.prompts.mode}"
        detail = f"{way}: an answer that is interrupted goes on as if it had not been"
        if not exact:
            detail = (
                f"{way}: {first.text!r} was gone on with by {second.text!r}, in one piece it is {self._whole.text!r}"
            )
        return Finding("prefix", exact, detail)

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
        counts = f"{usage.prefix} tokens read, {usage.reused} of them cached, {usage.generated} written"
        if not known:
            return Finding("token accounting", True if usage.generated else None, counts)
        right = 0 <= usage.generated - known <= 1  # the token that ends an answer is no part of it
        return Finding("token accounting", right, counts if right else f"{counts}, but {known} ids came")

    async def _logprobs(self) -> Finding:
        try:
            await self.model.next_word(self._path, tuple("0123456789"))
        except ConfigurationError as error:
            return Finding("log-probabilities", None, str(error))
        return Finding("log-probabilities", True, "judges can read the likely words")

    async def _guesses(self) -> Finding:
        """An answer that is read is the answer that was written."""
        request = StepRequest((0,), 2 * HALF, None, guess=self._whole)
        (step,) = (await self.model.generate(self._path, request)).steps
        if not self.model.tells_ranks:
            return Finding("guesses", False, "the server does not tell the ranks of the tokens that it reads")
        if step.text != self._whole.text:
            return Finding("guesses", False, f"read as a guess, {self._whole.text!r} became {step.text!r}")
        return Finding("guesses", True, "rejected drafts are read, and their right beginnings kept")

    async def _write(self, path: Path, tokens: int, delimiter: str) -> Step:
        return (await self.model.generate(path, StepRequest((0,), tokens, delimiter))).steps[0]


_NEVER = "\x1f\x1f"
"""A delimiter that no answer holds: half an answer is asked for as a step is."""


def list_models(server: Server) -> str:
    """The names of a server's models, control characters written out."""
    return ", ".join(readable(name) for name in server.models[:8]) or "the server lists none"


def _context(tokens: int | None) -> str:
    return "not told; context=N says it" if tokens is None else f"{tokens} tokens"


async def _tried(name: str, check: Callable[[], Awaitable[Finding]]) -> Finding:
    try:
        return await check()
    except (ConfigurationError, RunError) as error:
        return Finding(name, False, str(error))
