"""A cache shorter than the model's training context causes a warning."""

from __future__ import annotations

import logging

import pytest

from rsd_integrations.llamacpp import load_generator
from rsd_integrations.llamacpp.header import read_header
from tests.llamacpp.gguf_files import smollm2


def test_a_context_that_the_cache_cuts_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    token = read_header(smollm2()).cache_bytes()
    model = load_generator(str(smollm2()), cache_bytes=1024 * token)
    assert model.context == 1024
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert (
        "limited to sequences of 1024 tokens here, of the 8192 it was trained for, by the size of the cache"
        in warning.getMessage()
    )
    caplog.clear()
    load_generator(str(smollm2()), cache_bytes=1024 * token, context=512)  # as it was asked for
    load_generator(str(smollm2()))
    assert not caplog.records
