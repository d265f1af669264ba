"""Batches arrive as single calls, which are part of one run with LangChain's concurrency."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig, RunnableLambda

from rsd_core import Generation, Path, StepRequest, TargetOnly
from rsd_core.queueing import Caller, current_caller
from rsd_core.testing import ScriptedTarget
from rsd_integrations.langchain import RSDLLM, ChatRSD, RSDRunnable

ALL = [ChatRSD, RSDLLM, RSDRunnable]
SEVEN: RunnableConfig = {"max_concurrency": 7}


class Noting(ScriptedTarget):
    """Notes whose calls it gets, by prompt."""

    def __init__(self) -> None:
        super().__init__(["It is 4."])
        self.callers: dict[str, Caller] = {}

    async def generate(self, path: Path, request: StepRequest) -> Generation:
        self.callers[path.prompt[-1].content] = current_caller()
        return await super().generate(path, request)


def over(kind: Any) -> tuple[Noting, Any]:
    target = Noting()
    return target, kind(decoder=TargetOnly(target=target))


def inside(model: Any) -> Any:
    """A chain of whose batch the model hears in single calls."""
    return RunnableLambda(lambda text: model.invoke(text), afunc=lambda text: model.ainvoke(text))


WAYS: dict[str, Callable[[Any, list[str], RunnableConfig], Any]] = {
    "batch": lambda model, texts, config: model.batch(texts, config),
    "abatch": lambda model, texts, config: asyncio.run(model.abatch(texts, config)),
    "as completed": lambda model, texts, config: list(model.batch_as_completed(texts, config)),
    "invoke": lambda model, texts, config: [model.invoke(text, config) for text in texts],
    "ainvoke": lambda model, texts, config: [asyncio.run(model.ainvoke(text, config)) for text in texts],
    "a chain's batch": lambda model, texts, config: inside(model).batch(texts, config),
    "a chain's abatch": lambda model, texts, config: asyncio.run(inside(model).abatch(texts, config)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ALL)
def test_requests_are_part_of_a_run_as_wide_as_was_told(kind: Any, way: str) -> None:
    target, model = over(kind)
    texts = [f"question {i}" for i in range(9)]
    WAYS[way](model, texts, SEVEN)
    assert {caller.concurrency for caller in target.callers.values()} == {7}
    assert len({caller.number for caller in target.callers.values()}) == 9


@pytest.mark.parametrize("kind", ALL)
def test_those_of_a_batch_are_as_old_as_their_place_in_it(kind: Any) -> None:
    target, model = over(kind)
    texts = [f"question {i}" for i in range(9)]
    model.batch(texts, {"max_concurrency": 1})
    numbers = [target.callers[text].number for text in texts]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("kind", ALL)
def test_a_batch_by_itself_is_as_wide_as_it_is_long(kind: Any) -> None:
    target, model = over(kind)
    for answer in (model.batch, lambda texts: asyncio.run(model.abatch(texts))):
        answer(["a", "b", "c"])
        assert {caller.concurrency for caller in target.callers.values()} == {3}
        target.callers.clear()


@pytest.mark.parametrize("kind", ALL)
def test_a_lone_call_is_of_no_run(kind: Any) -> None:
    target, model = over(kind)
    model.invoke("a")
    asyncio.run(model.ainvoke("b"))
    list(model.stream("c"))
    assert [caller.concurrency for caller in target.callers.values()] == [None] * 3
