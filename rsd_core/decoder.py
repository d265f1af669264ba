"""What every decoder has in common: the facade of `run`, `stream` and `run_many` over one stream of events."""

from __future__ import annotations

import copy
import itertools
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, nullcontext
from inspect import signature
from numbers import Integral
from typing import Any, Self, TypedDict, Unpack

from rsd_core.blocking import iterate, wait_for
from rsd_core.calls import Calls
from rsd_core.concurrency import ended_process, run_all
from rsd_core.errors import BatchError, ConfigurationError, RunError
from rsd_core.events import Event, Finished
from rsd_core.guard import Cancellation, Guard
from rsd_core.health import Health
from rsd_core.interfaces import Generator as TextGenerator
from rsd_core.interfaces import Target
from rsd_core.ledger import Role
from rsd_core.limits import LimitReached, Limits
from rsd_core.lookahead import Lookahead
from rsd_core.model import Model
from rsd_core.observing import begin
from rsd_core.paths import Prompt
from rsd_core.prompts import PromptLike, as_prompt
from rsd_core.queueing import new_caller, side_by_side
from rsd_core.request import Request
from rsd_core.results import FinishReason, Result
from rsd_core.settings import Settings
from rsd_core.stopping import as_stop
from rsd_core.thoughts.agreement import agree
from rsd_core.thoughts.markers import Thinking
from rsd_core.thoughts.reading import reader_of


class RequestOptions(TypedDict, total=False):
    """Options of a single request."""

    seed: int
    """Overrides the settings' seed."""
    repeat: int
    """Distinguishes requests with the same prompt and seed: each gets different random numbers. 0 by default."""
    cancel: Cancellation
    """A button that ends the request early, keeping its text."""
    stop: Sequence[str]
    """The answer ends before the first of these strings."""


