"""Metrics and spans by OpenTelemetry, in programs that use it: found by the core, there is nothing to call.

This package is imported where a program has imported `opentelemetry`, and not before.
"""

from __future__ import annotations

from rsd_core.observing import Observer

OBSERVER: Observer | None
try:
    from rsd_integrations.telemetry.observer import Telemetry
except ModuleNotFoundError:  # a part of it without the API, which is several packages in one name
    OBSERVER = None
else:
    OBSERVER = Telemetry()

__all__ = ["OBSERVER"]
