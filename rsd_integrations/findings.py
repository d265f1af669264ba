"""What `rsd doctor` finds out about a model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried."""

    name: str
    ok: bool | None
    """None if it is missing but not needed."""
    told: str
    """The outcome, or why it failed."""
