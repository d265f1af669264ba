"""A reward function that fails ends its own call, and the model goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rsd_core import Path, StepRequest, as_prompt, load
from rsd_integrations.inprocess.engine import run
from rsd_integrations.inprocess.score_call import ScoreCall
from rsd_integrations.prm_formats import Layout
from tests.llamacpp import gguf_files


def test_rewards_that_fail_end_their_call_alone() -> None:
    model: Any = load(f"gguf:{gguf_files.embedded('draft')}")
    path = Path(as_prompt("Mia has 45 apples."))
    ids, prompt = model.vocabulary.ids(path)

    def fails(_: object) -> list[float]:
        raise ValueError("no such head")

    call = ScoreCall(path, model.runner.cache, ids, prompt, [Layout((7, 8), read=(1,))], fails)

    async def both() -> int:
        with pytest.raises(ValueError, match="no such head"):
            await asyncio.wait_for(run(model.runner, call), 20)
        return len((await model.generate(path, StepRequest((0,), 5))).steps)

    assert asyncio.run(both()) == 1
