"""What /metrics reports, in Prometheus's text format: one registry for each server."""

from __future__ import annotations

from collections import Counter as Counted
from collections.abc import Iterable
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rsd_core import Result
from rsd_integrations.serve.admission import Admission

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Buckets of durations."""
TENTHS = tuple(tenth / 10 for tenth in range(11))
ROLES: tuple[Literal["drafter", "verifier", "target"], ...] = ("drafter", "verifier", "target")
TOKENS = ("computed", "reused", "generated", "scored", "discarded", "estimated")
"""The fields of an account that are reported as tokens."""


class Metrics:
    """The counters of one server.

    Args:
        admission: Whose queue is reported.
    """

    def __init__(self, admission: Admission) -> None:
        self._registry = CollectorRegistry(auto_describe=True)
        self._registry.register(_Queue(admission))

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(name, what, labels, registry=self._registry)

        self._http = counter("rsd_http_requests", "Requests by route and HTTP status.", "route", "status")
        self._requests = counter("rsd_requests", "Answers by the way they ended.", "model", "finish_reason")
        self._steps = counter("rsd_steps", "Steps of answers by who wrote them.", "model", "author")
        self._drafts = counter("rsd_drafts", "Drafted steps by what became of them.", "model", "accepted")
        self._tokens = counter("rsd_tokens", "Tokens by role and kind.", "model", "role", "kind")
        self._calls = counter("rsd_calls", "Model calls, including failed and cancelled ones.", "model", "role")
        self._failed = counter("rsd_calls_failed", "Calls that failed or were cut short.", "model", "role")
        self._seconds = counter("rsd_role_seconds", "Seconds of model time.", "model", "role")
        self._cost = counter("rsd_cost", "Money, if models have a price.", "model", "role")
        self._degradations = counter("rsd_degradations", "Faults and limits recovered from.", "model", "kind")
        self._duration = Histogram(
            "rsd_request_seconds",
            "From the first call to the end.",
            ["model"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._first = Histogram(
            "rsd_first_step_seconds",
            "From arrival to the first step of the answer, the queue included.",
            ["model"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._acceptance = Histogram(
            "rsd_acceptance_rate",
            "Share of each answer's drafted steps that were accepted.",
            ["model"],
            buckets=TENTHS,
            registry=self._registry,
        )

    def answered(self, route: str, status: int) -> None:
        """Count an answered HTTP request."""
        self._http.labels(route, str(status)).inc()

    def began(self, model: str, seconds: float) -> None:
        """Note the first step of an answer."""
        self._first.labels(model).observe(seconds)

    def ended(self, model: str, result: Result) -> None:
        """Count an ended answer, whatever the outcome."""
        self._requests.labels(model, result.finish_reason).inc()
        self._duration.labels(model).observe(result.seconds)
        if result.acceptance_rate is not None:
            self._acceptance.labels(model).observe(result.acceptance_rate)
        for author, count in Counted(step.author for step in result.steps).items():
            self._steps.labels(model, author).inc(count)
        accepted = sum([step.accepted for step in result.steps])
        rejected = sum([step.discarded_draft is not None for step in result.steps if not step.accepted])
        for word, count in (("true", accepted), ("false", rejected)):
            self._drafts.labels(model, word).inc(count)
        for one in result.degradations:
            self._degradations.labels(model, one.kind).inc()
        for role in ROLES:
            account = result.ledger.account(role)
            if not account.calls:
                continue
            self._calls.labels(model, role).inc(account.calls)
            self._failed.labels(model, role).inc(account.failed)
            self._seconds.labels(model, role).inc(account.seconds)
            self._cost.labels(model, role).inc(account.cost or 0)
            for kind in TOKENS:
                self._tokens.labels(model, role, kind).inc(getattr(account, kind))

    def text(self) -> bytes:
        """All metrics as text."""
        return generate_latest(self._registry)


class _Queue(Collector):
    """Queue depth and requests in flight, read on demand."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily("rsd_queue_depth", "Answers waiting for a slot.", self._admission.waiting)
        yield GaugeMetricFamily("rsd_in_flight", "Answers being decoded.", self._admission.in_flight)
