"""Which models of a decoder have ever worked: one that never does causes one warning, not only log lines."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from rsd_core.control_characters import visible
from rsd_core.errors import RoleWarning, may_pass
from rsd_core.interfaces import Verifier
from rsd_core.ledger import Role

FIRST_CALLS = 8
"""A role that fails at this many first calls is taken to be broken; one failure suffices if retrying cannot help."""


class Health:
    """Counts the first failed calls of each role; shared by all requests of a decoder.

    Args:
        consequence: What happens to the answers if a role does not work.
    """

    def __init__(self, consequence: Mapping[Role, str]) -> None:
        self._consequence = consequence
        self.unproven: dict[Role, int] = {"drafter": 0, "verifier": 0, "target": 0}
        """Failed calls of the roles that have not worked yet and were not reported."""
        self.silent: int | None = 0
        """Calls at which the verifier abstained from all; None after its first reward, or once that was reported."""
        self._notices: list[str] = []

    def worked(self, role: Role) -> None:
        """A call succeeded."""
        self.unproven.pop(role, None)

    def failed(self, role: Role, error: Exception) -> None:
        """A call failed; noted if none before it succeeded."""
        if role not in self.unproven:
            return
        self.unproven[role] += 1
        failed = self.unproven[role]
        if failed == FIRST_CALLS or (role != "target" and not may_pass(error)):  # a target's error is raised
            del self.unproven[role]
            then = self._consequence.get(role, "no answer can be written")
            why = visible("; ".join([str(error), *getattr(error, "__notes__", ())]))
            often = f"at its first {failed} calls" if failed > 1 else "at its first call"
            self._notices.append(f"the {role} has failed {often}: {why}; {then}")

    def scored(self, verifier: Verifier, *, rewarded: bool) -> None:
        """A verifier answered; noted if it gave no reward at any of its first calls, unless it may abstain."""
        self.silent = None if rewarded or verifier.may_abstain or self.silent is None else self.silent + 1
        if self.silent == FIRST_CALLS:
            self.silent = None
            told = f"the verifier {visible(verifier.name)} gave no reward at any of its first {FIRST_CALLS} calls"
            self._notices.append(f"{told}: it abstains, so that rewards decide nothing")

    def warn(self) -> None:
        """Issue the noted warnings; separate, since a warning turned into an error is not a role's fault."""
        while self._notices:
            warnings.warn(self._notices.pop(), RoleWarning, stacklevel=2)
