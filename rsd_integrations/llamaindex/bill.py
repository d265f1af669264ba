"""What several requests cost together: all that an agent's run, a query or a block of a program had `RSDLLM` do."""

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
        """Requests that ended, failed ones included."""
        self.ledger = Ledger()
        """Tokens, calls, FLOPs and money by role, such as `ledger.target.generated` and `ledger.total.cost`."""
        self._lock = threading.Lock()

    def add(self, result: Result) -> None:
        """Add what a request cost."""
        with self._lock:
            self.requests += 1
            for role in ("drafter", "verifier", "target"):
                self.ledger.account(role).add(result.ledger.account(role))


@contextmanager
def rsd_bill() -> Iterator[Bill]:
    """Sum what all requests of `RSDLLM` cost that are begun within the block, in tasks that it starts as well.

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
    """The bills that a request begun here is on."""
    return _OPEN.get()


@contextmanager
def errors_are_charged(bills: tuple[Bill, ...]) -> Iterator[None]:
    """Put a request that fails on the bills."""
    try:
        yield
    except RunError as error:
        if error.partial is not None:
            for bill in bills:
                bill.add(error.partial)
        raise
