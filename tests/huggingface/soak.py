"""Random work on an engine with far too little memory, checked against plain forward passes."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from typing import Any

import torch
from transformers import DynamicCache

from rsd_core import Path, Sampling, Step, StepRequest, as_prompt
from rsd_core.concurrency import run_all
from rsd_integrations.huggingface import HuggingFaceGenerator, HuggingFaceLikelihood, HuggingFaceVerifier

PROMPTS = ["Mia has 45 apples.", "Leo has 7 pens and 12 boxes. He buys 3 more, then he sells 2.", "Zoe walks 5 miles."]
CALLS = ("generate", "guess", "score", "log_likelihoods")
"""What is cancelled."""
KINDS = {"write": 6, "branch": 2, "read": 3, "reject": 2, "back": 1, "forget": 1} | {
    f"cancel {call}": 1 for call in CALLS
}
"""Operations and how often they come."""
WORDS = ["She buys 12 more.\n\n", "Then he sells 9 of them: 45-9=36.\n\n", "No.\n\n"]


class Soak:
    """Extends, rejects, branches, cancels and forgets paths, several requests at once; each result is checked at once.

    Both models are of one checkpoint, as is the reference, which runs plain forward passes.
    """

    def __init__(self, writer: HuggingFaceGenerator, reader: HuggingFaceLikelihood, reference: Any) -> None:
        self.writer, self.reader, self.reference = writer, reader, reference
        self.done: Counter[str] = Counter()
        """How often each operation was done."""
        self.cut_short: Counter[str] = Counter()
        """How often each call was cancelled before its end."""

    async def run(self, operations: int, *, seed: int = 0, requests: int = 6) -> None:
        """Do a number of operations, then compare everything cached with a fresh computation."""
        left = iter(range(operations))
        rngs = [random.Random(f"{seed}:{number}") for number in range(requests)]
        await run_all([self._request(rng, left) for rng in rngs])
        for model in (self.writer, self.reader):
            check_store(model, self.reference)

    @property
    def evicted(self) -> int:
        """How many sequences that may have been wanted again had to make room."""
        return sum(store.evicted for store in {model.runner.store for model in (self.writer, self.reader)})

    async def _request(self, rng: random.Random, left: Iterator[int]) -> None:
        path = Path(as_prompt(rng.choice(PROMPTS)))
        for i in left:
            kind = rng.choices([*KINDS], [*KINDS.values()])[0]
            self.done[kind] += 1
            if kind in ("write", "branch"):
                path = await self._write(rng, path, 1 if kind == "write" else 3)
            elif kind == "read":
                await self._read(rng, path)
            elif kind.startswith("cancel"):
                await self._cancel(rng, path, kind.removeprefix("cancel "), i)
            elif kind == "reject":
                path = path.extend(Step(rng.choice(WORDS), "delimiter"))
            elif kind == "back":
                path = path.parent or path
            if kind == "forget" or len(self.writer.vocabulary.ids(path)[0]) > self.writer.context - 60:
                path = Path(as_prompt(rng.choice(PROMPTS)))

    async def _cancel(self, rng: random.Random, path: Path, call: str, seed: int) -> None:
        """Begin a call and cancel it at any moment: before its turn, in prefill, between two tokens, at its end."""
        count = rng.randint(1, 3)
        asked = StepRequest(tuple(range(seed, seed + count)), 50, delimiter=None, sampling=Sampling(1.0))
        steps = [Step(rng.choice(WORDS), "delimiter") for _ in range(count)]
        works: dict[str, Coroutine[Any, Any, Any]] = {
            "generate": self.writer.generate(path, asked),
            "guess": self.writer.generate(path, replace(asked, seeds=(seed,), guess=steps[0])),
            "score": self.reader.score(path, steps),
            "log_likelihoods": self.writer.log_likelihoods(path, [*steps, Step("", "end")]),
        }
        task = asyncio.ensure_future(works.pop(call))
        for other in works.values():
            other.close()
        await asyncio.sleep(rng.random() * rng.choice((0, 0.002, 0.02)))
        task.cancel()
        await asyncio.wait([task])
        self.cut_short[call] += task.cancelled()
        if not task.cancelled():
            task.result()  # raises what it failed by

    async def _write(self, rng: random.Random, path: Path, count: int) -> Path:
        asked = StepRequest(tuple(range(count)), rng.randint(1, 6))
        made = await self.writer.generate(path, asked)
        if rng.random() < 0.3:  # once more, with a guess that is right up to some token
            (first, *_), cut = made.steps, rng.randint(0, 6)
            tokens = (*first.tokens[:cut], *rng.choices(range(3, 200), k=rng.randint(0, 3)))
            made = await self.writer.generate(path, replace(asked, guess=replace(first, tokens=tokens)))
        before = self.writer.vocabulary.ids(path)[0]
        for step in made.steps:
            logits = _logits(self.reference, [*before, *step.tokens])[len(before) - 1 :]
            for at, token in enumerate(step.tokens):
                assert logits[at, token] > logits[at].max() - 1e-4, f"token {at} is not the most likely one"
        return path.extend(rng.choice(made.steps))

    async def _read(self, rng: random.Random, path: Path) -> None:
        steps = [Step(rng.choice(WORDS), "delimiter") for _ in range(rng.randint(1, 3))]
        scores = await self.reader.score(path, steps)
        read = self.reader.vocabulary.ids.after(path, steps)
        for feed, count, reward in zip(read.feeds, read.own, scores.rewards, strict=True):
            likely = _logits(self.reference, [*read.prefix, *feed]).softmax(-1)[-count - 1 : -1]
            wanted = min(float(likely[at, token]) for at, token in enumerate(feed[-count:]))
            assert reward is not None
            assert abs(reward - wanted) < 1e-4, f"{reward} instead of {wanted}"


@torch.inference_mode()
def _logits(model: Any, ids: list[int]) -> torch.Tensor:
    """Logits at every position by one plain pass over the whole text."""
    out: torch.Tensor = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return out


@torch.inference_mode()
def check_store(model: HuggingFaceGenerator | HuggingFaceLikelihood | HuggingFaceVerifier, reference: Any) -> int:
    """Compare everything a store holds with a fresh computation; returns how many tokens that were."""
    store = model.runner.store
    slots = [sequence.slot for sequence in store.live]
    assert len(set(slots)) == len(slots), "two sequences share a slot"
    for sequence in store.live:
        if sequence.ids:
            fresh: Any = DynamicCache(config=reference.config)
            reference(input_ids=torch.tensor([sequence.ids]), past_key_values=fresh, use_cache=True)
            for layer, keys, values in zip(fresh.layers, store.keys, store.values, strict=True):
                for kept, wanted in ((keys, layer.keys), (values, layer.values)):
                    found = kept[sequence.slot, :, : len(sequence.ids)]
                    found = found[:, -wanted.shape[2] :]  # the reference forgets what its window has passed
                    assert torch.allclose(found, wanted[0], atol=1e-4), "a cache differs from a fresh computation"
    return sum(len(sequence.ids) for sequence in store.live)
