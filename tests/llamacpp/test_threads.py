"""The number of threads of a GGUF model: llama.cpp threads without their own core hold up all others."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from rsd_core import ConfigurationError
from rsd_integrations.inprocess import cores
from rsd_integrations.llamacpp import loading
from rsd_integrations.llamacpp.header import read_header
from rsd_integrations.llamacpp.loading import Options, choose_threads
from tests.llamacpp.gguf_files import gemma, smollm2

LARGE: Any = SimpleNamespace(flops_per_token=2 * 7e9)


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    cores.free_cores.cache_clear()
    yield
    cores.free_cores.cache_clear()


def test_small_models_have_one() -> None:
    assert [choose_threads(read_header(file), Options()) for file in (smollm2(), gemma())] == [1, 1]


@pytest.mark.parametrize(("load", "threads"), [(0.2, 8), (1.1, 7), (7.6, 1), (40.0, 1)])
def test_large_models_have_the_free_cores(load: float, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 9.0, 9.0))
    assert choose_threads(LARGE, Options()) == threads
    monkeypatch.setattr(os, "getloadavg", lambda: (3.0, 9.0, 9.0))
    assert choose_threads(LARGE, Options()) == threads  # as the first one that was loaded


def test_more_than_there_are_cores_is_refused() -> None:
    assert choose_threads(LARGE, Options(threads=8)) == 8
    for count in (0, 9, -1):
        with pytest.raises(ConfigurationError, match=f"threads={count} is not between 1 and 8"):
            choose_threads(LARGE, Options(threads=count))


@pytest.mark.parametrize(("said", "count"), [("3", 3), ("4,2", 4), ("", None), ("all", None), ("0", None)])
def test_the_cores_are_those_that_the_environment_allows(
    said: str, count: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert cores.usable_cores() == (count or len(os.sched_getaffinity(0)))


def test_models_that_are_loaded_alike_share_their_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "ONE_THREAD_FLOPS", 0.0)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    first = loading.load(str(smollm2()), Options())
    monkeypatch.setattr(os, "getloadavg", lambda: (5.0, 0.0, 0.0))
    assert loading.load(str(smollm2()), Options()).runner is first.runner
