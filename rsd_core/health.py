"""Which models of a decoder ever worked: one that never does is told once, and not only in logs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from rsd_core.control_characters import visible
from rsd_core.errors import RoleWarning, may_pass
from rsd_core.ledger import Role

FIRST_CALLS = 8
"""A role that failed at as many calls, its first ones, is taken to be broken; at one, where that call never works."""


class Health:
    """Counts the first calls of each role; all requests of a decoder share it.

    Args:
        consequence: What it means for answers when a role does not work.
    """

    def __init__(self, consequence: Mapping[Role, str]) -> None:
        self._consequence = consequence
        self.unproven: dict[Role, int] = {"drafter": 0, "verifier": 0, "target": 0}
        """Failed calls of the roles that have not worked yet and were not told of."""
        self._notices: list[str] = []

    def worked(self, role: Role) -> None:
        """A call gave what it should."""
        self.unproven.pop(role, None)

    def failed(self, role: Role, error: Exception) -> None:
        """A call failed; noted where none before it was any better."""
        if role not in self.unproven:
            return
        self.unproven[role] += 1
        failed = self.unproven[role]
        if failed == FIRST_CALLS or (role != "target" and not may_pass(error)):  # a target's error is raised
            del self.unproven[role]
            then = self._consequence.get(role, "no answer can be written")
            why = visible("; ".join([str(error), *getattr(error, "__notes__", ())]))
            often = f"{failed} times of {failed}" if failed > 1 else "at its first call"
            self._notices.append(f"the {role} has failed {often}: {why}; {then}")

    def warn(self) -> None:
        """Warn of what was noted; apart, since a warning may be an error, which is no fault of a role."""
        while self._notices:
            warnings.warn(self._notices.pop(), RoleWarning, stacklevel=2)
