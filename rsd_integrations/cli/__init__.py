"""The `rsd` command."""

from rsd_integrations.cli.app import main

__all__ = ["main"]
