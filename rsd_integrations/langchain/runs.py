"""Which run a call belongs to: batches arrive as single calls, whose configurations say how wide they are."""

from __future__ import annotations

from contextlib import AbstractContextManager

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config

from rsd_core.queueing import side_by_side


def run_of(config: RunnableConfig | None) -> AbstractContextManager[None]:
    """Make requests that begin inside part of a run of `max_concurrency` at once, where that is given here or above."""
    return side_by_side(ensure_config(config).get("max_concurrency"))
