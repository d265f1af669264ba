"""How long a call goes on trying: retries for faults, patience for a server that is away or asks to be spared."""

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
"""Seconds that the calls of a run wait for a server that is away, where nobody has said how long."""
INTERACTIVE_PATIENCE = 30.0
"""Those of a call that somebody waits for."""

LONG_ATTEMPT = 1.0
"""Seconds from which on a server was at work on an attempt, whatever a gateway says of it."""

_AT_WORK = nullcontext()


class Persistence(NamedTuple):
    """How long calls go on."""

    retries: int
    """Attempts after one that met a fault."""
    patience: float | None
    """Seconds to wait for a server that is away; None goes by who asks."""


class Sender:
    """Sends the calls of one endpoint until they are answered, or until neither retries nor patience are left.

    Args:
        name: The endpoint's, for messages.
    """

    def __init__(self, name: str) -> None:
        self.breaker = Breaker(name)
        self._name = name
        self._heard = False
        """Whether it ever answered anything: what never did may be a mistake in the URL, which nobody waits for."""
        self._answered = 0.0
        """When it answered last."""
        self._waiting: dict[_Call, float] = {}

    @property
    def waiting_since(self) -> float | None:
        """Since when the first of the calls that wait does so, by the monotonic clock; None where none does."""
        return min(list(self._waiting.values()), default=None)  # a copy: displays ask from threads of their own

    async def send(
        self,
        attempt: Callable[[], Awaitable[T]],
        what: str,
        connection: Connection,
        persistence: Persistence,
        again: Callable[[], bool] | None = None,
    ) -> T:
        """Make attempts until one works.

        An outage and back-pressure are waited for within the patience, and use up no retries. All other faults do, and
        those as well where there is no patience left. It counts from the beginning of an outage: who asks at the end
        of a long one does not wait as long again. What a call meets again and again while others are answered is no
        outage, whatever it looks like (a gateway's 504 after a long time, an answer that is cut): it uses up retries.

        Args:
            attempt: Sends once.
            what: The request, for the log.
            connection: Where the places for requests in flight are; none is held while the call waits.
            persistence: How long to go on.
            again: Whether to begin anew after a failed attempt.

        Raises:
            EndpointError: The last fault.
            ConfigurationError: The server is well and does not take the request.
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
                            continue  # it opened while this call waited for its place
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
        """The server answers a call that was sent at that time, by the monotonic clock."""
        self._heard, self._answered = True, time.monotonic()
        self.breaker.succeeded(sent)

    def forget(self) -> None:
        """Begin anew in a forked child: the calls that wait are its parent's."""
        self._waiting.clear()
        self.breaker.forget()

    def _closed(self) -> EndpointError:
        return EndpointError(f"{self._name} was closed while a request was under way")

    async def _turn(self, call: _Call) -> bool:
        """Wait at the breaker; whether the call is to try the server out."""
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
        """Send once, and let the breaker know how it went."""
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
            self.answered(sent)  # and is well
            raise
        finally:
            self.breaker.over()
        self.answered(sent)
        return result

    def _delay(self, call: _Call, fault: EndpointError) -> float:
        """Seconds until the next attempt; none where the call then waits at the breaker.

        Raises:
            EndpointError: The fault, where there is to be no other attempt.
        """
        if fault.retry_after is not None:
            call.spared += 1
            again_and_again = backoff(call.spared - 1) if call.spared > 1 else 0.0  # some always say 0
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
        """Why a call does not wait any more, in words."""
        patience = self._patience(call)
        if not (patience or self._heard):
            return "has never answered, so it is not waited for"
        away = time.monotonic() - (self.breaker.since or time.monotonic())
        return f"has been left alone for {away:.1f} s, and patience={patience:g} ends here"

    def _patience(self, call: _Call) -> float:
        if call.persistence.patience is not None:
            return call.persistence.patience
        if call.caller.concurrency is not None:
            return BATCH_PATIENCE
        return INTERACTIVE_PATIENCE if self._heard else 0.0

    @contextmanager
    def _shown(self, call: _Call) -> Iterator[None]:
        """Count the time that a call waits, and have displays tell of it."""
        started = time.monotonic()
        self._waiting[call] = started - call.waited
        try:
            yield
        finally:
            call.waited += time.monotonic() - started
            self._waiting.pop(call, None)


@dataclass(eq=False, slots=True)
class _Call:
    """How far a call has got."""

    caller: Caller
    persistence: Persistence
    sent: int = 0
    """Attempts so far."""
    tried: int = 0
    """Those of them that tried out a server that was away."""
    spared: int = 0
    """How often the server has asked to be spared."""
    alone: int = 0
    """Attempts that ended as in an outage, while others were answered."""
    fails_alone: bool = False
    """Whether the last attempt was one of several such."""
    used: int = 0
    """Retries that were used up."""
    waited: float = 0.0
    """Seconds."""
    back_off: float = 0.0
    """Until when a retry waits at an open breaker, patience or not, by the monotonic clock."""

    def met_alone(self, fault: EndpointError, sent: float, answered: float) -> None:
        """Note what became of an attempt, given when it was sent and when the server answered somebody last."""
        # A gateway without a server tells so at once.
        costs = fault.status is None or time.monotonic() - sent > LONG_ATTEMPT
        alone = fault.outage and costs and answered > sent
        self.alone += alone
        self.fails_alone = alone and self.alone > 1

    def may_retry(self) -> bool:
        """Use up a retry; whether there was one."""
        self.used += 1
        self.back_off = time.monotonic() + backoff(self.used)
        return self.used <= self.persistence.retries
