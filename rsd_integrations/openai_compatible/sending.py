"""How long a call keeps trying: retries for faults, patience for an unavailable or overloaded server."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from rsd_core import ConfigurationError
from rsd_core.queueing import Caller, current_caller
from rsd_integrations.openai_compatible.breaker import Breaker
from rsd_integrations.openai_compatible.connection import Connection
from rsd_integrations.openai_compatible.errors import EndpointError
from rsd_integrations.openai_compatible.retry import LONGEST_DELAY, backoff

logger = logging.getLogger(__name__)
T = TypeVar("T")
BATCH_PATIENCE = 600.0
"""Default patience in seconds for calls of a run."""
INTERACTIVE_PATIENCE = 30.0
"""Default patience in seconds for an interactive call."""

LONG_ATTEMPT = 1.0
"""Seconds after which a server must have been working on an attempt, whatever a gateway says."""

_AT_WORK = nullcontext()


class Persistence(NamedTuple):
    """How long calls keep trying."""

    retries: int
    """Further attempts after a fault."""
    patience: float | None
    """Seconds to wait for an unavailable server; None depends on the caller."""


class Sender:
    """Sends the calls of one endpoint until they are answered, or retries and patience are exhausted.

    Args:
        name: The endpoint's name, for messages.
    """

    def __init__(self, name: str) -> None:
        self.breaker = Breaker(name)
        self._name = name
        self._heard = False
        """Whether it has ever answered: if not, the URL may be wrong, and waiting is pointless."""
        self._answered = 0.0
        """When it last answered."""
        self._waiting: dict[_Call, float] = {}

    @property
    def waiting_since(self) -> float | None:
        """When the first of the waiting calls began to wait, by the monotonic clock; None if none waits."""
        return min(list(self._waiting.values()), default=None)  # a copy: displays call this from other threads

    async def send(
        self,
        attempt: Callable[[], Awaitable[T]],
        what: str,
        connection: Connection,
        persistence: Persistence,
        again: Callable[[], bool] | None = None,
    ) -> T:
        """Make attempts until one succeeds.

        Outages and back-pressure are waited out within the patience and use no retries. All other faults do, and so do
        these once patience is exhausted. Patience counts from the beginning of an outage, so a call late in a long one
        waits less. A fault that a call meets repeatedly while others are answered is not an outage, whatever it looks
        like (a gateway's 504 after a long time, a truncated answer): it uses retries.

        Args:
            attempt: Sends once.
            what: Description of the request, for the log.
            connection: Holds the concurrency slots; a waiting call does not occupy one.
            persistence: How long to keep trying.
            again: Whether to start over after a failed attempt.

        Raises:
            EndpointError: The last fault.
            ConfigurationError: The server is healthy but rejects the request.
        """
        call = _Call(current_caller(), persistence)
        while True:
            trial = self.breaker.is_open and not connection.closed and await self._turn(call)
            try:
                with self._shown(call) if trial else _AT_WORK:
                    async with connection.slots:
                        if connection.closed:
                            raise self._closed()
                        if self.breaker.is_open and not trial:
                            continue  # it opened while this call waited for a slot
                        call.sent += 1
                        return await self._attempt(attempt, call, connection, trial)
            except EndpointError as error:
                fault = error
            finally:
                if trial:
                    self.breaker.tried()
            if connection.closed:
                raise self._closed()
            if again is not None and not again():
                raise fault
            delay = self._delay(call, fault)
            logger.info("%s, attempt %d: %s; trying again in %.2f s", what, call.sent, fault, delay)
            with self._shown(call):
                if fault.retry_after is not None:
                    await connection.pause(delay)
                elif delay:
                    await self.breaker.rest(delay)

    def answered(self, sent: float) -> None:
        """Note an answer to a call sent at this time, by the monotonic clock."""
        self._heard, self._answered = True, time.monotonic()
        self.breaker.succeeded(sent)

    def forget(self) -> None:
        """Reset in a forked child: the waiting calls belong to its parent."""
        self._waiting.clear()
        self.breaker.forget()

    def _closed(self) -> EndpointError:
        return EndpointError(f"{self._name} was closed while a request was in flight")

    async def _turn(self, call: _Call) -> bool:
        """Wait at the breaker; return whether the call is a trial."""
        while True:
            try:
                with self._shown(call):
                    until = max(call.back_off, self._until(call))
                    trial = await self.breaker.turn(call.caller.number, call.tried, until)
                    call.tried += trial
                    return trial
            except TimeoutError:
                if not (call.sent and call.may_retry()):
                    raise EndpointError(
                        f"{self._name} {self._no_longer(call)}; the last fault: {self.breaker.last}", outage=True
                    ) from None

    async def _attempt(
        self, attempt: Callable[[], Awaitable[T]], call: _Call, connection: Connection, trial: bool
    ) -> T:
        """Send once, and report the outcome to the breaker."""
        sent = self.breaker.begun()
        try:
            result = await attempt()
        except EndpointError as fault:
            self._heard |= fault.status is not None
            call.met_alone(fault, sent, self._answered)
            if not connection.closed:
                self.breaker.failed(fault, call.caller.number, trial)
            raise
        except ConfigurationError:
            self.answered(sent)  # and is healthy
            raise
        finally:
            self.breaker.over()
        self.answered(sent)
        return result

    def _delay(self, call: _Call, fault: EndpointError) -> float:
        """Seconds until the next attempt; 0 if the call then waits at the breaker.

        Raises:
            EndpointError: The fault, if there are no more attempts.
        """
        if fault.retry_after is not None:
            call.spared += 1
            again_and_again = backoff(call.spared - 1) if call.spared > 1 else 0.0  # some servers always say 0
            delay = max(fault.retry_after, again_and_again)
        else:
            delay = 0.0 if self.breaker.is_open else backoff(call.sent)
        no_fault_of_it = (fault.outage and not call.fails_alone) or fault.throttled or self.breaker.fails_all
        waits = no_fault_of_it and time.monotonic() + delay <= self._until(call)
        if not waits and (delay > LONGEST_DELAY or not call.may_retry()):
            raise fault
        return delay

    def _until(self, call: _Call) -> float:
        """The end of a call's patience, by the monotonic clock."""
        now = time.monotonic()
        return min(now - call.waited, self.breaker.since or now) + self._patience(call)

    def _no_longer(self, call: _Call) -> str:
        """Why a call stops waiting, in words."""
        patience = self._patience(call)
        if not (patience or self._heard):
            return "has never answered, so calls do not wait for it"
        away = time.monotonic() - (self.breaker.since or time.monotonic())
        return f"has been unavailable for {away:.1f} s, and patience={patience:g} ends here"

    def _patience(self, call: _Call) -> float:
        if call.persistence.patience is not None:
            return call.persistence.patience
        if call.caller.concurrency is not None:
            return BATCH_PATIENCE
        return INTERACTIVE_PATIENCE if self._heard else 0.0

    @contextmanager
    def _shown(self, call: _Call) -> Iterator[None]:
        """Show a call's waiting time in displays."""
        started = time.monotonic()
        self._waiting[call] = started - call.waited
        try:
            yield
        finally:
            call.waited += time.monotonic() - started
            self._waiting.pop(call, None)


@dataclass(eq=False, slots=True)
class _Call:
    """The state of a call."""

    caller: Caller
    persistence: Persistence
    sent: int = 0
    """Attempts so far."""
    tried: int = 0
    """Trials of an unavailable server among them."""
    spared: int = 0
    """How often the server has asked for back-off."""
    alone: int = 0
    """Attempts that failed as in an outage while other calls were answered."""
    fails_alone: bool = False
    """Whether the last attempt was one of several of these."""
    used: int = 0
    """Retries used."""
    waited: float = 0.0
    """Seconds."""
    back_off: float = 0.0
    """When a retry stops waiting at an open breaker, regardless of patience, by the monotonic clock."""

    def met_alone(self, fault: EndpointError, sent: float, answered: float) -> None:
        """Note an attempt's outcome, given when it was sent and when the server last answered any call."""
        # A gateway without a server fails at once.
        costs = fault.status is None or time.monotonic() - sent > LONG_ATTEMPT
        alone = fault.outage and costs and answered > sent
        self.alone += alone
        self.fails_alone = alone and self.alone > 1

    def may_retry(self) -> bool:
        """Use a retry; return whether there was one left."""
        self.used += 1
        self.back_off = time.monotonic() + backoff(self.used)
        return self.used <= self.persistence.retries
