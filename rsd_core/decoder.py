"""The algorithm: reward-guided speculative decoding, and the frame it shares with the baselines."""

from __future__ import annotations

import asyncio
import copy
import itertools
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from contextlib import aclosing
from typing import Self, TypedDict, Unpack

from rsd_core.blocking import iterate, wait_for
from rsd_core.errors import BatchError, ConfigurationError, RunError
from rsd_core.events import Event, Finished, StepAccepted, StepDrafted, StepRejected, StepReplaced, StepScored
from rsd_core.interfaces import Drafter, Model, Target, Verifier
from rsd_core.ledger import Role
from rsd_core.limits import Cancellation, LimitReached, Limits
from rsd_core.paths import Prompt, Step
from rsd_core.policies import BinaryStep, WeightingPolicy
from rsd_core.prompts import PromptLike, as_prompt
from rsd_core.request import Request
from rsd_core.results import FinishReason, Result
from rsd_core.settings import Settings
from rsd_core.stopping import as_stop


class RequestOptions(TypedDict, total=False):
    """What can be said for a single request."""

    seed: int
    """Replaces the settings' seed."""
    repeat: int
    """Tells several requests of the same prompt and seed apart: each gets other random numbers. 0 by default."""
    cancel: Cancellation
    """A button that ends the request early, keeping its text."""
    stop: Sequence[str]
    """The answer ends before the first of these strings."""


class Decoder(ABC):
    """Turns prompts into results. Subclasses write one loop, `_decode`; every face below is built on its events.

    A decoder holds no state of its requests: any number of them may run at once, from any threads and event loops.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()

    @property
    @abstractmethod
    def models(self) -> tuple[Model, ...]:
        """The models this decoder uses."""

    @property
    def target(self) -> Target | None:
        """The strong model, whose FLOPs a result is compared with."""
        return None

    def with_settings(self, settings: Settings) -> Self:
        """The same decoder over the same models, with other settings."""
        other = copy.copy(self)
        other.settings = settings
        return other

    @abstractmethod
    def _decode(self, request: Request) -> AsyncGenerator[Event, None]:
        """Write the answer step by step until the request is finished."""

    async def astream(self, prompt: PromptLike, **options: Unpack[RequestOptions]) -> AsyncGenerator[Event, None]:
        """Decode one prompt and yield what happens; the last event is `Finished` with the result.

        Args:
            prompt: A string or messages.
            options: See `RequestOptions`.

        Raises:
            PromptError: The prompt is empty, or longer than a model's context.
            RunError: A role failed for good; `partial` of the error holds what was generated.
        """
        request = self._request(as_prompt(prompt), options)
        try:
            async with aclosing(request), aclosing(self._decode(request)) as events:
                async for event in events:
                    for notice in request.news():
                        yield notice
                    yield event
        except LimitReached as limit:
            request.finish = limit.reason
        except ConfigurationError:
            raise
        except Exception as error:
            failed = error if isinstance(error, RunError) else RunError(f"step {request.index} failed: {error!r}")
            failed.partial = self._result(request, "error")
            raise failed from error.__cause__ if failed is error else error
        for notice in request.news():
            yield notice
        yield Finished(request.index, self._result(request, request.finish or "stop"))

    async def arun(self, prompt: PromptLike, **options: Unpack[RequestOptions]) -> Result:
        """Decode one prompt; arguments and errors as in `astream`."""
        async with aclosing(self.astream(prompt, **options)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    return event.result
        raise AssertionError("a stream ended without its result")

    async def arun_many(
        self, prompts: Sequence[PromptLike], *, concurrency: int = 64, **options: Unpack[RequestOptions]
    ) -> list[Result]:
        """Decode prompts side by side; no request waits for another one's step.

        A prompt's result is the same alone, in any batch and in any order. The same prompt given several times gets
        repeat numbers 0, 1, … in order.

        Args:
            prompts: The prompts.
            concurrency: Requests in flight at once.
            options: See `RequestOptions`; a repeat number is added to each prompt's own.

        Raises:
            PromptError: One of the prompts is empty; raised before any is decoded.
            BatchError: Some requests failed. All others were finished; the error holds every result.
        """
        if isinstance(prompts, str) or concurrency < 1:
            raise ConfigurationError(
                f"run_many takes a list of prompts and concurrency ≥ 1 (got {prompts!r:.40}, {concurrency})"
            )
        made = [as_prompt(prompt) for prompt in prompts]
        numbers: defaultdict[Prompt, Iterator[int]] = defaultdict(itertools.count)
        repeats = [next(numbers[prompt]) for prompt in made]
        errors: dict[int, Exception] = {}
        slots = asyncio.Semaphore(concurrency)

        async def one(position: int) -> Result:
            own = options | RequestOptions(repeat=options.get("repeat", 0) + repeats[position])
            async with slots:
                try:
                    return await self.arun(made[position], **own)
                except (RunError, ConfigurationError) as error:
                    errors[position] = error
                    partial = error.partial if isinstance(error, RunError) else None
                    return partial or self._request(made[position], own).result("error")

        results = await asyncio.gather(*(one(i) for i in range(len(made))))
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

    def _request(self, prompt: Prompt, options: RequestOptions) -> Request:
        if unknown := set(options) - set(RequestOptions.__annotations__):
            known = ", ".join(RequestOptions.__annotations__)
            raise ConfigurationError(f"unknown options {sorted(unknown)}; a request takes {known}")
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
                    f"a limit of {limit} needs the {needed} of every model concerned; {missing} have none"
                )
        return Request(
            prompt,
            self.settings if limits is self.settings.limits else self.settings.model_copy(update={"limits": limits}),
            seed=options.get("seed", self.settings.seed),
            repeat=options.get("repeat", 0),
            cancel=options.get("cancel"),
            stop=as_stop(options.get("stop")),
        )

    def _result(self, request: Request, reason: FinishReason) -> Result:
        """The request's result, with the estimate of what the target alone would have cost."""
        rate = None if self.target is None else self.target.flops_per_token
        if rate is not None:
            answer = request.tokens
            request.ledger.target_only_flops = rate * (request.prompt_tokens + answer)
            request.ledger.target_only_flops_paper = rate * answer
            request.ledger.target_only_basis = (
                "estimate: the target reads this prompt and writes an answer as long as this one "
                f"({request.prompt_tokens} + {answer} tokens)"
            )
        return request.result(reason)


