"""Structured output: a decoder that reasons in steps, and then writes JSON by a schema."""

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
"""Tokens of the response that are kept for the JSON, or half of them where there are fewer than twice as many."""
_GOES_ON = ("stop", "max_tokens", "max_steps", "repetition", "empty_step")
"""Ends of the reasoning that the JSON follows all the same."""


class StructuredDecoder(Decoder):
    r"""Reasons as another decoder does, and then writes JSON by a schema: both are one response.

    The reasoning is the result's `thought`, the JSON its `text`. It is written in one piece, under a grammar: drafted,
    scored and replaced as the decoder's policy says where that is RSD, else by the decoder's target, or its only model.
    Limits, seed and ledger are of both together. Stop strings are not looked for: JSON is whole, or it is none.

    Args:
        decoder: How to reason. Its models have to take `response_format`, see `Generator.with_fields`.
        schema: A JSON Schema.
        name: Of the schema, for servers.
        ask: What the models are told after the reasoning, with `{schema}`.

    Raises:
        ConfigurationError: A model cannot write by this schema, or `ask` lacks it.
    """

    def __init__(self, decoder: Decoder, schema: Mapping[str, Any], *, name: str = "answer", ask: str = ASK) -> None:
        if not isinstance(schema, Mapping) or "{schema}" not in ask:
            told = f"a schema is an object, and ask has {{schema}} in it (got {schema!r:.80}, {ask!r:.80})"
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
            request.degrade("thought_limit", f"the reasoning ended by {request.finish}: the JSON follows what there is")
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
        """The conversation, the reasoning, and what is asked for now; tools are not to be called any more."""
        parts, first = parts_of(request.path), begun(request.path.prompt)
        before = [message for message in request.path.prompt if message.role != "tools" and message is not first]
        answer = (parts.answer if first is None else first.content + parts.answer).strip()
        # Chat templates drop the thoughts of earlier turns: one that no answer followed is the answer.
        extra = {"reasoning_content": parts.thought} if parts.thought and answer else {}
        said = Message("assistant", answer or parts.thought.strip(), extra)
        asked = Message("user", self.ask.replace("{schema}", json.dumps(self.schema, ensure_ascii=False)))
        return (*before, *([said] if said.content else []), asked)

    def _check(self, text: str) -> None:
        """Raise `RunError` for an answer that a model wrote as if there were no schema."""
        try:
            value = json.loads(text)
            if self.schema.get("type") == "object" and not value.keys() >= set(self.schema.get("required", ())):
                raise ValueError(f"{', '.join(self.schema['required'])} are required")
        except (ValueError, AttributeError, RecursionError) as error:
            told = f"a model was asked for JSON by a schema and wrote {text!r:.80}: {error}. Its server ignores schemas"
            raise RunError(told) from error


def _writer(decoder: Decoder, fields: Mapping[str, Any]) -> Decoder:
    """What writes an answer in one piece by a decoder's models."""
    if isinstance(decoder, RewardGuidedDecoder):
        return decoder.in_one_turn(fields)
    settings = decoder.settings.model_copy(update={"granularity": "turn"})
    if decoder.target is not None:
        return TargetOnly(target=decoder.target.with_fields(fields), settings=settings)
    drafter = next(model for model in decoder.models if isinstance(model, Drafter))  # one of the two has to write
    return DraftOnly(drafter=drafter.with_fields(fields), settings=settings)
