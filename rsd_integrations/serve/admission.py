"""Admission control: a bounded queue for a fixed number of slots, oldest first."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from rsd_core import Cancellation
from rsd_integrations.serve.errors import ApiError, ending

SHORTEST, LONGEST = 1, 60
"""Minimum and maximum seconds that clients are told to wait."""


class NoPlaceError(ApiError):
    """An answer that stops waiting: its client went away, or the server is shutting down."""

    def __init__(self) -> None:
        told = ending()
        super().__init__(told.status, told.message, told.kind, code=told.code, headers=told.headers)


class Admission:
    """Slots for decoding answers, and the queue for them. It belongs to one event loop.

    Args:
        places: Answers decoded at once.
        queue: Answers that may wait.
    """

    def __init__(self, places: int, queue: int) -> None:
        self.places, self.queue = places, queue
        self.waiting = 0
        """Admitted answers without a slot."""
        self.in_flight = 0
        """Answers being decoded."""
        self.draining = False
        """Whether admission is closed."""
        self._line: deque[asyncio.Future[bool]] = deque()
        """The waiters, oldest first; their futures tell whether they got a slot."""
        self._seconds: float | None = None
        """How long answers take, weighted towards recent ones."""

    def enter(self, answers: int) -> None:
        """Admit a request for this many answers, each of which then takes a `place` or calls `left`.

        Raises:
            ApiError: The queue is full, or the server is shutting down.
        """
        if self.draining:
            raise ending()
        if answers > self.places + self.queue:
            raise ApiError(
                400,
                f"{answers} answers in one request exceed this server's slots and queue together ({self.places} + "
                f"{self.queue}); request fewer",
                code="invalid_value",
            )
        over = self.in_flight + self.waiting + answers - self.places - self.queue
        if over > 0:
            turns = over / self.places * (self._seconds or 0.0)
            raise ApiError(
                429,
                f"{self.waiting} answers are already waiting, of at most {self.queue}; retry later",
                "rate_limit_error",
                code="queue_full",
                headers={"retry-after": str(min(LONGEST, max(SHORTEST, math.ceil(turns))))},
            )
        self.waiting += answers

    def left(self, answers: int) -> None:
        """This many admitted answers will not take a slot."""
        self.waiting -= answers

    @asynccontextmanager
    async def place(self, cancel: Cancellation) -> AsyncGenerator[None, None]:
        """A slot for one admitted answer.

        Args:
            cancel: Ends the wait.

        Raises:
            NoPlaceError: The wait was ended.
        """
        try:
            has_place = await self._wait(cancel)
        finally:
            self.waiting -= 1
        if not has_place:
            raise NoPlaceError
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            yield
        finally:
            seconds = loop.time() - began
            self._seconds = seconds if self._seconds is None else 0.9 * self._seconds + 0.1 * seconds
            self._hand_on()

    async def _wait(self, cancel: Cancellation) -> bool:
        if self.in_flight < self.places:  # then nobody waits: a released slot is handed on
            self.in_flight += 1
            return True
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def give_up() -> None:
            if not turn.done():
                turn.set_result(False)
                self._line.remove(turn)

        self._line.append(turn)
        cancel.subscribe(give_up)
        if cancel.cancelled:  # before the listener was added
            give_up()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():
                self._hand_on()
            elif turn in self._line:
                self._line.remove(turn)
            raise
        finally:
            cancel.unsubscribe(give_up)

    def _hand_on(self) -> None:
        while self._line:
            turn = self._line.popleft()
            if not turn.done():
                turn.set_result(True)
                return
        self.in_flight -= 1
