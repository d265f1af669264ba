"""`python -m rsd_integrations.cli` is the `rsd` command."""

from rsd_integrations.cli import main

main()
