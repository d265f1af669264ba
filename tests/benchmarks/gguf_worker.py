"""One engine with its models, which works on command: `python gguf_worker.py`, a JSON list per line.

It also runs under builds of this library without GGUF files. `["load", name, spec]` loads a model; other lines name a
task and its arguments. The answer is a line with the cost and the result.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path as File
from typing import Any

from rsd_core import BinaryStep, Path, RewardGuidedDecoder, StepRequest, as_prompt, load

models: dict[str, Any] = {}


def decode(name: str, prompts: Sequence[str], tokens: int) -> dict[str, Any]:
    """Decode steps of a number of tokens without a delimiter, one after another, with prompts read in advance."""
    return asyncio.run(_decode(models[name], prompts, tokens, False))


def decode_together(name: str, prompts: Sequence[str], tokens: int) -> dict[str, Any]:
    """The same, concurrently."""
    return asyncio.run(_decode(models[name], prompts, tokens, True))


async def _decode(model: Any, prompts: Sequence[str], tokens: int, together: bool) -> dict[str, Any]:
    paths = [Path(as_prompt(prompt)) for prompt in prompts]
    for path in paths:
        await model.generate(path, StepRequest((0,), max_tokens=1, delimiter=None))
    request = StepRequest((0,), max_tokens=tokens, delimiter=None)
    began = time.process_time()
    calls = [model.generate(path, request) for path in paths]
    made = await asyncio.gather(*calls) if together else [await call for call in calls]
    seconds = time.process_time() - began
    steps = [one.steps[0] for one in made]
    return {"seconds": seconds, "tokens": sum(step.size for step in steps), "texts": [step.text for step in steps]}


def prefill(name: str, prompts: Sequence[str]) -> dict[str, Any]:
    """Read new prompts, one after another, for one token each."""
    model = models[name]

    async def read() -> tuple[float, int]:
        began, tokens = time.process_time(), 0
        for prompt in prompts:
            made = await model.generate(Path(as_prompt(prompt)), StepRequest((0,), max_tokens=1, delimiter=None))
            tokens += made.usage.computed
        return time.process_time() - began, tokens

    seconds, tokens = asyncio.run(read())
    return {"seconds": seconds, "tokens": tokens}


def solve(drafter: str, verifier: str, target: str, prompts: Sequence[str]) -> dict[str, Any]:
    """RSD, one problem after another."""
    decoder = RewardGuidedDecoder(
        drafter=models[drafter], verifier=models[verifier], target=models[target], policy=BinaryStep(delta=0.7)
    )
    began = time.process_time()
    results = [decoder.run(prompt) for prompt in prompts]
    return {"seconds": time.process_time() - began, "texts": [result.text for result in results]}


def bare_decode(name: str, prompts: Sequence[str], tokens: int) -> dict[str, Any]:
    """The same as `decode` with llama.cpp's own calls only: one sequence, the largest logit, no cache kept."""
    model, texts = models[name], []
    context, seconds, count = _context(model), 0.0, 0
    for prompt in prompts:
        ids, _ = model.vocabulary.ids(Path(as_prompt(prompt)))
        context.rollback(0, 0)
        assert context.decode([(0, 0, ids)], [len(ids) - 1])
        began = time.process_time()
        logits, written = context.logits(1)[0], list[int]()
        for position in range(len(ids), len(ids) + tokens):
            token = int(logits.argmax())
            written.append(token)
            if token in model.eos_ids or len(written) == tokens:
                break
            logits = context.decode_one(0, position, token)
        seconds += time.process_time() - began
        count += len(written)
        texts.append(model.vocabulary.text([id_ for id_ in written if id_ not in model.eos_ids]))
    return {"seconds": seconds, "tokens": count, "texts": texts}


def bare_prefill(name: str, prompts: Sequence[str]) -> dict[str, Any]:
    """The same as `prefill` with llama.cpp's own calls only."""
    model = models[name]
    context, seconds, tokens = _context(model), 0.0, 0
    for prompt in prompts:
        ids, _ = model.vocabulary.ids(Path(as_prompt(prompt)))
        context.rollback(0, 0)
        began = time.process_time()
        assert context.decode([(0, 0, ids)], [len(ids) - 1])
        int(context.logits(1)[0].argmax())
        seconds += time.process_time() - began
        tokens += len(ids)
    return {"seconds": seconds, "tokens": tokens}


def _context(model: Any) -> Any:
    from rsd_integrations.llamacpp.context import Context

    return Context(model.runner.model, cells=1024, batch=512, sequences=1, threads=1)


WORKS = {work.__name__: work for work in (decode, decode_together, prefill, solve, bare_decode, bare_prefill)}


def main() -> None:
    """Work until the input ends."""
    if "torch" in sys.modules or any(argument == "torch" for argument in sys.argv[1:]):
        import torch

        torch.set_num_threads(1)
    for line in sys.stdin:
        work, *arguments = json.loads(line)
        if work == "load":
            name, spec, options = arguments
            models[name] = load(spec, **options)
            answer: dict[str, Any] = {"file": str(File(sys.modules["rsd_core"].__file__ or ""))}
        else:
            answer = WORKS[work](*arguments)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
