"""What `rsd doctor` finds of a model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried."""

    name: str
    ok: bool | None
    """None for what is missing, and can be done without."""
    told: str
    """What it showed, or why it failed."""
