"""Measures time: wall-clock, and in the forward passes of models."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from rsd_integrations.inprocess.engine import engine_of
from rsd_integrations.inprocess.runner import Runner, ScheduledRow


def timed(runners: list[Runner]) -> list[float]:
    """Add up the time of some runners' forward passes, in the only element of the list."""
    spent = [0.0]

    def watch(forward: Callable[[list[ScheduledRow]], Any]) -> Callable[[list[ScheduledRow]], Any]:
        def run(scheduled: list[ScheduledRow]) -> Any:
            started = time.perf_counter()
            try:
                return forward(scheduled)
            finally:
                spent[0] += time.perf_counter() - started

        return run

    for runner in runners:
        runner._forward = watch(runner._forward)  # type: ignore[method-assign,assignment]
    return spent


@contextmanager
def one_at_a_time(device: torch.device) -> Iterator[None]:
    """Run no two models at once, so that the time of forward passes can be compared with wall-clock time."""
    engine = engine_of(device)
    threads, engine._threads, engine._free_threads = engine._threads, 1, 1
    yield
    engine._threads = engine._free_threads = threads


def seconds(work: Callable[[], Any]) -> float:
    """Return how long a call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
