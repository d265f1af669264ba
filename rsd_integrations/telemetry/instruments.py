"""The metrics: what is told of a call, of a request, and of the queues."""

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
"""Buckets of durations, as the conventions have them for `gen_ai.client.operation.duration`."""
TOKENS = tuple(4**power for power in range(14))
"""Buckets of tokens, as the conventions have them for `gen_ai.client.token.usage`."""
TENTHS = tuple(tenth / 10 for tenth in range(11))
ROLES: tuple[Role, ...] = ("drafter", "verifier", "target")
KINDS = ("computed", "reused", "generated", "discarded")
"""What of an account is told as tokens."""


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
            "rsd.degradations", unit="{degradation}", description="Faults and limits that were got over."
        )
        meter.create_observable_gauge(
            "rsd.queue.depth",
            callbacks=[self._waiting],
            unit="{call}",
            description="Calls that wait for a place among those in flight to a server.",
        )
        self._endpoints: WeakSet[Endpoint] = WeakSet()

    def saw(self, model: Described) -> None:
        """Watch the queues of a model's servers from now on."""
        self._endpoints.update(model.endpoints)

    def tell_call(
        self, role: Role, model: Described, usage: Usage, seconds: float, error: str | None, context: Context
    ) -> None:
        """Tell of a call that ended."""
        own = model.attributes if error is None else {**model.attributes, "error.type": error}
        self._operation.record(seconds, own, context)
        self._call.record(seconds, {**own, "rsd.role": role}, context)
        for kind, tokens in (("input", read(usage)), ("output", usage.generated)):
            if tokens:
                self._usage.record(tokens, {**model.attributes, "gen_ai.token.type": kind}, context)

    def tell_result(self, result: Result, about: Mapping[str, str], context: Context) -> None:
        """Tell of a request that ended.

        Args:
            result: What there is of it.
            about: Which decoder it was, and which error if any.
            context: Its span's.
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
    """Tokens that a call read, from caches or not."""
    return max(0, usage.computed - usage.generated + usage.reused)


def tokens_of(account: Account) -> dict[str, int]:
    """The tokens of an account by their kind; none of those that there are none of."""
    return {kind: tokens for kind in KINDS if (tokens := getattr(account, kind))}


def accepted_of(step: StepRecord) -> bool | None:
    """Whether the draft of a step was accepted; None where nothing was drafted."""
    return step.accepted if step.accepted or step.discarded_draft is not None else None
