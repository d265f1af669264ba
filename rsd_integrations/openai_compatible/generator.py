"""Models behind URLs as drafter and target."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any, Self

from rsd_core import (
    ConfigurationError,
    Drafter,
    Generation,
    Likelihoods,
    Message,
    NextWord,
    Path,
    Price,
    Prompt,
    PromptError,
    Sampling,
    Step,
    StepRequest,
    Target,
    Usage,
)
from rsd_core.concurrency import run_all
from rsd_core.thoughts.markers import Thinking
from rsd_integrations.chat_fields import FORM, TOOL_FIELDS, TakesFields, refuse
from rsd_integrations.findings import Finding
from rsd_integrations.loaded_models import Resident
from rsd_integrations.openai_compatible.accepted_prefix import Guess, NoRanksError
from rsd_integrations.openai_compatible.answers import Answer, StepReader, StreamedSteps, read_answer, received
from rsd_integrations.openai_compatible.background import Once, on_background_loop
from rsd_integrations.openai_compatible.called import refuse_text
from rsd_integrations.openai_compatible.charges import Charges
from rsd_integrations.openai_compatible.continuation import check_completions
from rsd_integrations.openai_compatible.endpoint import Endpoint
from rsd_integrations.openai_compatible.errors import Refused
from rsd_integrations.openai_compatible.finish_reasons import FinishReasons
from rsd_integrations.openai_compatible.likelihoods import LogProbabilities
from rsd_integrations.openai_compatible.probe import Probe
from rsd_integrations.openai_compatible.profile import Profile
from rsd_integrations.openai_compatible.profiles import find_profile, hosted_at
from rsd_integrations.openai_compatible.prompts import Mode, OverlongError, Prompts, SentPath
from rsd_integrations.openai_compatible.request_fields import RequestFields
from rsd_integrations.openai_compatible.server import Learnt, Server, learn
from rsd_integrations.openai_compatible.step_ends import StepEnds
from rsd_integrations.openai_compatible.streams import NoIdsError, Stream, Streams
from rsd_integrations.openai_compatible.trials import Trials

logger = logging.getLogger(__name__)
SEEDS = 2**31
"""Seeds are taken modulo this, since some servers use signed 32-bit integers."""


class OpenAIGenerator(Resident, TakesFields, Drafter, Target):
    """A model behind an OpenAI-compatible endpoint that writes steps.

    In `completions` mode the server continues the exact text or, if it accepts ids, the exact ids, tokenised locally:
    sampled ids are never tokenised again. In `chat` mode it continues the assistant's last message if it can; otherwise
    it writes turns.

    Args:
        endpoint: Where the model is.
        tokenizer: Folder or hub id of the model's tokenizer, whose chat template renders the prompt.
        mode: `completions` or `chat`; by default `completions` if a tokenizer is given.
        profile: The kind of server, a name in `PROFILES`; by default detected at first use.
        context: Maximum sequence length in tokens; by default as reported by the server.
        template: Chat template arguments, such as `{"enable_thinking": False}`: completions use them for local
            rendering, chats send them as `chat_template_kwargs`.
        body: Additional fields of every request, as JSON, such as `{"reasoning_effort": "low"}`.
        omit: Names of fields not to send, such as `temperature`; `reasoning_content` keeps earlier thoughts out of
            messages.
        logprobs: Whether steps include the log-probabilities of their tokens.
        guesses: Whether a target reads the draft it replaces and continues from the first token that it would not have
            chosen, under greedy decoding. This saves time but costs FLOPs, since vLLM reads the whole text for it.
        flops_per_token: Two per weight, for the ledger.
        price: Money per million tokens, for the ledger.

    Raises:
        ConfigurationError: A value is unknown, a field cannot be set by the user, or the tokenizer is unavailable or
            missing for guesses.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        tokenizer: str | None = None,
        mode: Mode | None = None,
        profile: str | None = None,
        context: int | None = None,
        template: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        omit: str | Sequence[str] = (),
        logprobs: bool = False,
        guesses: bool = False,
        flops_per_token: float | None = None,
        price: Price | None = None,
    ) -> None:
        if mode not in (None, "completions", "chat"):
            raise ConfigurationError(f"mode={mode!r} is unknown; choose completions or chat")
        if guesses and (tokenizer is None or mode == "chat"):
            raise ConfigurationError("guesses=true needs a tokenizer=… and mode=completions: drafts are read as ids")
        self.endpoint = endpoint
        self.name = endpoint.model
        self.flops_per_token, self.price = flops_per_token, price
        self.fields = RequestFields(template, body, omit)
        """The user's part of every request."""
        self.prompts = Prompts(tokenizer, mode or ("completions" if tokenizer else "chat"), self.fields)
        self.renders_tools = self.prompts.renders_tools
        self.logprobs, self.guesses = logprobs, guesses
        self._context = context
        self._reasons, self._stream_reasons = (FinishReasons(repr(endpoint)) for _ in range(2))
        self.profile: Profile | None = None
        """The assumed kind of server; None to detect it from its host and its replies."""
        self.assume(None if profile is None else find_profile(profile))
        self._streams = Streams()
        self.learnt = Learnt()

    def assume(self, profile: Profile | None) -> None:
        """Assume this kind of server from now on."""
        self.profile = profile
        self._learning = Once(lambda: learn(self.endpoint, profile, self._context))
        self._trials = Trials(self, self._reasons)

    def like(self, profile: Profile | None) -> OpenAIGenerator:
        """The same model and endpoint, assuming another kind of server."""
        other = copy.copy(self)
        other.learnt = replace(self.learnt)
        other.assume(profile)
        return other

    def _with(self, fields: dict[str, Any]) -> Self:
        """Template arguments here, or chat fields: those of a message apply to whole turns only."""
        other = copy.copy(self)
        if self.prompts.mode == "completions":
            calls = {name: fields.pop(name) for name in TOOL_FIELDS if name in fields}
            refuse(self, calls, "completions write text; remove it, or use mode=chat with granularity='turn'")
            other.fields = self.fields.with_fields({name: fields.pop(name) for name in (FORM,) if name in fields})
            try:
                other.prompts = self.prompts.with_arguments(fields)
            except ConfigurationError as error:
                raise ConfigurationError(f"{self.name}: {error}") from error
        else:
            other.fields = self.fields.with_fields(fields)
            other.prompts = self.prompts.sending(other.fields)
            other._trials = Trials(other, self._reasons)
        return other

    @property
    def _known_profile(self) -> Profile | None:
        return self.profile or hosted_at(self.endpoint.base_url, self.endpoint.model)

    @property
    def writes_json(self) -> bool:
        """Whether its kind of server supports JSON Schemas, if known without contacting the server."""
        profile = self._known_profile
        if profile is None:
            return False
        return bool(profile.schema) if self.prompts.mode == "completions" else profile.json_schema

    def check_sampling(self, sampling: Sampling) -> None:
        """Refuse a top-k that the server is known not to honour."""
        if self._known_profile is not None:
            self._check_top_k(sampling, self._known_profile)

    def _check_top_k(self, sampling: Sampling, profile: Profile, *, needed: bool = True) -> None:
        sent = sampling.top_k if sampling.temperature > 0 and not self.fields.decides("top_k") else 0
        if sent and not profile.top_k and not needed:
            _warn_of_top_k(str(self.endpoint), sent)
        elif sent and not profile.top_k:
            raise ConfigurationError(
                f"top_k={sent} cannot reach {self.endpoint}: {profile.summary} has no such field. Use top_k=0, which "
                "samples from all tokens, or top_p; omit=top_k leaves it out for this model, and body.top_k=N sends "
                "it if the server accepts it anyway"
            )

    def thinking(self, prompt: Prompt) -> Thinking | None:
        """How the model thinks before it answers, by the tokenizer's template; None if the server renders it."""
        return self.prompts.thinking(prompt)

    async def generate(self, path: Path, request: StepRequest) -> Generation:
        """Write the step that follows the path, once per seed.

        Raises:
            PromptError: The prompt alone fills the model's context.
            ConfigurationError: The server refuses the request, or cannot continue a prefix.
            EndpointError: The server failed, after all retries.
        """
        return await on_background_loop(self._generate(path, request))

    async def next_word(self, path: Path, words: Sequence[str], after: Sequence[Message] = ()) -> NextWord:
        """Log-probabilities of words as the next text, one token of it generated.

        Raises:
            ConfigurationError: The server reports no log-probabilities, or two words begin with the same token.
        """
        return await on_background_loop(self._next_word(path, words, after))

    async def log_likelihoods(self, path: Path, steps: Sequence[Step]) -> Likelihoods:
        """Log-probability of each step after the path, including the end of the answer if the step ends it.

        Raises:
            ConfigurationError: The server does not report log-probabilities of a prompt, or no tokenizer was given.
        """
        return await on_background_loop(self._log_likelihoods(path, steps))

    async def server(self) -> Server:
        """What the server reports about itself; requested once. Must be awaited on the background loop."""
        server = await self._learning.result()
        self.endpoint.suggest(server.concurrency)
        return server

    async def step_ends(self) -> StepEnds:
        """How the server marks the ends of steps: tested with two short answers, once per process.

        Raises:
            ConfigurationError: The server refuses the test requests.
            EndpointError: It failed, after all retries.
        """
        return await on_background_loop(self._trials.step_ends())

    async def examine(self) -> list[Finding]:
        """Test the server; failures are findings, not exceptions."""
        with self.endpoint.impatient():
            return await on_background_loop(Probe(self).findings())

    async def aclose(self) -> None:
        """Cancel requests in flight, and close all connections."""
        await on_background_loop(self._close())

    async def _close(self) -> None:
        await self._learning.aclose()
        await self._trials.aclose()
        await self._streams.aclose()
        await self.endpoint.aclose()

    async def _next_word(self, path: Path, words: Sequence[str], after: Sequence[Message]) -> NextWord:
        charges = Charges(self)
        with charges:
            profile = (await self.server()).profile
            likely = LogProbabilities(self.endpoint, self.prompts, self.fields, profile, charges)
            return NextWord(await likely.of_words(path, words, after), charges.total())

    async def _log_likelihoods(self, path: Path, steps: Sequence[Step]) -> Likelihoods:
        charges = Charges(self)
        with charges:
            profile = (await self.server()).profile
            likely = LogProbabilities(self.endpoint, self.prompts, self.fields, profile, charges)
            return Likelihoods(await likely.of_steps(path, steps), charges.total())

    async def _generate(self, path: Path, request: StepRequest) -> Generation:
        if request.delimiter is not None:
            refuse(self, self.fields.turn, "a step is text; remove it, or use granularity='turn'")
        charges = Charges(self)
        with charges:
            server = await self.server()
            self._check_top_k(request.sampling, server.profile, needed=request.needs_top_k)
            if self.guesses and not server.profile.ranks:
                raise ConfigurationError(
                    f"{self.endpoint} cannot read drafts as guesses ({server.profile.summary}): only vLLM reports "
                    "the ranks of a prompt's tokens. Remove guesses=true."
                )
            if self.logprobs and not server.profile.logprobs:
                raise ConfigurationError(
                    f"logprobs=true: {self.endpoint} reports no log-probabilities ({server.profile.summary}). Leave "
                    "it out."
                )
            if self.prompts.mode == "completions":
                check_completions(self.endpoint, self.prompts, server.profile, path)
            server = await self._trials.for_step(server, path, request, charges)
            sent = self.prompts.render(path, server.profile, turn=request.delimiter is None)
            try:
                steps = await self._steps(server, path, sent, request, charges)
            except (Refused, OverlongError) as error:
                if isinstance(error, Refused) and not error.overlong:
                    raise
                if path.step is None:
                    reason = error.reason if isinstance(error, Refused) else str(error)
                    raise PromptError(f"the prompt is too long for {self.name}: {reason}") from None
                # Nothing follows a path that is as long as the context.
                return Generation((Step("", "length"),) * len(request.seeds), charges.total(0))
            # A guess that was read is not part of the prefix.
            return Generation(steps, charges.total(None if request.guess is None else sent.size))

    async def _steps(
        self, server: Server, path: Path, sent: SentPath, request: StepRequest, charges: Charges
    ) -> tuple[Step, ...]:
        """The steps, with as little generation as possible: from a stream, from a guess, or one request each."""
        room = request.max_tokens if self.learnt.most is None else min(request.max_tokens, self.learnt.most)
        if server.context is not None:
            left = server.context - sent.at_least
            if left <= 0 and sent.size is not None:
                raise OverlongError(f"{sent.size} tokens fill the context of {server.context}")
            room = min(room, max(1, left))  # vLLM and llama.cpp write what fits the window, others refuse
        try:
            return await self._written_steps(server, path, sent, request, room, charges)
        except Refused as error:
            smaller = self._smaller_room(error, server, sent, room)
            if smaller is None:
                raise
            logger.info("%s: retrying with %d tokens instead of %d: %s", self.endpoint, smaller, room, error.reason)
            return await self._written_steps(server, path, sent, request, smaller, charges)

    def _smaller_room(self, error: Refused, server: Server, sent: SentPath, room: int) -> int | None:
        """The number of tokens to request after a refusal to write so many; None if that was not the reason."""
        window = error.window or server.context
        if error.overlong and window is not None and sent.size is None:
            left = window - sent.at_most
        elif error.most is not None and not error.overlong:
            left = self.learnt.most = error.most
        else:
            return None
        return left if 0 < left < room else None

    async def _written_steps(
        self, server: Server, path: Path, sent: SentPath, request: StepRequest, room: int, charges: Charges
    ) -> tuple[Step, ...]:
        # Sampled steps have separate seeds, and a request has one seed.
        greedy = not request.sampling.temperature and len(request.seeds) == 1
        if greedy and request.ahead and request.splitter is not None and self._can_stream(server, sent):
            try:
                write = partial(self._write_on, server, sent)
                step = await self._streams.step(path, request, write, charges.add)
                if not self.learnt.streams_tell:
                    await self._trials.check_reading(charges)
                return (step,)
            except NoIdsError as error:
                self.learnt.streams_ids = False
                self._log_fallback(error, "each step is a separate request")
        if greedy and self.learnt.tells_ranks and self.guesses and request.guess is not None:
            assert sent.vocabulary is not None
            guess = Guess(sent.vocabulary, path, request.guess, request.splitter, room - 1)
            if guess.ids:
                try:
                    return (await self._from_guess(server, sent, request, guess, room, charges),)
                except NoRanksError as error:
                    self.learnt.tells_ranks = False
                    self._log_fallback(error, "rejected drafts are no longer read")
        answers = await run_all([self._write(server, sent, request, seed, room, charges) for seed in request.seeds])
        return tuple(self._step(answer, sent, path) for answer in answers)

    def _log_fallback(self, error: Exception, consequence: str) -> None:
        logger.warning("%s: %s, so that %s", self.endpoint, error, consequence)
        logger.debug("%s", self.endpoint, exc_info=error)

    async def _from_guess(
        self, server: Server, sent: SentPath, request: StepRequest, guess: Guess, room: int, charges: Charges
    ) -> Step:
        """The step, reusing the matching part of a guess: read in one request, continued in another.

        Raises:
            NoRanksError: The server reported nothing about the guess.
        """
        vocabulary = sent.vocabulary
        assert vocabulary is not None
        accepted = await guess.verify(self.endpoint, server, sent, charges)
        prefix = accepted.answer if self.logprobs else replace(accepted.answer, logprobs=())
        if accepted.ended:
            return self._step(replace(prefix, before=sent.character), sent)
        size, longer, seed = len(prefix.ids), sent.longer(prefix.ids), request.seeds[0]
        before = vocabulary.read(prefix.ids, sent.character)[0]
        rest = await self._write(server, longer, request, seed, room - size, charges, before)
        if rest.ids:
            ids, logprobs = prefix.ids + rest.ids, prefix.logprobs + rest.logprobs
            answer = replace(rest, text="", ids=ids, logprobs=logprobs, before=sent.character)
        else:  # it returned text
            answer = replace(rest, text=before + rest.text)
        return self._step(replace(answer, wrote=size + (rest.wrote or 0)), sent)

    async def _write(
        self,
        server: Server,
        sent: SentPath,
        request: StepRequest,
        seed: int,
        room: int,
        charges: Charges,
        before: str = "",
    ) -> Answer:
        """One answer by one request; `before` is what was written of its step before."""
        profile, splitter, vocabulary = server.profile, request.splitter, sent.vocabulary
        asked = profile.stop != "streamed" and splitter is not None and bool(splitter.stops)
        if splitter is None or asked:
            begun = sent.begun if profile.repeats != "never" else ""
            answer = await self.endpoint.post(
                sent.route,
                self._body(profile, sent, request, seed, room),
                lambda reply: read_answer(
                    reply,
                    splitter,
                    profile,
                    vocabulary,
                    before,
                    begun,
                    sent.markers,
                    self._reasons,
                    turn=splitter is None,
                    character=sent.character,
                ),
                lambda reply, answer, seconds: charges.add(
                    self.prompts.usage(sent, answer or received(reply), seconds)
                ),
            )
            sent.check_read(answer.read, server.context)
            if splitter is None and answer.native is None and answer.ending == "end":
                refuse_text(self.endpoint, sent.fields)
        if splitter is not None and (not asked or answer.goes_on):
            body = self._body(profile, sent, replace(request, delimiter=None, close=""), seed, room)
            if profile.stream_usage:
                body = {"stream_options": {"include_usage": True}, **profile.stream_counts, **body}
            begun = sent.begun if profile.repeats == "always" else ""
            reader = await self.endpoint.stream(
                sent.route,
                self.fields.applied(body, profile),
                lambda: StepReader(
                    profile,
                    splitter,
                    vocabulary,
                    before,
                    begun,
                    sent.markers,
                    self._stream_reasons,
                    character=sent.character,
                ),
                charge=lambda reader, seconds: charges.add(self.prompts.usage(sent, reader.answer, seconds)),
            )
            answer = reader.answer
            sent.check_read(answer.read, server.context)
        if answer.read is None:
            await self._trials.check_reading(charges)
        wrote = self.prompts.wrote(answer)
        return answer if answer.wrote == wrote else replace(answer, wrote=wrote)

    def _can_stream(self, server: Server, sent: SentPath) -> bool:
        """Whether steps can be cut from one stream."""
        ids = self.learnt.streams_ids and bool(server.profile.give_ids) and sent.size is not None
        return ids and server.context is not None and self.prompts.mode == "completions"

    async def _write_on(self, server: Server, sent: SentPath, stream: Stream) -> None:
        """Let the server write from here to the end of the answer, and put every step into the stream."""
        request, vocabulary, length = stream.request, sent.vocabulary, sent.size
        splitter, most = request.splitter, request.max_tokens
        assert splitter is not None and vocabulary is not None and length is not None and server.context is not None  # noqa: PT018
        whole = replace(request, delimiter=None, close="")
        body = self._body(server.profile, sent, whole, 0, server.context - length)
        body = self.fields.applied({**server.profile.stream_counts, **body}, server.profile)

        def attempt() -> StreamedSteps:
            unpaid, since = length, time.monotonic()  # the prompt is read once, for the first step

            def put(answer: Answer) -> bool:
                nonlocal unpaid, since
                now = time.monotonic()
                cached = reader.cached if unpaid else 0
                usage = self.prompts.usage(sent, replace(answer, read=unpaid, cached=cached), now - since)
                stream.unfinished = lambda: usage  # if it is refused here
                if unpaid:
                    sent.check_read(reader.read, server.context)
                    self.learnt.streams_tell = reader.read is not None
                step = self._step(answer, sent)
                stream.unfinished, unpaid, since = unfinished, 0, now
                return stream.put(step, usage)

            def unfinished() -> Usage:
                read, wrote = unpaid * reader.started, len(reader.unfinished)
                # A gateway may let the server keep writing after the stream is closed.
                return Usage(read, read + wrote, generated=wrote, estimated=wrote * (reader.read is None))

            reader = StreamedSteps(splitter, vocabulary, most, put, self._stream_reasons, sent.character)
            stream.unfinished = unfinished
            return reader

        await self.endpoint.stream(sent.route, body, attempt, stream.again)

    def _body(self, profile: Profile, sent: SentPath, request: StepRequest, seed: int, room: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.endpoint.model,
            **sent.fields,
            "max_tokens": room,
            "temperature": request.sampling.temperature,
            **profile.plain,
        }
        if request.sampling.temperature > 0:
            body |= {"top_p": request.sampling.top_p, "seed": seed % SEEDS}
            if request.sampling.top_k and profile.top_k:
                body["top_k"] = request.sampling.top_k
        splitter = request.splitter
        if splitter is not None and splitter.stops and profile.stop != "streamed":
            body |= {"stop": list(splitter.stops), **profile.keep}
        if self.logprobs:
            few = profile.fewest_logprobs
            body |= {"logprobs": True, "top_logprobs": few} if "messages" in body else {"logprobs": few}
        if sent.vocabulary is not None:
            body |= profile.give_ids
        if self.prompts.mode == "completions":
            body |= self.fields.schema_for(profile)
        return self.fields.applied(body, profile)

    def _step(self, answer: Answer, sent: SentPath, path: Path | None = None) -> Step:
        step = self.prompts.step(answer, path, sent.vocabulary)
        size = step.size - answer.dropped
        if not step.text and step.ending == "length":
            size = max(1, size)  # the token limit was reached; the window is not necessarily full
        logprobs = answer.logprobs if self.logprobs else ()
        if self.logprobs and step.text and not logprobs:
            raise ConfigurationError(
                f"{self.endpoint} returned no log-probabilities although requested. A gateway may drop them: use the "
                "server behind it, or remove logprobs=true."
            )
        return replace(step, size=size, logprobs=logprobs[: len(step.tokens) or None], native=answer.native)


@cache
def _warn_of_top_k(endpoint: str, top_k: int) -> None:
    """Warn once for each server."""
    logger.warning("%s has no top-k, so it samples from all tokens instead of the likeliest %d", endpoint, top_k)
