"""Which run a call belongs to: whose turn it is among others, and whose children the calls of inner models are."""

from __future__ import annotations

import uuid
from contextlib import AbstractContextManager
from contextvars import ContextVar

from langchain_core.callbacks import BaseCallbackManager, CallbackManager
from langchain_core.callbacks.manager import BaseRunManager
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config

from rsd_core.queueing import side_by_side

_CHILDREN: ContextVar[BaseCallbackManager | None] = ContextVar("rsd_children", default=None)


def run_of(config: RunnableConfig | None) -> AbstractContextManager[None]:
    """Make requests that begin inside part of a run of `max_concurrency` at once, where that is given here or above.

    Batches arrive as single calls, whose configurations say how wide they are.
    """
    return side_by_side(ensure_config(config).get("max_concurrency"))


def told_before(config: RunnableConfig | None) -> RunnableConfig:
    """A call's configuration with its run's id, so that the next `children` in this context knows its run.

    LangChain hands no run to what streams (langchain-core 1.8.3, `BaseChatModel.stream`).
    """
    config = ensure_config(config)
    run_id = config.get("run_id") or uuid.uuid4()
    # The very handlers that see the run: tracers know the runs that they saw begin.
    around = CallbackManager.configure(config.get("callbacks"))
    children = around.copy()
    children.parent_run_id = run_id
    children.add_tags(config.get("tags") or [])
    children.add_metadata(config.get("metadata") or {})
    _CHILDREN.set(children)
    return RunnableConfig(**{**config, "callbacks": around, "run_id": run_id})


def children(run: BaseRunManager | None) -> BaseCallbackManager | None:
    """The callbacks of a run's children; without a run those of the call that was told before, once."""
    told = _CHILDREN.get()
    _CHILDREN.set(None)
    if run is None:
        return told
    manager = CallbackManager(handlers=[], parent_run_id=run.run_id)
    manager.set_handlers(run.inheritable_handlers)
    manager.add_tags(run.inheritable_tags)
    manager.add_metadata(run.inheritable_metadata)
    return manager
