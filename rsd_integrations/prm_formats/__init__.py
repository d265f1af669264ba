"""The input formats of open reward models and the positions of their scores, as data and pure functions.

A format is independent of where a model runs; `rsd_integrations.huggingface` and server verifiers share it.
"""

from rsd_integrations.prm_formats.binding import bind
from rsd_integrations.prm_formats.described import as_data, from_data, read_format
from rsd_integrations.prm_formats.formats import Chat, Head, PRMFormat, Text, Turns, Words
from rsd_integrations.prm_formats.generative import CRITICS, Critic
from rsd_integrations.prm_formats.heads import check_widths, find_head, fits, separate_files, tensor_name
from rsd_integrations.prm_formats.known import (
    CONFIG_KEY,
    FORMATS,
    FormatName,
    check_format,
    find_format,
    published_format,
    usable,
)
from rsd_integrations.prm_formats.layouts import Layout, Tokenizer, problem
from rsd_integrations.prm_formats.readers import Reader
from rsd_integrations.prm_formats.sequences import Layouts
from rsd_integrations.prm_formats.shown import Shown, plain_step, shown, shown_response, shown_steps, without_markers

__all__ = [
    "CONFIG_KEY",
    "CRITICS",
    "FORMATS",
    "Chat",
    "Critic",
    "FormatName",
    "Head",
    "Layout",
    "Layouts",
    "PRMFormat",
    "Reader",
    "Shown",
    "Text",
    "Tokenizer",
    "Turns",
    "Words",
    "as_data",
    "bind",
    "check_format",
    "check_widths",
    "find_format",
    "find_head",
    "fits",
    "from_data",
    "plain_step",
    "problem",
    "published_format",
    "read_format",
    "separate_files",
    "shown",
    "shown_response",
    "shown_steps",
    "tensor_name",
    "usable",
    "without_markers",
]
