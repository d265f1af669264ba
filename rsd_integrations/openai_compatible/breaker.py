"""A circuit breaker that calls wait at: while a server is away, one call tries now and then, and the others wait."""

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
"""Seconds from the opening to the first trial, and at most between two; they double in between."""


class Breaker:
    """Opens after some faults in a row. Calls wait then, until one of those that try gets an answer.

    Which of the waiting calls tries: one of those that have tried least, of these the one of the oldest request. So a
    request that fails by itself leaves the next trial to another one. Where a trial gets neither answer nor fault, the
    server is at work on it, and more calls may try: twice as many each time.

    A request that fails by itself does not open it while others are under way: only faults of as many different
    requests do, or of any where nobody else is asking.

    Its callers are on the one background loop that all requests are sent from, so it needs no lock.

    Args:
        name: Whose it is, for the log.
        faults: Faults in a row that open it.
    """

    def __init__(self, name: str, faults: int = 5) -> None:
        self.name, self.limit = name, faults
        self.since: float | None = None
        """When it opened, by the monotonic clock; None while it is closed."""
        self.last: EndpointError | None = None
        """The last fault."""
        self.first_trial = FIRST_TRIAL
        self._faults = 0
        self._failing: set[int] = set()
        """The requests that failed since the last answer."""
        self._asked = 0
        """How often the server has asked to be spared since then."""
        self._under_way = self._trials = 0
        self._pause = self._due = 0.0
        self._failed_since = False
        """Whether a trial has failed since calls were let through last."""
        self._waiting: list[_Waiting] = []
        self._resting: set[asyncio.Future[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        """Whether calls wait."""
        return self.since is not None

    @property
    def fails_all(self) -> bool:
        """Whether it is open since so many different requests failed that it was no matter of theirs."""
        return self.is_open and len(self._failing) >= self.limit

    async def turn(self, request: int, tried: int, until: float) -> bool:
        """Wait until a call may be sent, where it has to.

        Args:
            request: The number of the request that it is part of.
            tried: How often it has tried the server out.
            until: How long it may wait, by the monotonic clock.

        Returns:
            Whether it is sent to try the server out; `tried` is then to be called once it is over.

        Raises:
            TimeoutError: It may not wait so long; at once where nothing can come of it.
        """
        if not self.is_open:
            return False
        one = _Waiting(tried, request, next(_arrivals), asyncio.get_running_loop().create_future())
        heapq.heappush(self._waiting, one)
        self._let_through()
        now = time.monotonic()
        try:
            if not one.turn.done() and self._due > max(until, now + LONGEST_PAUSE):  # by the server's own word
                raise TimeoutError
            async with asyncio.timeout(max(0.0, until - now)):
                return await one.turn
        except BaseException:
            if one.turn.done() and not one.turn.cancelled() and one.turn.result():
                self.tried()  # it was let through just now
            one.turn.cancel()
            raise

    async def rest(self, seconds: float) -> None:
        """Wait, but no longer than until the breaker opens or closes."""
        end = asyncio.get_running_loop().create_future()
        self._resting.add(end)
        try:
            await asyncio.wait([end], timeout=seconds)
        finally:
            self._resting.discard(end)

    def begun(self) -> float:
        """A call is sent: when, by the monotonic clock."""
        self._under_way += 1
        return time.monotonic()

    def over(self) -> None:
        """A call that was sent is over."""
        self._under_way -= 1

    def tried(self) -> None:
        """A call that tried the server out is over, whatever came of it."""
        self._trials -= 1

    def succeeded(self, sent: float) -> None:
        """The server answered, be it with a refusal.

        Args:
            sent: When the call was sent. Of those from before an outage some are still answered by a server that goes.
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
        """The server failed, or asked to be spared for some time.

        Args:
            fault: What happened; one that tells no time while the server is only busy is none.
            request: The number of the request that the call is part of.
            trial: Whether the call was to try the server out.
        """
        self.last = fault
        self._failed_since |= trial
        if fault.retry_after is not None:
            self._asked += 1
            if self.is_open:
                self._due = max(self._due, time.monotonic() + fault.retry_after)
            elif self._asked >= self.limit:
                self._open(fault.retry_after)
                logger.info("%s asks to be spared for %.3g s: calls wait; %s", self.name, fault.retry_after, fault)
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
        """Let all who wait go on, those of older requests first."""
        waiting, self._waiting = self._waiting, []
        for one in sorted(waiting, key=lambda one: (one.request, one.arrival)):
            if not one.turn.done():
                one.turn.set_result(False)
        self._end_rests()
        self._stop_timer()

    def forget(self) -> None:
        """Begin anew in a forked child: the calls that wait are its parent's."""
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
        """Let calls try where it is time, and see to it that this is done again."""
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
        """Let so many of those who wait try; how many there were."""
        count = 0
        while count < most and self._waiting:
            one = heapq.heappop(self._waiting)
            if not one.turn.done():  # else it went away
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
    """How often it has tried the server out."""
    request: int
    """The number of its request."""
    arrival: int
    turn: asyncio.Future[bool] = field(compare=False)
    """Whether it tries the server out, once it may go on."""
