"""Which models of a decoder ever worked: one that never does is told once, and not only in logs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from rsd_core.errors import RoleWarning
from rsd_core.ledger import Role

FIRST_CALLS = 8
"""A role that failed at as many calls, its first ones, is taken to be broken."""


class Health:
    """Counts the first calls of each role; all requests of a decoder share it.

    Args:
        consequence: What it means for answers when a role does not work.
    """

    def __init__(self, consequence: Mapping[Role, str]) -> None:
        self._consequence = consequence
        self._failed: dict[Role, int] = {"drafter": 0, "verifier": 0, "target": 0}
        """Of the roles that have not worked yet and were not told of."""

    def worked(self, role: Role) -> None:
        """A call gave what it should."""
        if role in self._failed:
            self._failed.pop(role, None)

    def failed(self, role: Role, error: Exception) -> None:
        """A call failed; warns where none before it was any better."""
        if role not in self._failed:
            return
        self._failed[role] += 1
        if self._failed[role] == FIRST_CALLS:
            del self._failed[role]
            then = self._consequence.get(role, "no answer can be written")
            message = f"the {role} has failed {FIRST_CALLS} times of {FIRST_CALLS}: {error}; {then}"
            warnings.warn(message, RoleWarning, stacklevel=2)
