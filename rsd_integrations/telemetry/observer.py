"""The observer: watches requests if the program has set up traces or metrics."""

from __future__ import annotations

from opentelemetry import metrics, trace

from rsd_core.version import __version__
from rsd_integrations.telemetry.instruments import Instruments
from rsd_integrations.telemetry.watch import RequestWatch

SCOPE = "rsd"
"""The instrumentation scope of all telemetry."""


class Telemetry:
    """Watches each request with the providers set when it begins, so they may be set up at any time."""

    def __init__(self) -> None:
        self._made: tuple[metrics.MeterProvider, Instruments] | None = None

    def begin(self, decoder: object) -> RequestWatch | None:
        """A request begins; None if neither traces nor metrics are exported."""
        tracers, meters = trace.get_tracer_provider(), metrics.get_meter_provider()
        if _stands_in(tracers) and _stands_in(meters):
            return None
        if self._made is None or self._made[0] is not meters:
            self._made = meters, Instruments(meters.get_meter(SCOPE, __version__))
        return RequestWatch(tracers.get_tracer(SCOPE, __version__), self._made[1], decoder)


def _stands_in(provider: object) -> bool:
    """Whether a provider is the API's own no-op."""
    return type(provider).__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics"))
