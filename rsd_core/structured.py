"""Structured output: a decoder that reasons in steps, then writes JSON that follows a schema."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Self

from rsd_core.algorithm import RewardGuidedDecoder
from rsd_core.baselines.single import DraftOnly, TargetOnly
from rsd_core.calls import Calls
from rsd_core.decoder import Decoder
from rsd_core.errors import ConfigurationError, RunError
from rsd_core.events import Event
from rsd_core.interfaces import Drafter, Generator, Target
from rsd_core.limits import Limits
from rsd_core.model import Model
from rsd_core.paths import Message, Prompt, begun
from rsd_core.request import Request
from rsd_core.settings import Settings
from rsd_core.thoughts.agreement import closed
from rsd_core.thoughts.reading import parts_of

ASK = "Now give the answer as JSON by this schema, and nothing else:\n{schema}"
ROOM = 1024
"""Tokens of the response reserved for the JSON, or half of the limit if that is less."""
_GOES_ON = ("stop", "max_tokens", "max_steps", "repetition", "empty_step")
"""Finish reasons of the reasoning after which the JSON is still written."""


class StructuredDecoder(Decoder):
    r"""Reasons as another decoder does, then writes JSON that follows a schema: both form one response.

    The reasoning is the result's `thought`, the JSON its `text`. It is written in one piece, under a grammar: for RSD
    it is drafted, scored and replaced as the policy says; other decoders use their target, or their only model. Limits,
    seed and ledger cover both; two steps are always allowed. Stop strings are ignored, since partial JSON is useless.

    Args:
        decoder: How to reason. Its models must accept `response_format` (see `Generator.with_fields`).
        schema: A JSON Schema.
        name: Name of the schema, for servers.
        ask: The instruction after the reasoning, containing `{schema}`.

    Raises:
        ConfigurationError: A model cannot follow this schema, or `ask` lacks `{schema}`.
    """

    def __init__(self, decoder: Decoder, schema: Mapping[str, Any], *, name: str = "answer", ask: str = ASK) -> None:
        if not isinstance(schema, Mapping) or "{schema}" not in ask:
            told = f"schema must be an object, and ask must contain {{schema}} (got {schema!r:.80}, {ask!r:.80})"
            raise ConfigurationError(told)
        self.decoder, self.schema, self.ask, self.name = decoder, schema, ask, name
        form = {"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": True}}
        self._writer = _writer(decoder, {"response_format": form})
        super().__init__(decoder.settings)
        self._health = decoder._health

    def with_settings(self, settings: Settings) -> Self:
        return type(self)(self.decoder.with_settings(settings), self.schema, name=self.name, ask=self.ask)

    @property
    def models(self) -> tuple[Model, ...]:
        return self.decoder.models

    @property
    def target(self) -> Target | None:
        return self.decoder.target

    @property
    def thinkers(self) -> tuple[Model, ...]:
        return self.decoder.thinkers

    @property
    def limits(self) -> Limits:
        return self.decoder.limits

    def _request(self, prompt: Prompt, settings: Settings, seed: int, repeat: int, _: tuple[str, ...]) -> Request:
        most, steps = settings.limits.max_tokens, settings.limits.max_steps
        limits = settings.limits.model_copy(
            update={"max_tokens": most and most - min(ROOM, most // 2), "max_steps": steps and max(1, steps - 1)}
        )
        settings = settings.model_copy(update={"limits": limits})
        return Request(prompt, settings, seed, repeat, thinking=self.thinking(prompt), reasons=True)

    async def _decode(self, request: Request, calls: Calls) -> AsyncGenerator[Event, None]:
        async with aclosing(self.decoder._decode(request, calls)) as events:
            async for event in events:
                yield event
        limits = self.limits.model_copy(update={"max_steps": None, "max_thought_tokens": None})
        spent = limits.reached(0, request.progress.tokens)
        if request.finish not in _GOES_ON or spent:
            request.finish = spent or request.finish
            return
        if request.finish != "stop":
            request.degrade("thought_limit", f"the reasoning ended by {request.finish}: the JSON follows it")
        prompt = self._prompt(request)
        settings = self._writer.settings.model_copy(update={"limits": limits})
        writers = [model for model in self._writer.models if isinstance(model, Generator)]
        request.answer_by(prompt, settings, closed([model.thinking(prompt) for model in writers]))
        async with aclosing(self._writer._decode(request, calls)) as events:
            async for event in events:
                yield event
        if request.finish == "stop":
            self._check(request.text("answer"))

    def _prompt(self, request: Request) -> Prompt:
        """The conversation, the reasoning, and the new request; tools may no longer be called."""
        parts, first = parts_of(request.path), begun(request.path.prompt)
        before = [message for message in request.path.prompt if message.role != "tools" and message is not first]
        answer = (parts.answer if first is None else first.content + parts.answer).strip()
        # Chat templates drop the thoughts of earlier turns: a thought without an answer is sent as the answer.
        extra = {"reasoning_content": parts.thought} if parts.thought and answer else {}
        said = Message("assistant", answer or parts.thought.strip(), extra)
        asked = Message("user", self.ask.replace("{schema}", json.dumps(self.schema, ensure_ascii=False)))
        return (*before, *([said] if said.content else []), asked)

    def _check(self, text: str) -> None:
        """Raise `RunError` for an answer that ignores the schema."""
        try:
            value = json.loads(text)
            if self.schema.get("type") == "object" and not value.keys() >= set(self.schema.get("required", ())):
                raise ValueError(f"{', '.join(self.schema['required'])} are required")
        except (ValueError, AttributeError, RecursionError) as error:
            raise RunError(
                f"a model wrote {text!r:.80} instead of JSON: {error}. Its server ignores schemas"
            ) from error


def _writer(decoder: Decoder, fields: Mapping[str, Any]) -> Decoder:
    """A decoder that writes an answer in one piece with another decoder's models."""
    if isinstance(decoder, RewardGuidedDecoder):
        return decoder.in_one_turn(fields)
    settings = decoder.settings.model_copy(update={"granularity": "turn"})
    if decoder.target is not None:
        return TargetOnly(target=decoder.target.with_fields(fields), settings=settings)
    drafter = next(model for model in decoder.models if isinstance(model, Drafter))  # one of the two must write
    return DraftOnly(drafter=drafter.with_fields(fields), settings=settings)
