"""The spans of one request: its own, and a child for every model call. They contain no prompts or answers."""

from __future__ import annotations

import time
from asyncio import CancelledError
from collections.abc import Coroutine
from typing import Any, TypeVar

from opentelemetry import context, trace
from opentelemetry.trace import StatusCode

from rsd_core import Event, Model, Result, StepFinished, Usage, usage_of
from rsd_core.ledger import Role
from rsd_core.limits import LimitReached
from rsd_integrations.telemetry.described import Described, describe
from rsd_integrations.telemetry.instruments import ROLES, Instruments, accepted_of, read, tokens_of

Reply = TypeVar("Reply")
_CANCELLED = (CancelledError, GeneratorExit, LimitReached)
"""Exceptions that end an unused call."""


class RequestWatch:
    """Reports one request, from its beginning in its caller's context.

    Args:
        tracer: Creates the spans.
        instruments: The metrics.
        decoder: The decoder.
    """

    def __init__(self, tracer: trace.Tracer, instruments: Instruments, decoder: object) -> None:
        self._tracer, self._instruments = tracer, instruments
        self._decoder = type(decoder).__name__
        self._span = tracer.start_span(
            f"invoke_workflow {self._decoder}",
            attributes={"gen_ai.operation.name": "invoke_workflow", "gen_ai.workflow.name": self._decoder},
        )
        self._context = trace.set_span_in_context(self._span)
        self._described: dict[tuple[Role, int], Described] = {}

    async def call(self, role: Role, model: Model, work: Coroutine[Any, Any, Reply]) -> Reply:
        """Await a model call inside its own span."""
        described = self._model(role, model)
        span = self._tracer.start_span(
            described.span, self._context, described.kind, attributes={**described.attributes, "rsd.role": role}
        )
        inside = trace.set_span_in_context(span, self._context)
        token = context.attach(inside)
        usage, started = Usage(), time.perf_counter()
        error: BaseException | None = None
        try:
            reply = await work
            usage = _usage(reply)
            return reply
        except BaseException as raised:
            usage, error = usage_of(raised) or usage, raised
            raise
        finally:
            context.detach(token)
            seconds = time.perf_counter() - started
            span.set_attributes(
                {
                    "gen_ai.usage.input_tokens": read(usage),
                    "gen_ai.usage.output_tokens": usage.generated,
                    "gen_ai.usage.cache_read.input_tokens": usage.reused,
                }
            )
            kind = _end(span, error)
            self._instruments.tell_call(role, described, usage, seconds, kind, inside)

    def happened(self, event: Event) -> None:
        """Record a decided step on the request's span."""
        if isinstance(event, StepFinished) and self._span.is_recording():
            step = event.record
            told = {
                "rsd.step.index": event.index,
                "rsd.step.author": step.author,
                "rsd.step.accepted": accepted_of(step),
                "rsd.step.reward": step.reward,
                "rsd.step.tokens": step.size,
            }
            self._span.add_event("rsd.step", {name: value for name, value in told.items() if value is not None})

    def end(self, result: Result, error: BaseException | None) -> None:
        """Record the outcome of the request."""
        self._span.set_attributes(
            {
                "rsd.finish_reason": result.finish_reason,
                "rsd.steps": len(result.steps),
                "rsd.target_share": result.target_share,
                "rsd.degradations": len(result.degradations),
            }
        )
        if result.acceptance_rate is not None:
            self._span.set_attribute("rsd.acceptance_rate", result.acceptance_rate)
        for role in ROLES:
            for kind, tokens in tokens_of(result.ledger.account(role)).items():
                self._span.set_attribute(f"rsd.tokens.{role}.{kind}", tokens)
        failure = _end(self._span, error)
        about = {"rsd.decoder": self._decoder, **({} if failure is None else {"error.type": failure})}
        self._instruments.tell_result(result, about, self._context)

    def _model(self, role: Role, model: Model) -> Described:
        key = role, id(model)
        if key not in self._described:
            self._described[key] = describe(role, model)
            self._instruments.saw(self._described[key])
        return self._described[key]


def _usage(reply: Any) -> Usage:
    """The usage of a call; for a scored run, of all its steps together. Replies are not checked yet."""
    if isinstance(reply, list):
        return sum([_usage(one) for one in reply], Usage())
    usage = getattr(reply, "usage", None)
    return usage if isinstance(usage, Usage) else Usage()


def _end(span: trace.Span, error: BaseException | None) -> str | None:
    """End a span and name what ended it; error messages may contain texts, and are left out."""
    kind = None
    if error is not None:
        kind = "cancelled" if isinstance(error, _CANCELLED) else type(error).__qualname__
        span.set_attribute("error.type", kind)
        if kind != "cancelled":
            span.set_status(StatusCode.ERROR)
    span.end()
    return kind
