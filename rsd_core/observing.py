"""Observers of requests, for metrics and traces. Without any, this costs one check per call.

Observers are discovered: those of installed packages, by entry points in the group `rsd.observers`, and the one for
OpenTelemetry, in programs that have imported it.
"""

from __future__ import annotations

import logging
import sys
from asyncio import CancelledError
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Protocol, TypeVar

from rsd_core.errors import DISTRIBUTION
from rsd_core.events import Event
from rsd_core.guard import Guard
from rsd_core.ledger import Role
from rsd_core.model import Model
from rsd_core.plugins import Plugin, Registry
from rsd_core.request import Request
from rsd_core.results import FinishReason, Result

logger = logging.getLogger(__name__)
Reply = TypeVar("Reply")


class Watch(Protocol):
    """What an observer sees of one request. Exceptions from methods other than `call` are only logged."""

    def call(self, role: Role, model: Model, work: Coroutine[Any, Any, Reply]) -> Coroutine[Any, Any, Reply]:
        """Wraps a model call: awaits the work, and returns or raises the same.

        Replies have a `usage`, or are a list of replies for a scored run; errors may carry it (`usage_of`). Calls run
        concurrently, and some turn out not to be needed.
        """

    def happened(self, event: Event) -> None:
        """An event occurred, such as an accepted step."""

    def end(self, result: Result, error: BaseException | None) -> None:
        """The request is over, and all of its work is on the result's ledger.

        Args:
            result: The result as far as it got.
            error: What the caller gets instead; may be a cancellation, or `GeneratorExit` for an abandoned stream.
        """


class Observer(Protocol):
    """Watches requests."""

    def begin(self, decoder: object) -> Watch | None:
        """A decoder's request begins, in its caller's context; None to ignore it."""


class Watches:
    """All observers of one request as one."""

    def __init__(self, watches: Sequence[Watch]) -> None:
        self._watches = watches

    def call(self, role: Role, model: Model, work: Coroutine[Any, Any, Reply]) -> Coroutine[Any, Any, Reply]:
        """See `Watch`, as for the other methods."""
        for watch in self._watches:
            work = watch.call(role, model, work)
        return work

    def happened(self, event: Event) -> None:
        for watch in self._watches:
            _guarded(watch.happened, event)

    def end(self, result: Result, error: BaseException | None = None) -> None:
        for watch in self._watches:
            _guarded(watch.end, result, error)

    @contextmanager
    def told_of_failure(self, request: Request, guard: Guard) -> Iterator[None]:
        """Report the end of a request that returns no result, with what there is of it."""
        try:
            yield
        except BaseException as error:
            reason: FinishReason = "cancelled" if isinstance(error, CancelledError | GeneratorExit) else "error"
            self.end(getattr(error, "partial", None) or request.result(reason, guard.elapsed), error)
            raise


def begin(decoder: object) -> Watches | None:
    """Tell all observers that a request begins; None if none watches it."""
    watches = [watch for observer in _observers() if (watch := _guarded(observer.begin, decoder)) is not None]
    return Watches(watches) if watches else None


def _guarded(tell: Callable[..., Any], *what: object) -> Any:
    try:
        return tell(*what)
    except Exception:
        logger.exception("an observer failed: %r", tell)


@cache
def _loaded(plugin: Plugin) -> Observer | None:
    """An observer; None if its package is broken, which is logged once."""
    observer: Observer | None = _guarded(plugin.load)
    return observer


_BUILT_IN = {"opentelemetry": Plugin("opentelemetry", "rsd_integrations.telemetry:OBSERVER", DISTRIBUTION)}
"""By the package that a program must have imported."""
_OBSERVERS: Registry[Observer | None] = Registry("observer", "rsd.observers", {}, _loaded)


def _observers() -> Iterator[Observer]:
    found = [_loaded(plugin) for package, plugin in _BUILT_IN.items() if package in sys.modules]
    return (observer for observer in (*found, *_OBSERVERS.values()) if observer is not None)
