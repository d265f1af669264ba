"""OpenTelemetry metrics and spans, in programs that use it: the core discovers this, so there is nothing to call.

This package is imported only once a program has imported `opentelemetry`.
"""

from __future__ import annotations

from rsd_core.observing import Observer

OBSERVER: Observer | None
try:
    from rsd_integrations.telemetry.observer import Telemetry
except ModuleNotFoundError:  # another part of this namespace package, without the API
    OBSERVER = None
else:
    OBSERVER = Telemetry()

__all__ = ["OBSERVER"]
