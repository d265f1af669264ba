"""How open process reward models want their input and where their scores are read, as data and pure functions.

A format knows nothing of where a model runs; `rsd_integrations.huggingface` and server verifiers share it.
"""

from rsd_integrations.prm_formats.formats import FORMATS, PRMFormat, find_format

__all__ = ["FORMATS", "PRMFormat", "find_format"]