class Decoder(ABC):
    """Turns prompts into results. Subclasses write one loop, `_decode`; every public method is built on its events.

    A decoder holds no state of its requests: any number of them may run at once, from any threads and event loops.

    Args:
        settings: How it works; `check` may adjust them.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        loop = vars(cls).get("_decode")
        if loop is not None and len(signature(loop).parameters) != 3:
            raise ConfigurationError(
                f"{cls.__name__}._decode takes (self, request, calls) now: what calls models is in `calls`"
            )

    def __init__(self, settings: Settings | None = None) -> None:
        if settings is not None and not isinstance(settings, Settings):
            raise ConfigurationError(f"{settings!r} is not a Settings. Write Settings(temperature=0.5).")
        self.settings = self.check(settings or Settings())
        self._health = Health(self.consequences)

    @property
    @abstractmethod
    def models(self) -> tuple[Model, ...]:
        """The models this decoder uses."""

    @property
    def target(self) -> Target | None:
        """The strong model, the reference for a result's FLOPs."""
        return None

    def with_settings(self, settings: Settings) -> Self:
        """The same decoder over the same models, with other settings."""
        other = copy.copy(self)
        other.settings = other.check(settings)
        return other

    def check(self, settings: Settings) -> Settings:
        """The settings as this decoder uses them; called by the constructor and by `with_settings`.

        Raises:
            ConfigurationError: It cannot work with them.
        """
        return settings

    @property
    def thinkers(self) -> tuple[Model, ...]:
        """The models that write thoughts; they must agree on how a thought begins."""
        return self.models

    @property
    def consequences(self) -> Mapping[Role, str]:
        """What happens to the answers if a role never works."""
        return {}

    @abstractmethod
    def _decode(self, request: Request, calls: Calls) -> AsyncGenerator[Event, None]:
        """Write the answer step by step until the request is finished.

        Args:
            request: Path, records, ledger and finish; read-only here, extended by `calls.commit`.
            calls: Makes the model calls, guarded and charged.
        """

    async def astream(self, prompt: PromptLike, **options: Unpack[RequestOptions]) -> AsyncGenerator[Event, None]:
        """Decode one prompt and yield what happens; the last event is `Finished` with the result.

        Args:
            prompt: A string or messages.
            options: See `RequestOptions`.

        Raises:
            PromptError: The prompt is empty, or longer than a model's context.
            RunError: A role failed for good; `partial` of the error holds what was generated.
        """
        request, calls, guard = self._begin(as_prompt(prompt), options)
        async with self._running(request, calls, guard) as events:
            watches = calls.watches
            async for event in events:
                if request.has_notices:
                    for notice in request.pop_notices():
                        yield notice
                if watches is not None:
                    watches.happened(event)
                yield event
        result = self._finished(request, calls, guard)
        for notice in request.pop_notices():
            yield notice
        yield Finished(request.index, result)

    async def arun(self, prompt: PromptLike, **options: Unpack[RequestOptions]) -> Result:
        """Decode one prompt; arguments and errors as in `astream`."""
        request, calls, guard = self._begin(as_prompt(prompt), options)
        async with self._running(request, calls, guard) as events:
            watches = calls.watches
            async for event in events:
                if watches is not None:
                    watches.happened(event)
        return self._finished(request, calls, guard)

    async def arun_many(
        self, prompts: Sequence[PromptLike], *, concurrency: int = 64, **options: Unpack[RequestOptions]
    ) -> list[Result]:
        """Decode prompts concurrently; no request waits for another one's step.

        A prompt's result is the same alone, in any batch and in any order, unless the policy learns. The same prompt
        given several times gets repeat numbers 0, 1, … in order.

        Args:
            prompts: The prompts.
            concurrency: Requests in flight at once.
            options: See `RequestOptions`; a repeat number is added to each prompt's own.

        Raises:
            PromptError: One of the prompts is empty; raised before any is decoded.
            BatchError: Some requests failed. All others finished; the error holds every result.
        """
        if isinstance(prompts, str) or concurrency < 1:
            raise ConfigurationError(
                f"run_many takes a list of prompts and concurrency ≥ 1 (got {prompts!r:.40}, {concurrency})"
            )
        normalised = [as_prompt(prompt) for prompt in prompts]
        numbers: defaultdict[str, Iterator[int]] = defaultdict(itertools.count)
        repeats = [next(numbers[repr([(message, message.extra) for message in prompt])]) for prompt in normalised]
        errors: dict[int, Exception] = {}

        async def one(position: int) -> Result:
            own = options | RequestOptions(repeat=options.get("repeat", 0) + repeats[position])
            try:
                return await self.arun(normalised[position], **own)
            except (RunError, ConfigurationError) as error:
                errors[position] = error
                partial = error.partial if isinstance(error, RunError) else None
                return partial or self._begin(normalised[position], own)[0].result("error", 0.0)

        with side_by_side(min(concurrency, len(normalised)) if len(normalised) > 1 else None):
            results = await run_all([one(i) for i in range(len(normalised))], concurrency)
        if errors:
            raise BatchError(results, errors)
        return results

    def run(self, prompt: PromptLike, **options: Unpack[RequestOptions]) -> Result:
        """Blocking twin of `arun`."""
        return wait_for(self.arun(prompt, **options))

    def stream(self, prompt: PromptLike, **options: Unpack[RequestOptions]) -> Generator[Event, None, None]:
        """Blocking twin of `astream`."""
        return iterate(self.astream(prompt, **options))

    def run_many(
        self, prompts: Sequence[PromptLike], *, concurrency: int = 64, **options: Unpack[RequestOptions]
    ) -> list[Result]:
        """Blocking twin of `arun_many`."""
        return wait_for(self.arun_many(prompts, concurrency=concurrency, **options))

    async def aclose(self) -> None:
        """Close all models."""
        for model in self.models:
            await model.aclose()

    def close(self) -> None:
        """Blocking twin of `aclose`."""
        wait_for(self.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    @property
    def limits(self) -> Limits:
        """The hard limits of each request."""
        return self.settings.limits

    def _begin(self, prompt: Prompt, options: RequestOptions) -> tuple[Request, Calls, Guard]:
        """The state of a request, its calls, and its deadline.

        Raises:
            ConfigurationError: An unknown option, a limit that cannot be enforced, or a sampling that a model lacks.
        """
        if unknown := set(options) - set(RequestOptions.__annotations__):
            known = ", ".join(RequestOptions.__annotations__)
            raise ConfigurationError(f"unknown options {sorted(unknown)}; a request takes {known}")
        for model in self.models:
            if isinstance(model, TextGenerator):
                model.check_sampling(self.settings.sampling)
        limits = self.limits
        target = [] if self.target is None else [self.target]
        for limit, needed, models in (
            (limits.max_cost, "price", self.models),
            (limits.max_flops, "flops_per_token", self.models),
            (limits.max_target_cost, "price", target),
            (limits.max_target_flops, "flops_per_token", target),
        ):
            if limit is not None and (missing := [m.name for m in models if getattr(m, needed) is None]):
                raise ConfigurationError(
                    f"a limit of {limit} needs the {needed} of every model involved; unknown for {missing}"
                )
        settings = self.settings
        if limits is not settings.limits:
            settings = settings.model_copy(update={"limits": limits})
        seed, stop = options.get("seed", settings.seed), as_stop(options.get("stop"))
        if not isinstance(seed, Integral) or not 0 <= seed < 2**63:
            raise ConfigurationError(f"seed takes a whole number in [0, 2**63) (got {seed!r})")
        cancel = options.get("cancel")
        if cancel is not None and not isinstance(cancel, Cancellation):
            raise ConfigurationError(f"cancel takes a Cancellation (got {cancel!r})")
        request = self._request(prompt, settings, seed, options.get("repeat", 0), stop)
        guard = Guard(limits.max_seconds, cancel)
        caller = new_caller()
        early = Lookahead(request.ledger, settings.lookahead if limits.allow_waste() else 0, caller)
        return request, Calls(guard, early, self._health, caller), guard

    def _request(self, prompt: Prompt, settings: Settings, seed: int, repeat: int, stop: tuple[str, ...]) -> Request:
        return Request(prompt, settings, seed, repeat, stop, self.thinking(prompt))

    def thinking(self, prompt: Prompt) -> Thinking | None:
        """How the models' thoughts begin; determined before any of them is called.

        Returns:
            None if no model is known to think and no markers are set, or if the prompt has begun the answer.

        Raises:
            ConfigurationError: The models disagree, so they could not write one text.
        """
        markers = self.settings.thoughts.markers
        begun = reader_of(prompt, None if markers is None else Thinking(markers))
        if begun.state in ("answer", "closed"):  # the prompt's last message has begun the answer
            return None
        writers = [model for model in self.thinkers if isinstance(model, TextGenerator)]
        thinking = agree([(model.name, model.thinking(prompt)) for model in writers], markers)
        return Thinking(thinking.markers) if thinking and begun.in_thought else thinking

    @asynccontextmanager
    async def _running(
        self, request: Request, calls: Calls, guard: Guard
    ) -> AsyncGenerator[AsyncGenerator[Event, None], None]:
        """The events of a request; however they end, nothing of the request is left running."""
        watches = begin(self)
        calls.watched_by(watches)
        with nullcontext() if watches is None else watches.told_of_failure(request, guard):
            try:
                with guard:
                    async with aclosing(calls), aclosing(self._decode(request, calls)) as events:
                        yield events
            except LimitReached as limit:
                request.finish = limit.reason
            except ConfigurationError:
                raise
            except (Exception, SystemExit, KeyboardInterrupt) as error:
                failed: BaseException = error
                if isinstance(error, SystemExit | KeyboardInterrupt):  # those of models were handled by their calls
                    failed = ended_process(getattr(self, "policy", self), error)
                elif not isinstance(error, RunError):
                    failed = RunError(f"step {request.index} failed: {error!r}")
                if isinstance(failed, RunError):
                    failed.partial = self._result(request, "error", guard.elapsed)
                raise failed from error.__cause__ if failed is error else error

    def _finished(self, request: Request, calls: Calls, guard: Guard) -> Result:
        """The result of a completed request."""
        result = self._result(request, request.finish or "stop", guard.elapsed)
        if calls.watches is not None:
            calls.watches.end(result)
        return result

    def _result(self, request: Request, reason: FinishReason, seconds: float) -> Result:
        """The request's result, with the estimate of what the target alone would have cost."""
        request.discard(request.undecided, scored=False)
        reader, last = request.progress.part.reader, request.records[-1] if request.records else None
        inside = reader.in_thought or (request.reasons and last is not None)
        if (inside and (last or reason == "stop")) or (last and reader.state == "closed" and last.native is None):
            where = "inside of" if inside else "with"
            request.degrade("no_answer", f"the response ended {where} its thought ({reason}): there is no answer")
        rate = None if self.target is None else self.target.flops_per_token
        if rate is not None:
            tokens = request.progress.tokens
            request.ledger.target_only_flops = rate * (request.prompt_tokens + tokens)
            request.ledger.target_only_flops_paper = rate * tokens
            request.ledger.target_only_basis = (
                "estimate: the target reads this prompt and writes an answer as long as this one "
                f"({request.prompt_tokens} + {tokens} tokens)"
            )
        return request.result(reason, seconds)
