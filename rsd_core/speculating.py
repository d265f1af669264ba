"""Refuses speculation settings that cannot work, before any model is loaded."""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from importlib import import_module

from rsd_core.interfaces import DRAFTER, Speculation


def check_speculation(speculation: Speculation) -> Speculation:
    """Check what can be checked without the models, if the package of proposers and rules is installed.

    Returns:
        The same with proposer and rule as objects, if they were checked.

    Raises:
        ConfigurationError: An unknown proposer or rule, or drafts that are too short for the rule.
    """
    if (speculation.proposer, speculation.rule) != (DRAFTER, "exact"):
        with suppress(ModuleNotFoundError):  # the models need it too, and say so
            parsed: Speculation = import_module("rsd_integrations.speculation.parsing").parsed(speculation)
            return parsed
    return speculation


@lru_cache
def check_proposer(proposer: str) -> None:
    """The same for a proposer alone, once per text: settings are checked often, and a proposer may be a large table."""
    check_speculation(Speculation(proposer))
