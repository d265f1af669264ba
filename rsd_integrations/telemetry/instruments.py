"""The metrics of calls, requests and queues."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from weakref import WeakSet

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Meter, Observation

from rsd_core import Account, Result, StepRecord, Usage
from rsd_core.ledger import Role
from rsd_integrations.telemetry.described import Described, Endpoint, address_of

SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Buckets of durations, from the conventions for `gen_ai.client.operation.duration`."""
TOKENS = tuple(4**power for power in range(14))
"""Buckets of tokens, from the conventions for `gen_ai.client.token.usage`."""
TENTHS = tuple(tenth / 10 for tenth in range(11))
ROLES: tuple[Role, ...] = ("drafter", "verifier", "target")
KINDS = ("computed", "reused", "generated", "discarded")
"""The fields of an account reported as tokens."""


class Instruments:
    """All instruments of one meter."""

    def __init__(self, meter: Meter) -> None:
        self._usage = meter.create_histogram(
            "gen_ai.client.token.usage",
            unit="{token}",
            description="Tokens read and written by a call of a model.",
            explicit_bucket_boundaries_advisory=TOKENS,
        )
        self._operation = meter.create_histogram(
            "gen_ai.client.operation.duration",
            unit="s",
            description="Duration of a call of a model.",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self._call = meter.create_histogram(
            "rsd.call.duration",
            unit="s",
            description="Duration of a call by the role that the model plays, waiting included.",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self._duration = meter.create_histogram(
            "rsd.request.duration",
            unit="s",
            description="Duration of a request.",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self._acceptance = meter.create_histogram(
            "rsd.acceptance_rate",
            unit="1",
            description="Share of a request's drafted steps that were accepted.",
            explicit_bucket_boundaries_advisory=TENTHS,
        )
        self._requests = meter.create_counter("rsd.requests", unit="{request}", description="Requests that ended.")
        self._steps = meter.create_counter("rsd.steps", unit="{step}", description="Steps of responses.")
        self._tokens = meter.create_counter("rsd.tokens", unit="{token}", description="Tokens on the ledgers.")
        self._cost = meter.create_counter("rsd.cost", unit="{currency}", description="Money on the ledgers.")
        self._degradations = meter.create_counter(
            "rsd.degradations", unit="{degradation}", description="Faults and limits that requests recovered from."
        )
        meter.create_observable_gauge(
            "rsd.queue.depth",
            callbacks=[self._waiting],
            unit="{call}",
            description="Calls waiting for a server's concurrency limit.",
        )
        self._endpoints: WeakSet[Endpoint] = WeakSet()

    def saw(self, model: Described) -> None:
        """Report the queues of a model's servers from now on."""
        self._endpoints.update(model.endpoints)

    def tell_call(
        self, role: Role, model: Described, usage: Usage, seconds: float, error: str | None, context: Context
    ) -> None:
        """Record a finished call."""
        own = model.attributes if error is None else {**model.attributes, "error.type": error}
        self._operation.record(seconds, own, context)
        self._call.record(seconds, {**own, "rsd.role": role}, context)
        for kind, tokens in (("input", read(usage)), ("output", usage.generated)):
            if tokens:
                self._usage.record(tokens, {**model.attributes, "gen_ai.token.type": kind}, context)

    def tell_result(self, result: Result, about: Mapping[str, str], context: Context) -> None:
        """Record a finished request.

        Args:
            result: The result as far as it got.
            about: Attributes: the decoder, and the error if any.
            context: The context of its span.
        """
        ended = {**about, "rsd.finish_reason": result.finish_reason}
        self._requests.add(1, ended, context)
        self._duration.record(result.seconds, ended, context)
        if result.acceptance_rate is not None:
            self._acceptance.record(result.acceptance_rate, about, context)
        for (author, accepted), steps in Counter((step.author, accepted_of(step)) for step in result.steps).items():
            drafted = {} if accepted is None else {"rsd.step.accepted": accepted}
            self._steps.add(steps, {"rsd.step.author": author, **drafted}, context)
        for kind, degradations in Counter(item.kind for item in result.degradations).items():
            self._degradations.add(degradations, {"rsd.degradation.kind": kind}, context)
        for role in ROLES:
            account = result.ledger.account(role)
            for name, tokens in tokens_of(account).items():
                self._tokens.add(tokens, {"rsd.role": role, "rsd.token.kind": name}, context)
            if account.cost:
                self._cost.add(account.cost, {"rsd.role": role}, context)

    def _waiting(self, _: CallbackOptions) -> Iterable[Observation]:
        waiting: Counter[tuple[tuple[str, str | int], ...]] = Counter()
        for endpoint in list(self._endpoints):
            attributes = {"gen_ai.request.model": endpoint.model, **address_of(endpoint)}
            waiting[tuple(attributes.items())] += endpoint.waiting
        return [Observation(calls, dict(attributes)) for attributes, calls in waiting.items()]


def read(usage: Usage) -> int:
    """Tokens that a call read, cached or not."""
    return max(0, usage.computed - usage.generated + usage.reused)


def tokens_of(account: Account) -> dict[str, int]:
    """The tokens of an account by kind, zeros omitted."""
    return {kind: tokens for kind in KINDS if (tokens := getattr(account, kind))}


def accepted_of(step: StepRecord) -> bool | None:
    """Whether the draft of a step was accepted; None if nothing was drafted."""
    return step.accepted if step.accepted or step.discarded_draft is not None else None
