"""A row that decodes alone lets others join, and its time is reported in full."""

from __future__ import annotations

import asyncio
import time

from rsd_core import Path, StepRequest, as_prompt
from rsd_integrations.llamacpp import load_generator
from tests.llamacpp.gguf_files import embedded, smollm2

QUESTION = "Explain why bread rises, and what the yeast does in it."


def test_a_call_joins_one_that_decodes_alone() -> None:
    model = load_generator(str(smollm2()))

    async def both() -> bool:
        request = StepRequest((0,), max_tokens=300, delimiter=None)
        long = asyncio.create_task(model.generate(Path(as_prompt(QUESTION)), request))
        while not model.runner.passes:  # noqa: ASYNC110 - the engine has no event for it
            await asyncio.sleep(0.01)
        await model.generate(Path(as_prompt("Hello.")), StepRequest((0,), max_tokens=1))
        first = not long.done()
        long.cancel()
        await asyncio.gather(long, return_exceptions=True)
        return first

    assert asyncio.run(both())


def test_the_seconds_of_a_call_are_those_of_its_passes() -> None:
    model = load_generator(str(embedded("target")))
    path = Path(as_prompt(" ".join([QUESTION] * 8)))
    for tokens in (1, 60):  # reading a prompt in one pass, and decoding alone
        began = time.perf_counter()
        usage = asyncio.run(model.generate(path, StepRequest((0,), max_tokens=tokens, delimiter=None))).usage
        elapsed = time.perf_counter() - began
        assert elapsed / 4 < usage.seconds <= elapsed
