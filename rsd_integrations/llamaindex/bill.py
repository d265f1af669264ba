"""The total cost of several `RSDLLM` requests, made by an agent's run, a query or a block of code."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rsd_core import Ledger, Result, RunError

_OPEN: ContextVar[tuple[Bill, ...]] = ContextVar("rsd_bills", default=())


class Bill:
    """A sum over requests."""

    def __init__(self) -> None:
        self.requests = 0
        """Number of finished requests, including failed ones."""
        self.ledger = Ledger()
        """Tokens, calls, FLOPs and money by role, such as `ledger.target.generated` and `ledger.total.cost`."""
        self._lock = threading.Lock()

    def add(self, result: Result) -> None:
        """Add the cost of a request."""
        with self._lock:
            self.requests += 1
            for role in ("drafter", "verifier", "target"):
                self.ledger.account(role).add(result.ledger.account(role))


@contextmanager
def rsd_bill() -> Iterator[Bill]:
    """Sum the cost of all `RSDLLM` requests begun within the block, including those in tasks that it starts.

    Example:
        ```python
        from rsd_integrations.llamaindex import RSDLLM, rsd_bill

        llm = RSDLLM(draft="scripted:draft", target="scripted:target", verifier="scripted:verifier")
        with rsd_bill() as bill:
            llm.complete("How many are free?")
            llm.complete("And then?")
        assert bill.requests == 2 and bill.ledger.total.read > 0
        ```
    """
    bill = Bill()
    token = _OPEN.set((*_OPEN.get(), bill))
    try:
        yield bill
    finally:
        _OPEN.reset(token)


def open_bills() -> tuple[Bill, ...]:
    """The open bills for a request begun here."""
    return _OPEN.get()


@contextmanager
def errors_are_charged(bills: tuple[Bill, ...]) -> Iterator[None]:
    """Add failed requests to the bills."""
    try:
        yield
    except RunError as error:
        if error.partial is not None:
            for bill in bills:
                bill.add(error.partial)
        raise
