"""A circuit breaker: while a server is unavailable, one call tries now and then, and the others wait."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import time
from dataclasses import dataclass, field

from rsd_integrations.openai_compatible.errors import EndpointError

logger = logging.getLogger(__name__)
FIRST_TRIAL, LONGEST_PAUSE = 0.5, 3.0
"""Seconds from opening to the first trial, and at most between trials; intervals double."""


class Breaker:
    """Opens after several consecutive faults. Calls then wait until a trial call gets an answer.

    The waiting call that has tried least often tries next; of several, the one of the oldest request. So a request that
    is itself faulty leaves the next trial to another one. If a trial gets neither answer nor fault, the server is
    working on it, and more calls may try: twice as many each time.

    A single faulty request does not open it while others are in flight: that takes faults of several different
    requests, or of any if there is no other.

    All callers are on the background loop, so it needs no lock.

    Args:
        name: Its owner, for the log.
        faults: Consecutive faults that open it.
    """

    def __init__(self, name: str, faults: int = 5) -> None:
        self.name, self.limit = name, faults
        self.since: float | None = None
        """When it opened, by the monotonic clock; None while closed."""
        self.last: EndpointError | None = None
        """The last fault."""
        self.first_trial = FIRST_TRIAL
        self._faults = 0
        self._failing: set[int] = set()
        """The requests that failed since the last answer."""
        self._asked = 0
        """How often the server has asked for back-off since then."""
        self._under_way = self._trials = 0
        self._pause = self._due = 0.0
        self._failed_since = False
        """Whether a trial has failed since calls were last let through."""
        self._waiting: list[_Waiting] = []
        self._resting: set[asyncio.Future[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        """Whether calls wait."""
        return self.since is not None

    @property
    def fails_all(self) -> bool:
        """Whether it is open because so many different requests failed that the server must be at fault."""
        return self.is_open and len(self._failing) >= self.limit

    async def turn(self, request: int, tried: int, until: float) -> bool:
        """Wait, if necessary, until a call may be sent.

        Args:
            request: The number of its request.
            tried: How many trials it has made.
            until: When its wait must end, by the monotonic clock.

        Returns:
            Whether it is a trial; if so, call `tried` when it is over.

        Raises:
            TimeoutError: It may not wait so long; raised at once if waiting is pointless.
        """
        if not self.is_open:
            return False
        one = _Waiting(tried, request, next(_arrivals), asyncio.get_running_loop().create_future())
        heapq.heappush(self._waiting, one)
        self._let_through()
        now = time.monotonic()
        try:
            if not one.turn.done() and self._due > max(until, now + LONGEST_PAUSE):  # as the server announced
                raise TimeoutError
            async with asyncio.timeout(max(0.0, until - now)):
                return await one.turn
        except BaseException:
            if one.turn.done() and not one.turn.cancelled() and one.turn.result():
                self.tried()  # it had just been let through
            one.turn.cancel()
            raise

    async def rest(self, seconds: float) -> None:
        """Wait at most until the breaker opens or closes."""
        end = asyncio.get_running_loop().create_future()
        self._resting.add(end)
        try:
            await asyncio.wait([end], timeout=seconds)
        finally:
            self._resting.discard(end)

    def begun(self) -> float:
        """A call is sent; returns when, by the monotonic clock."""
        self._under_way += 1
        return time.monotonic()

    def over(self) -> None:
        """A sent call is over."""
        self._under_way -= 1

    def tried(self) -> None:
        """A trial is over, whatever its outcome."""
        self._trials -= 1

    def succeeded(self, sent: float) -> None:
        """The server answered, even if with a refusal.

        Args:
            sent: When the call was sent. A server that is shutting down may still answer calls from before an outage.
        """
        if self.since is not None:
            if sent < self.since:
                return
            away = time.monotonic() - self.since
            logger.log(
                logging.INFO if self.last is None or self.last.throttled else logging.WARNING,
                "%s answers again after %.1f s: its breaker closes",
                self.name,
                away,
            )
            self.since = None
            self.wake()
        if self._faults or self._asked:
            self._faults = self._asked = 0
            self._failing.clear()

    def failed(self, fault: EndpointError, request: int, trial: bool = False) -> None:
        """The server failed, or asked for back-off.

        Args:
            fault: What happened; a busy server without a back-off time does not count.
            request: The number of the call's request.
            trial: Whether the call was a trial.
        """
        self.last = fault
        self._failed_since |= trial
        if fault.retry_after is not None:
            self._asked += 1
            if self.is_open:
                self._due = max(self._due, time.monotonic() + fault.retry_after)
            elif self._asked >= self.limit:
                self._open(fault.retry_after)
                logger.info("%s asks for a back-off of %.3g s: calls wait; %s", self.name, fault.retry_after, fault)
        elif not fault.throttled:
            self._faults += 1
            self._failing.add(request)
            alone = self._under_way <= 1
            if not self.is_open and self._faults >= self.limit and (alone or len(self._failing) >= self.limit):
                self._open(self.first_trial)
                logger.warning(
                    "%s failed %d times in a row: its breaker opens, and calls wait; the last fault: %s",
                    self.name,
                    self._faults,
                    fault,
                )

    def wake(self) -> None:
        """Release all waiting calls, those of older requests first."""
        waiting, self._waiting = self._waiting, []
        for one in sorted(waiting, key=lambda one: (one.request, one.arrival)):
            if not one.turn.done():
                one.turn.set_result(False)
        self._end_rests()
        self._stop_timer()

    def forget(self) -> None:
        """Reset in a forked child: the waiting calls belong to its parent."""
        self._under_way = self._trials = 0
        self._waiting, self._resting, self._timer = [], set(), None

    def _open(self, pause: float) -> None:
        self.since = time.monotonic()
        self._due, self._pause, self._failed_since = self.since + pause, self.first_trial, False
        self._end_rests()

    def _end_rests(self) -> None:
        for end in self._resting:
            if not end.done():
                end.set_result(None)

    def _let_through(self) -> None:
        """Let calls try if it is time, and schedule the next check."""
        self._stop_timer()
        now = time.monotonic()
        if now >= self._due and (count := self._take(1 if self._failed_since else max(1, self._trials))):
            if self._failed_since:
                self._pause = min(2 * self._pause, LONGEST_PAUSE)
            self._failed_since, self._due = False, now + self._pause
            self._trials += count
        if self._waiting:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, self._due - now), self._let_through)

    def _take(self, most: int) -> int:
        """Let up to this many waiting calls try; return how many there were."""
        count = 0
        while count < most and self._waiting:
            one = heapq.heappop(self._waiting)
            if not one.turn.done():  # otherwise it has gone
                one.turn.set_result(True)
                count += 1
        return count

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


_arrivals = itertools.count()


@dataclass(order=True, slots=True)
class _Waiting:
    """A call that waits for its turn."""

    tried: int
    """How many trials it has made."""
    request: int
    """The number of its request."""
    arrival: int
    turn: asyncio.Future[bool] = field(compare=False)
    """Whether it is a trial, once released."""
