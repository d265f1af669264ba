"""Models behind URLs as drafter and target."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from rsd_core import (
    ConfigurationError,
    Drafter,
    Generation,
    Interrupted,
    Likelihoods,
    Message,
    NextWord,
    Path,
    Price,
    PromptError,
    Step,
    StepRequest,
    Target,
    Usage,
)
from rsd_integrations.openai_compatible import likelihoods
from rsd_integrations.openai_compatible.answers import Answer, StreamedStep, StreamedSteps, whole
from rsd_integrations.openai_compatible.endpoint import Endpoint
from rsd_integrations.openai_compatible.faults import Refused
from rsd_integrations.openai_compatible.guesses import Guess, NoRanksError
from rsd_integrations.openai_compatible.probe import Finding, Probe
from rsd_integrations.openai_compatible.profiles import Profile, find_profile
from rsd_integrations.openai_compatible.prompts import Asked, Mode, OverlongError, Prompts
from rsd_integrations.openai_compatible.server import Server, goes_on, learn
from rsd_integrations.openai_compatible.streams import NoIdsError, Stream, Streams

T = TypeVar("T")
BEGUN = Path((Message("user", "Count."),)).extend(Step("1\n\n", "delimiter"))
"""A short answer that was begun."""
SEEDS = 2**31
"""Seeds are taken modulo this: some servers take 32 bits, with a sign."""


class OpenAIGenerator(Drafter, Target):
    """A model behind an endpoint of the OpenAI API that writes steps.

    In `completions` mode the server continues the exact text or, where it takes them, the exact ids, which the
    tokenizer makes here: ids that were sampled are never tokenised again. In `chat` mode it continues the assistant's
    last message, where it can; where it cannot, it writes turns.

    Args:
        endpoint: Where the model is.
        tokenizer: Folder or hub id of the model's tokenizer, whose chat template renders the prompt.
        mode: `completions` or `chat`; by default `completions` where a tokenizer is given.
        profile: What kind of server it is, a name out of `PROFILES`; by default it is asked at first use.
        context: Longest sequence in tokens; by default what the server says.
        logprobs: Whether steps come with the log-probabilities of their tokens.
        guesses: Whether a target reads the draft that it replaces, and writes on from the first token that it would not
            have chosen, where decoding is greedy. Saves time and costs FLOPs: vLLM reads all of the text for that.
        flops_per_token: Two per weight, for the ledger.
        price: Money per million tokens, for the ledger.

    Raises:
        ConfigurationError: A value is unknown, the tokenizer cannot be had, or there is none for guesses.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        tokenizer: str | None = None,
        mode: Mode | None = None,
        profile: str | None = None,
        context: int | None = None,
        logprobs: bool = False,
        guesses: bool = False,
        flops_per_token: float | None = None,
        price: Price | None = None,
    ) -> None:
        if mode not in (None, "completions", "chat"):
            raise ConfigurationError(f"mode={mode!r} is unknown; choose completions or chat")
        if guesses and (tokenizer is None or mode == "chat"):
            raise ConfigurationError("guesses=true takes a tokenizer=… and mode=completions: drafts are read as ids")
        self.endpoint = endpoint
        self.name = endpoint.model
        self.flops_per_token, self.price = flops_per_token, price
        self.prompts = Prompts(tokenizer, mode or ("completions" if tokenizer else "chat"))
        self.renders_tools = self.prompts.renders_tools
        self.logprobs, self.guesses = logprobs, guesses
        self._profile = None if profile is None else find_profile(profile)
        self._context = context
        self._learning: asyncio.Task[Server] | None = None
        self._begun: asyncio.Task[None] | None = None
        self._streams = Streams()
        self._streams_ids = True
        """Whether streams come with ids, as far as is known."""
        self._tells_ranks = True
        """Whether what it reads comes with ranks, as far as is known."""

    async def generate(self, path: Path, request: StepRequest) -> Generation:
        """Write the step that follows the path, once per seed.

        Raises:
            PromptError: The prompt alone fills the model's context.
            ConfigurationError: The server refuses the request, or cannot go on with a prefix.
            EndpointError: The server failed, after all retries.
        """
        return await self.endpoint.run(self._generate(path, request))

    async def next_word(self, path: Path, words: Sequence[str], after: Sequence[Message] = ()) -> NextWord:
        """Log-probabilities of words as the next text, one token of it generated.

        Raises:
            ConfigurationError: The server tells no log-probabilities, or two words begin with the same token.
        """
        return await self.endpoint.run(likelihoods.next_word(self, path, words, after))

    async def log_likelihoods(self, path: Path, steps: Sequence[Step]) -> Likelihoods:
        """Log-probability of each step after the path, the end of the answer included where the step ends it.

        Raises:
            ConfigurationError: The server does not tell log-probabilities of a prompt, or no tokenizer was given.
        """
        return await self.endpoint.run(likelihoods.log_likelihoods(self, path, steps))

    async def server(self) -> Server:
        """What the server says about itself; asked once. To be awaited on the endpoint's loop."""
        if self._learning is None or _failed(self._learning):
            self._learning = asyncio.ensure_future(learn(self.endpoint, self._profile, self._context))
        server = await asyncio.shield(self._learning)
        self.endpoint.suggest(server.profile.concurrency)
        return server

    async def examine(self) -> list[Finding]:
        """Try the server out; what fails is found, and not raised."""
        return await self.endpoint.run(Probe(self).findings())

    async def aclose(self) -> None:
        """Close all connections."""
        await self.endpoint.run(self._streams.aclose())
        await self.endpoint.aclose()

    async def _generate(self, path: Path, request: StepRequest) -> Generation:
        server = await self.server()
        if self.guesses and not server.profile.ranks:
            raise ConfigurationError(
                f"{self.endpoint} cannot read drafts as guesses ({server.profile.summary}): of servers, only vLLM "
                "ranks the tokens of a prompt. Leave guesses=true out."
            )
        if request.delimiter is not None:
            await self._check_steps(server)
        asked = self.prompts.ask(path, server.profile)
        room = request.max_tokens
        try:
            if server.context is not None and asked.size is not None:
                room = min(room, server.context - asked.size)
                if room <= 0:
                    raise OverlongError(f"{asked.size} tokens fill the context of {server.context}")
            return await self._answer(server, path, asked, request, room)
        except Refused as refusal:
            if not refusal.overlong:
                raise
            return self._overlong(path, request, asked, refusal.told)
        except OverlongError as error:
            return self._overlong(path, request, asked, str(error))

    async def _answer(self, server: Server, path: Path, asked: Asked, request: StepRequest, room: int) -> Generation:
        """The steps by the fewest tokens written: from a stream, from a guess, or by a request for each."""
        # Drawn steps have seeds of their own, and one request has one seed.
        greedy = not request.sampling.temperature and len(request.seeds) == 1
        if greedy and request.ahead and request.delimiter is not None and self._can_stream(server, asked):
            try:
                step, usage = await self._streams.step(path, request, partial(self._write_on, server, asked))
            except NoIdsError:
                self._streams_ids = False
            else:
                return Generation((step,), usage)
        if greedy and self._tells_ranks and self.guesses and request.guess is not None:
            assert self.prompts.vocabulary is not None
            guess = Guess(self.prompts.vocabulary, request.guess, request.delimiter, room - 1)
            if guess.ids:
                try:
                    return await self._from_guess(server, asked, request, guess, room)
                except NoRanksError:
                    self._tells_ranks = False
        made = await together([self._write(server, asked, request, seed, room) for seed in request.seeds])
        usages = [usage for _, usage in made]
        usage = self._total(usages[0].prefix, usages) if len(usages) > 1 else usages[0]
        return Generation(tuple(self._step(answer) for answer, _ in made), usage)

    async def _from_guess(
        self, server: Server, asked: Asked, request: StepRequest, guess: Guess, room: int
    ) -> Generation:
        """The step, with as much of a guess as it would have: read in one request, written on in another.

        Raises:
            NoRanksError: The server told nothing of the guess.
        """
        words, size = self.prompts.vocabulary, asked.size
        assert words is not None
        assert size is not None
        kept, ended, reading = await guess.read(self.endpoint, server, asked)
        if not self.logprobs:
            kept = replace(kept, logprobs=())
        if ended:
            return Generation((self._step(kept),), self._total(size, [reading]))
        goes_on, begun = asked.longer(kept.ids), len(kept.ids)
        try:
            rest, writing = await self._write(server, goes_on, request, request.seeds[0], room - begun)
        except asyncio.CancelledError:
            raise Interrupted(reading) from None
        if rest.ids:
            answer = replace(rest, text="", ids=kept.ids + rest.ids, logprobs=kept.logprobs + rest.logprobs)
        else:  # what it gave is text
            answer = replace(rest, text=words.text(list(kept.ids)) + rest.text)
        answer = replace(answer, wrote=begun + (rest.wrote or 0))
        return Generation((self._step(answer),), self._total(size, [reading, writing]))

    def _total(self, prefix: int, usages: Sequence[Usage]) -> Usage:
        """The work of requests about one prefix: each read it, and is paid for."""
        return replace(sum(usages, Usage()), prefix=prefix, parts=tuple((self, one) for one in usages))

    async def _check_steps(self, server: Server) -> None:
        """Try out, once, whether the server goes on with an answer that was begun.

        Where it answers in one piece, every completion tells whether it read exactly what was sent; a stream that is
        cut tells nothing.
        """
        if self.prompts.mode == "completions" and (server.profile.stop != "streamed" or not self.prompts.vocabulary):
            return
        if self._begun is None or _failed(self._begun):
            self._begun = asyncio.ensure_future(self._try_beginning(server))
        await asyncio.shield(self._begun)

    async def _try_beginning(self, server: Server) -> None:
        if self.prompts.mode == "completions":
            asked = self.prompts.ask(BEGUN, server.profile)
            once = self._body(server.profile, asked, StepRequest((0,), delimiter=None), 0, 1)
            answer = await self.endpoint.post(asked.route, once, lambda data: whole(data, None, server.profile))
            asked.check_read(answer.read, server.context)
        elif wrong := await goes_on(self.endpoint, server.profile):
            raise ConfigurationError(
                f"{self.endpoint} cannot write steps in mode=chat: {wrong}. Remedies: tokenizer=FOLDER_OR_ID, with "
                "which it continues the exact text; a profile=… whose chats go on (vllm, sglang); granularity='turn'."
            )

    async def _write(
        self, server: Server, asked: Asked, request: StepRequest, seed: int, room: int
    ) -> tuple[Answer, Usage]:
        started = time.monotonic()
        body = self._body(server.profile, asked, request, seed, room)
        delimiter, profile = request.delimiter, server.profile
        if delimiter is not None and profile.stop == "streamed":
            if profile.stream_usage:
                body["stream_options"] = {"include_usage": True}
            answer = (await self.endpoint.stream(asked.route, body, lambda: StreamedStep(delimiter))).answer
        else:
            answer = await self.endpoint.post(asked.route, body, lambda data: whole(data, delimiter, profile))
        asked.check_read(answer.read, server.context)
        if answer.wrote is None:
            written = self.prompts.written(answer)[0]
            answer = replace(answer, wrote=self.prompts.count(written) + (answer.ending == "end"))
        return answer, self._usage(asked, answer, time.monotonic() - started)

    def _can_stream(self, server: Server, asked: Asked) -> bool:
        """Whether steps can be cut from one stream."""
        ids = self._streams_ids and bool(server.profile.give_ids) and asked.size is not None
        return ids and server.context is not None and self.prompts.mode == "completions"

    async def _write_on(self, server: Server, asked: Asked, stream: Stream) -> None:
        """Let the server write from here to the end of the answer, and put every step into the stream."""
        request, words, read = stream.asked, self.prompts.vocabulary, asked.size
        delimiter, most = request.delimiter, request.max_tokens
        assert delimiter is not None and words is not None and read is not None and server.context is not None  # noqa: PT018
        body = self._body(server.profile, asked, replace(request, delimiter=None), 0, server.context - read)
        reader: StreamedSteps
        unread, since = read, time.monotonic()  # the prompt is read once, for the first step

        def put(answer: Answer) -> bool:
            nonlocal unread, since
            if unread:
                asked.check_read(reader.read, server.context)
            now = time.monotonic()
            usage = self._usage(asked, replace(answer, read=unread), now - since)
            unread, since = 0, now
            return stream.put(self._step(answer), usage)

        def steps() -> StreamedSteps:
            nonlocal reader, unread
            unread, reader = read, StreamedSteps(delimiter, words.pieces, most, put)
            stream.begun = lambda: Usage(computed=unread + len(reader.begun), generated=len(reader.begun))
            return reader

        await self.endpoint.stream(asked.route, body, steps, stream.again)

    def _overlong(self, path: Path, request: StepRequest, asked: Asked, told: str) -> Generation:
        """What follows a path that is as long as the context: nothing."""
        if path.step is None:
            raise PromptError(f"the prompt is too long for {self.name}: {told}") from None
        return Generation((Step("", "length"),) * len(request.seeds), Usage(asked.estimate))

    def _body(self, profile: Profile, asked: Asked, request: StepRequest, seed: int, room: int) -> dict[str, Any]:
        body = {
            "model": self.endpoint.model,
            **asked.fields,
            "max_tokens": room,
            "temperature": request.sampling.temperature,
            **profile.plain,
        }
        if request.sampling.temperature > 0:
            body |= {"top_p": request.sampling.top_p, "seed": seed % SEEDS}
        if request.delimiter is not None and profile.stop != "streamed":
            body |= {"stop": [request.delimiter], **profile.keep}
        if self.prompts.vocabulary is not None:
            body |= profile.give_ids
        if self.logprobs:
            body |= {"logprobs": True, "top_logprobs": 0} if "messages" in body else {"logprobs": 0}
        return body

    def _step(self, answer: Answer) -> Step:
        text, ids = self.prompts.written(answer)
        vocabulary = self.prompts.vocabulary.identity if ids and self.prompts.vocabulary else ""
        return Step(text, answer.ending, ids, vocabulary, answer.wrote or 0, answer.logprobs[: len(ids)])

    def _usage(self, asked: Asked, answer: Answer, seconds: float) -> Usage:
        read, wrote = asked.estimate if answer.read is None else answer.read, answer.wrote or 0
        return Usage(read, max(0, read - answer.cached) + wrote, answer.cached, wrote, seconds=seconds)


def _failed(task: asyncio.Task[Any]) -> bool:
    """Whether a task is to be begun anew: it failed, or was cancelled."""
    return task.done() and (task.cancelled() or task.exception() is not None)


async def together(calls: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Results of calls side by side; when one fails, the others are cancelled."""
    if len(calls) == 1:
        return [await calls[0]]
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
