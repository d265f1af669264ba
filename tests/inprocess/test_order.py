"""Calls that wait for an engine are served by the age of their request."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rsd_core import Path, StepRequest, as_prompt, load
from rsd_core.queueing import CALLER, Caller
from rsd_integrations.inprocess import runner
from tests.llamacpp import gguf_files


@pytest.mark.parametrize("engine", ["gguf", "embedded"])
def test_prompts_are_read_in_the_order_of_their_requests(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "PREFILL_CHUNK", 40)
    model: Any = load(f"gguf:{gguf_files.embedded('target')}" if engine == "gguf" else "embedded:target")
    read: list[int] = []

    async def ask(number: int) -> None:
        CALLER.set(Caller(number))
        path = Path(as_prompt(f"{engine} {number}: " + "Mia has 45 apples. Then she buys 12 more. " * 3))
        await model.generate(path, StepRequest((0,), 1))
        read.append(number)

    async def all_at_once() -> None:
        await asyncio.gather(*(asyncio.create_task(ask(number)) for number in range(12, 0, -1)))

    asyncio.run(all_at_once())
    # Younger ones were asked first, and some of them were begun before the older ones were there.
    assert sorted(read[-6:]) == read[-6:]
    assert read.index(1) < 6 < read[-1]
