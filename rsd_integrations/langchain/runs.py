"""The run that a call belongs to: its priority, the parent of inner models' calls, and their configuration."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from langchain_core.callbacks import BaseCallbackManager, CallbackManager
from langchain_core.callbacks.manager import BaseRunManager
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config

from rsd_core.queueing import side_by_side

_CHILDREN: ContextVar[BaseCallbackManager | None] = ContextVar("rsd_children", default=None)
_CONFIGURABLE: ContextVar[dict[str, Any] | None] = ContextVar("rsd_configurable", default=None)


@contextmanager
def run_of(config: RunnableConfig | None) -> Iterator[None]:
    """Make requests that begin inside part of a run with `max_concurrency`, if that is given here or above.

    Batches arrive as single calls, with the concurrency in their configurations.
    """
    config = ensure_config(config)
    token = _CONFIGURABLE.set(config.get("configurable"))
    try:
        with side_by_side(config.get("max_concurrency")):
            yield
    finally:
        _CONFIGURABLE.reset(token)


def configure(config: RunnableConfig | None) -> None:
    """Keep a call's configuration for the next `configured` in this context: LangChain does not pass it to models."""
    _CONFIGURABLE.set(ensure_config(config).get("configurable"))


def configured(*, once: bool = True) -> dict[str, Any]:
    """The configuration for a call's models: the one kept, else that of the context.

    Args:
        once: Whether to consume it.
    """
    told = _CONFIGURABLE.get()
    if once:
        _CONFIGURABLE.set(None)
    return told or ensure_config().get("configurable") or {}


def told_before(config: RunnableConfig | None) -> RunnableConfig:
    """A call's configuration with its run's id, so that the next `children` in this context knows its run.

    LangChain does not pass the run to streaming methods (langchain-core 1.8.3, `BaseChatModel.stream`).
    """
    config = ensure_config(config)
    run_id = config.get("run_id") or uuid.uuid4()
    # Use the same handlers that saw the run begin: tracers only know those runs.
    around = CallbackManager.configure(config.get("callbacks"))
    children = around.copy()
    children.parent_run_id = run_id
    children.add_tags(config.get("tags") or [])
    children.add_metadata(config.get("metadata") or {})
    _CHILDREN.set(children)
    return RunnableConfig(**{**config, "callbacks": around, "run_id": run_id})


def children(run: BaseRunManager | None) -> BaseCallbackManager | None:
    """The callbacks for a run's children; without a run, those noted by `told_before`, once."""
    told = _CHILDREN.get()
    _CHILDREN.set(None)
    if run is None:
        return told
    manager = CallbackManager(handlers=[], parent_run_id=run.run_id)
    manager.set_handlers(run.inheritable_handlers)
    manager.add_tags(run.inheritable_tags)
    manager.add_metadata(run.inheritable_metadata)
    return manager
