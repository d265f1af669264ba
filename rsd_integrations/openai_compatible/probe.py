"""What a server can do, tested with short requests in the way it will be used, for `rsd doctor`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from rsd_core import (
    ConfigurationError,
    Generation,
    NextWord,
    Path,
    RunError,
    Sampling,
    Step,
    StepRequest,
    Usage,
    as_prompt,
)
from rsd_integrations.findings import Finding
from rsd_integrations.openai_compatible.discovery import find_thoughts, rendered_thoughts, spec_of
from rsd_integrations.openai_compatible.endpoint import Endpoint
from rsd_integrations.openai_compatible.errors import Refused, WrongProfile, readable
from rsd_integrations.openai_compatible.profile import Profile
from rsd_integrations.openai_compatible.profiles import find_profile, hosted_at
from rsd_integrations.openai_compatible.prompts import Prompts
from rsd_integrations.openai_compatible.request_fields import RequestFields
from rsd_integrations.openai_compatible.server import Learnt, Server

QUESTION = "Count from one to ten."
OTHERS = ("List the months of the year.", "Explain how to add 45 and 12.")
"""Asked if an answer was not reproduced: between two equally likely tokens rounding decides, so a server is at fault
only if it happens every time."""
HALF = 8
"""Tokens to write at a time."""


class Probed(Protocol):
    """A generator behind an endpoint, as far as tests need it."""

    endpoint: Endpoint
    prompts: Prompts
    fields: RequestFields
    profile: Profile | None
    guesses: bool
    learnt: Learnt

    async def server(self) -> Server:
        """What the server reports about itself."""

    def assume(self, profile: Profile | None) -> None:
        """Assume this kind of server from now on."""

    async def generate(self, path: Path, request: StepRequest) -> Generation:
        """Write the step that follows the path."""

    async def next_word(self, path: Path, words: Sequence[str]) -> NextWord:
        """Log-probabilities of words as the next text."""


class Probe:
    """Short greedy answers of one model, and what they show. Failures are findings, not exceptions."""

    def __init__(self, model: Probed) -> None:
        self.model = model
        self._path = Path(as_prompt(QUESTION))
        self._whole = Step("", "length")
        self._usage = Usage()
        self._room = 2 * HALF
        self._use: str | None = None
        """A spec that works instead of a failing one, if an error contains one."""

    async def findings(self) -> list[Finding]:
        """All findings; only the first if the server does not answer."""
        omit, profile = self.model.fields.omit, self.model.profile
        try:
            return await self._findings()
        finally:  # findings are reported, not applied silently
            self.model.fields.omit = omit
            if self.model.profile is not profile:
                self.model.assume(profile)

    async def _findings(self) -> list[Finding]:
        try:
            server = await self.model.server()
        except (ConfigurationError, RunError) as error:
            return [Finding("reachable", False, str(error))]
        name = self.model.endpoint.model
        findings = [
            Finding("reachable", True, f"profile {server.profile.name}: {server.profile.summary}"),
            find_listed(server, name, f"models/{name}"),
            Finding("context", None if server.context is None else True, _context(server.context)),
        ]
        for name, check in (
            ("fields", self._fields),
            ("answers", self._answers),
            ("thoughts", self._thoughts),
            ("prefix", self._prefix),
            ("steps", self._steps),
            ("token accounting", self._accounting),
            ("log-probabilities", self._logprobs),
            *([("guesses", self._guesses)] if self.model.guesses else ()),
            ("spec", self._spec),
        ):
            findings.append(await self._tried(name, check))
            if name == "answers" and not findings[-1].ok:
                break
        return findings

    async def _fields(self) -> Finding:
        """Request a sampled answer with fewer and fewer fields until it succeeds."""
        drawn, left_out = StepRequest((0,), self._room, None, Sampling(0.7)), list[str]()
        while True:
            try:
                await self.model.generate(self._path, drawn)
            except Refused as error:
                if not self._leave_out(error):
                    return Finding("fields", None, f"not found out: {error.reason}")
                left_out.append(str(error.field))
                continue
            except (ConfigurationError, RunError):  # the next check reports it
                return Finding("fields", None, "not found out")
            told = f"it refuses {', '.join(left_out)}" if left_out else "it accepts all that are sent"
            return Finding("fields", None if left_out else True, told)

    def _leave_out(self, error: Refused) -> bool:
        """Omit the field that a server named."""
        if error.field == "max_tokens" and "max_completion_tokens" in error.reason:
            self.model.assume(find_profile("openai_reasoning"))
            return True
        fields = self.model.fields
        if error.field is None or error.field in fields.omit or not fields.may_omit(error.field):
            return False
        fields.omit |= {error.field}
        return True

    async def _answers(self) -> Finding:
        for self._room in (2 * HALF, 2048):  # thoughts may use up the first
            generation = await self.model.generate(self._path, StepRequest((0,), self._room, None))
            (self._whole,), self._usage = generation.steps, generation.usage
            if self._whole.text or self._whole.ending != "length":
                break
        return Finding("answers", bool(self._whole.text), repr(self._whole.text[:80]))

    async def _thoughts(self) -> Finding:
        model, server = self.model, await self.model.server()
        if model.prompts.mode == "chat":
            found = await find_thoughts(model.endpoint, model.fields, server.profile)
        else:
            found = rendered_thoughts(model.prompts, model.fields)
        if found.where is None:
            return Finding("thoughts", True, "it answers without a thought")
        off = f"switched off by {', '.join(found.options)}" if found.options else "nothing tried switches off"
        return Finding("thoughts", True, f"{found.where}; {off}")

    async def _spec(self) -> Finding:
        if self._use is not None:
            return Finding("spec", True, self._use)
        model, server = self.model, await self.model.server()
        named = model.profile not in (None, hosted_at(model.endpoint.base_url, model.endpoint.model))
        spec = spec_of(model.endpoint, model.prompts, model.fields, server, named)
        turns = model.prompts.mode == "chat" and server.profile.continues is None
        return Finding("spec", True, f"{spec}, with granularity: turn" if turns else spec)

    async def _turns_only(self, name: str) -> Finding | None:
        """The finding about steps for a hosted API whose chats always open a new turn, which is not a fault."""
        profile = (await self.model.server()).profile
        if self.model.prompts.mode == "chat" and profile.continues is None and profile.hosts:
            return Finding(name, None, "its chats write whole turns: settings.granularity: turn")
        return None

    async def _prefix(self) -> Finding:
        """Half an answer, continued, is the whole answer."""
        if turns := await self._turns_only("prefix"):
            return turns
        way = "exact ids" if self._whole.tokens else f"mode={self.model.prompts.mode}"

        async def wrong(path: Path, whole: Step) -> str | None:
            first = await self._write(path, HALF, _NEVER)
            if first.ending == "end":
                return None
            second = await self._write(path.extend(first), HALF, _NEVER)
            if first.text + second.text == whole.text:
                return None
            return f"{first.text!r} was continued with {second.text!r}, but in one piece it is {whole.text!r}"

        found, near = await self._every_time(wrong)
        told = f"an interrupted answer continues as if it had not been interrupted{near}" if found is None else found
        return Finding("prefix", found is None, f"{way}: {told}")

    async def _steps(self) -> Finding:
        """A step ends after its delimiter, distinguishable from the end of the answer."""
        if turns := await self._turns_only("steps"):
            return turns

        async def wrong(path: Path, whole: Step) -> str | None:
            text = whole.text.strip()
            mark = text[len(text) // 2 :][:2]
            step = await self._write(path, 2 * HALF, mark)
            if step.ending == "delimiter" and mark in step.text and whole.text.startswith(step.text):
                return None
            return f"a step that should end after {mark!r} is {step.text!r} and ended by {step.ending}"

        found, near = await self._every_time(wrong)
        how = {"kept": "the server keeps and names stop strings", "left": "the server leaves stop strings in the text"}
        right = how.get((await self.model.server()).profile.stop, "steps are streamed and cut here")
        return Finding("steps", found is None, f"{right}{near}" if found is None else found)

    async def _every_time(self, wrong: Callable[[Path, Step], Awaitable[str | None]]) -> tuple[str | None, str]:
        """What is wrong with the first answer, if the check fails for others too; else a remark."""
        found = await wrong(self._path, self._whole)
        for question in OTHERS if found is not None else ():
            path = Path(as_prompt(question))
            whole = (await self.model.generate(path, StepRequest((0,), 2 * HALF, None))).steps[0]
            if whole.ending == "length" and await wrong(path, whole) is None:
                return None, "; between equally likely tokens it may write either"
        return found, ""

    async def _accounting(self) -> Finding:
        usage, known = self._usage, len(self._whole.tokens)
        counts = f"{usage.prefix} tokens read, {usage.reused} of them cached, {usage.generated} written"
        if not known:
            return Finding("token accounting", True if usage.generated else None, counts)
        right = 0 <= usage.generated - known <= 1  # the end-of-answer token is not part of it
        return Finding("token accounting", right, counts if right else f"{counts}, but {known} ids came")

    async def _logprobs(self) -> Finding:
        try:
            await self.model.next_word(self._path, tuple("0123456789"))
        except ConfigurationError as error:
            return Finding("log-probabilities", None, str(error))
        return Finding("log-probabilities", True, "judges can read word probabilities")

    async def _guesses(self) -> Finding:
        """An answer read as a guess is the answer that was written."""

        async def wrong(path: Path, whole: Step) -> str | None:
            (step,) = (await self.model.generate(path, StepRequest((0,), 2 * HALF, None, guess=whole))).steps
            return None if step.text == whole.text else f"read as a guess, {whole.text!r} became {step.text!r}"

        found, near = await self._every_time(wrong)
        if not self.model.learnt.tells_ranks:
            return Finding("guesses", False, "the server does not report the ranks of the tokens it reads")
        told = f"rejected drafts are read, and their correct prefixes kept{near}" if found is None else found
        return Finding("guesses", found is None, told)

    async def _tried(self, name: str, check: Callable[[], Awaitable[Finding]]) -> Finding:
        try:
            return await check()
        except (ConfigurationError, RunError) as error:
            if isinstance(error, WrongProfile):
                self._use = error.use
            return Finding(name, False, str(error))

    async def _write(self, path: Path, tokens: int, delimiter: str) -> Step:
        return (await self.model.generate(path, StepRequest((0,), tokens, delimiter))).steps[0]


_NEVER = "\x1f\x1f"
"""A delimiter that never occurs: half an answer is requested in the same way as a step."""


def find_listed(server: Server, name: str, *others: str) -> Finding:
    """Whether a model is in its server's list, under its own or another name; control characters are written out."""
    if not server.models:
        return Finding("model", None, "the server lists none")
    listed = ", ".join(readable(one) for one in server.models[:8]) + ", …" * (len(server.models) > 8)
    found = not {name, *others}.isdisjoint(server.models)
    return Finding("model", found, listed if found else f"{name!r} is not in the server's list: {listed}")


def _context(tokens: int | None) -> str:
    return "not reported; set context=N" if tokens is None else f"{tokens} tokens"
