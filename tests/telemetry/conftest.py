"""Providers of a test's own, in place of the ones that a process sets once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


class Told:
    """The output of a test's exporters."""

    def __init__(self) -> None:
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers, self.meters = TracerProvider(), MeterProvider([self.reader])
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))

    def spans(self, start: str = "") -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name.startswith(start)]

    def total(self, name: str, **wanted: object) -> float:
        """The sum over all points that have these attributes, `__` standing for a dot; of histograms their sums."""
        return math.fsum(total for total, _ in self._points(name, wanted))

    def count(self, name: str, **wanted: object) -> int:
        """How often a histogram was told something with these attributes."""
        return sum(count for _, count in self._points(name, wanted))

    def _points(self, name: str, wanted: dict[str, object]) -> list[tuple[float, int]]:
        want = {(key.replace("__", "."), value) for key, value in wanted.items()}
        data = self.reader.get_metrics_data()
        found: list[tuple[float, int]] = []
        for resource in data.resource_metrics if data else ():
            for metric in [
                metric for scope in resource.scope_metrics for metric in scope.metrics if metric.name == name
            ]:
                for point in metric.data.data_points:
                    if want <= (point.attributes or {}).items():
                        if isinstance(point, HistogramDataPoint):
                            found.append((point.sum, point.count))
                        elif isinstance(point, NumberDataPoint):
                            found.append((point.value, 1))
        return found


def attributes(span: object) -> dict[str, Any]:
    """What a span holds."""
    assert isinstance(span, ReadableSpan)
    return dict(span.attributes or {})


def inside(span: ReadableSpan, other: ReadableSpan) -> bool:
    """Whether a span begins and ends within another one."""
    times = (other.start_time, span.start_time, span.end_time, other.end_time)
    known = [time for time in times if time is not None]
    return len(known) == 4 and known == sorted(known)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    """Providers that are set for one test. (A program calls `set_tracer_provider`, which works once.)"""
    providers = Told()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: providers.tracers)
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: providers.meters)
    yield providers
    providers.tracers.shutdown()
    providers.meters.shutdown()