def require(role: Role, model: Model, kind: type[Model]) -> None:
    """Raise `ConfigurationError` unless the model can play the role."""
    if not isinstance(model, kind):
        raise ConfigurationError(f"{model!r} cannot be the {role}. Make one with load(SPEC); `rsd models` lists specs.")


class RewardGuidedDecoder(Decoder):
    """Reward-guided speculative decoding (RSD, arXiv 2501.19324).

    Args:
        drafter: The cheap model that proposes each step.
        verifier: The reward model that scores it.
        target: The strong model that writes the steps whose drafts are rejected.
        policy: From reward to probability of acceptance; the paper's δ = 0.7 by default. Calibrate it: a threshold
            belongs to one reward model.
        settings: Everything else.
    """

    def __init__(
        self,
        *,
        drafter: Drafter,
        verifier: Verifier,
        target: Target,
        policy: WeightingPolicy | None = None,
        settings: Settings | None = None,
    ) -> None:
        super().__init__(settings)
        require("drafter", drafter, Drafter)
        require("verifier", verifier, Verifier)
        require("target", target, Target)
        self.drafter, self.verifier, self._target = drafter, verifier, target
        self.policy = policy or BinaryStep()

    @property
    def models(self) -> tuple[Model, ...]:
        return (self.drafter, self.verifier, self._target)

    @property
    def target(self) -> Target:
        return self._target

    @property
    def limits(self) -> Limits:
        return self.settings.limits.tightened(self.policy.limits)

    async def _decode(self, request: Request) -> AsyncGenerator[Event, None]:
        """Algorithm 1 of the paper, one step per turn of the loop."""
        while request.finish is None:
            i = request.index
            if self.policy.route(request) == "target" and not request.target_is_spent(self._target):
                self.policy.on_target_forced()
                yield await self._replace(request)
                continue
            request.hedge(self._target)
            drafts = await request.draft(self.drafter)
            request.look_ahead(self.drafter, self.verifier, drafts)
            if drafts:
                yield StepDrafted(i, drafts)
            rewards = await request.score(self.verifier, drafts)
            if rewards:
                yield StepScored(i, rewards)
            best = request.choose(rewards)
            draft = drafts[best] if drafts else None
            reward = rewards[best] if rewards else None
            request.discard(drafts[:best] + drafts[best + 1 :], scored=bool(rewards))
            decision = request.decide(self.policy, draft, reward, scored=bool(rewards))
            if draft and (decision == "accept" or (decision == "target" and request.target_is_spent(self._target))):
                yield StepAccepted(i, request.extend(draft, "draft", reward))
                continue
            if draft:
                request.discard([draft], scored=bool(rewards))
                yield StepRejected(i, draft, reward)
            if decision == "retry":
                request.attempt += 1
                continue
            yield await self._replace(request, draft, reward)

    async def _replace(self, request: Request, draft: Step | None = None, reward: float | None = None) -> StepReplaced:
        """The target writes the step, and the policy learns from it what it wants to."""
        before = request.path
        (step,) = await request.replace(self._target, rejected=draft)
        record = request.extend(step, "target", reward, rejected=draft)
        if request.path is not before:
            if self.policy.scores_target:
                record = request.rate(await request.score(self.verifier, [step], before))
            self.policy.learn(record.target_reward, request)
        return StepReplaced(before.depth, record)
