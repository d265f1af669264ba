"""Displays a run in a notebook and in a browser. Needs only the core.

In a notebook, `show(result)` as the last line of a cell, or `%load_ext rsd_integrations.display` once for all results.
"""

from rsd_integrations.display.notebook import Shown, load_ipython_extension, show
from rsd_integrations.display.page import to_html
from rsd_integrations.display.reading import Reading, read

__all__ = ["Reading", "Shown", "load_ipython_extension", "read", "show", "to_html"]
