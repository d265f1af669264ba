"""A small run of random work; `python -m tests.benchmarks.gguf_soak` does the same at length."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsd_integrations.llamacpp import load_generator, load_likelihood, loading
from rsd_integrations.llamacpp.header import read_header
from tests.llamacpp.gguf_files import embedded, windowed
from tests.llamacpp.soak import KINDS, Soak


def soak_of(file: Path, cells: int, context: int = 256) -> Soak:
    """A soak of a file's model with room for a number of tokens."""
    options = {"cache_bytes": cells * read_header(file).cache_bytes(), "context": context}
    return Soak(load_generator(str(file), **options), load_likelihood(str(file), **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("file", [lambda: embedded("draft"), windowed], ids=["draft", "windows"])
def test_random_work_leaves_what_a_fresh_computation_gives(file: object) -> None:
    soak = soak_of(file(), cells=512)  # type: ignore[operator]
    assert soak.run(400) > 0
    assert set(soak.done) == set(KINDS)
    assert soak.evicted > 5
    assert sum(soak.cut_short.values()) > 5


def test_random_work_while_the_cache_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "FIRST_CELLS", 256)
    soak = soak_of(embedded("draft"), cells=8192, context=512)
    assert soak.run(150, seed=1, loops=3) > 0
    assert soak.grown > 0
    assert soak.evicted == 0
