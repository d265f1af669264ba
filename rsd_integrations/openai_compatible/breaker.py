"""A circuit breaker: when a server that keeps failing is left alone."""

from __future__ import annotations

import logging
import time

logger = logging.getLogger(__name__)


class Breaker:
    """Opens after some faults in a row: nothing is sent for a while, then one call tries (half-open).

    Its one caller is the background loop that all requests are sent from, so it needs no lock.

    Args:
        name: Whose it is, for the log.
        faults: Faults in a row that open it.
        cooldown: Seconds that it stays open after a fault.
    """

    def __init__(self, name: str, faults: int = 5, cooldown: float = 5.0) -> None:
        self.name, self.limit, self.cooldown = name, faults, cooldown
        self.last = ""
        """The last fault."""
        self._faults = 0
        self._until = 0.0

    def open_for(self) -> float:
        """Seconds until a call may be sent. At 0 the caller sends one, and says how it went."""
        now = time.monotonic()
        if self._faults < self.limit:
            return 0.0
        if now < self._until:
            return self._until - now
        self._until = now + self.cooldown  # one call tries; the others wait for its outcome
        return 0.0

    def succeeded(self) -> None:
        """The server answered, be it with a refusal."""
        if self._faults >= self.limit:
            logger.warning("%s answers again: its breaker closes", self.name)
        self._faults = 0

    def failed(self, fault: str) -> None:
        """The server failed."""
        self._faults += 1
        self._until = time.monotonic() + self.cooldown
        self.last = fault
        if self._faults == self.limit:
            logger.warning(
                "%s failed %d times in a row: its breaker opens, and calls fail at once for %g s; the last fault: %s",
                self.name,
                self._faults,
                self.cooldown,
                fault,
            )
