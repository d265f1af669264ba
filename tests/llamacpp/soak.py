"""Random work on a GGUF engine with little memory, checked against contexts that read everything again."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsd_core import Path, Sampling, Step, StepRequest, as_prompt
from rsd_core.concurrency import run_all
from rsd_integrations.llamacpp import LlamaCppGenerator, LlamaCppLikelihood
from rsd_integrations.llamacpp.context import Context
from rsd_integrations.llamacpp.output import log_totals
from rsd_integrations.llamacpp.store import NumberedSequence, UnifiedStore

PROMPTS = ["Mia has 45 apples.", "Leo has 7 pens and 12 boxes. He buys 3 more, then he sells 2.", "Zoe walks 5 miles."]
CALLS = ("generate", "guess", "score", "log_likelihoods")
"""What is cancelled."""
KINDS = {"write": 6, "branch": 2, "read": 3, "reject": 2, "back": 1, "forget": 1} | {
    f"cancel {call}": 1 for call in CALLS
}
"""Operations and how often they come."""
WORDS = ["She buys 12 more.\n\n", "Then he sells 9 of them: 45-9=36.\n\n", "No.\n\n"]
TOLERANCE = 0.1
"""Tolerance of logits, which in single precision depend on the batch; a wrong token changes them by 1 and more."""


class Soak:
    """Extends, rejects, branches, cancels and forgets paths, from several threads with a loop each.

    Both models are of one file. Every result is checked at once.
    """

    def __init__(self, writer: LlamaCppGenerator, reader: LlamaCppLikelihood) -> None:
        self.writer, self.reader = writer, reader
        self.done: Counter[str] = Counter()
        """How often each operation was done."""
        self.cut_short: Counter[str] = Counter()
        """How often each call was cancelled before its end."""
        self.paths: list[Path] = []
        """Where requests ended; held, so that their caches are there in the end."""
        self.grown = 0
        """Cells that the context has won."""
        self._reference = Context(writer.runner.model, cells=1024, batch=1024, sequences=1, cache_type="f32")
        self._reading = threading.Lock()
        self._errors: list[BaseException] = []

    def run(self, operations: int, *, seed: int = 0, loops: int = 2, requests: int = 4) -> int:
        """Do a number of operations, then compare everything cached; return the number of tokens."""
        before, left = self.writer.runner.store.context.cells, iter(range(operations))
        lock = threading.Lock()

        def numbers() -> Iterator[int]:
            while True:
                with lock:
                    number = next(left, None)
                if number is None:
                    return
                yield number

        def loop(which: int) -> None:
            rngs = [random.Random(f"{seed}:{which}:{number}") for number in range(requests)]
            try:
                asyncio.run(self._all(rngs, numbers))
            except BaseException as error:
                self._errors.append(error)

        threads = [threading.Thread(target=loop, args=(which,)) for which in range(loops)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._errors:
            raise self._errors[0]
        self.grown = self.writer.runner.store.context.cells - before
        return self.check()

    async def _all(self, rngs: list[random.Random], numbers: Any) -> None:
        await run_all([self._request(rng, numbers()) for rng in rngs])

    @property
    def evicted(self) -> int:
        """How many sequences that may have been wanted again had to make room."""
        return sum(store.evicted for store in {model.runner.store for model in (self.writer, self.reader)})

    def logits(self, ids: list[int]) -> NDArray[np.float32]:
        """Logits at every position, by a context that has read nothing else."""
        with self._reading:
            self._reference.clear()
            assert self._reference.decode([(0, 0, ids)], range(len(ids)))
            return self._reference.logits(len(ids))

    def check(self) -> int:
        """Compare everything that the stores hold with a fresh computation."""
        stores = {model.runner.store for model in (self.writer, self.reader)}
        return sum(self._check(store) for store in stores)

    def _check(self, store: UnifiedStore) -> int:
        context, live = store.context, store.live
        store.settle()
        store._take_back()
        assert len({sequence.number for sequence in live}) == len(live), "two sequences share a number"
        assert {sequence.number for sequence in live} | set(store._free) == set(range(context.sequences))
        assert len(store._free) + len(live) == context.sequences
        for number in range(context.sequences):
            holder = next((sequence for sequence in live if sequence.number == number), None)
            assert context.length(number) == (len(holder.ids) if holder else 0)
        for sequence in live:
            self._check_sequence(context, sequence)
        return sum(len(sequence.ids) for sequence in live)

    def _check_sequence(self, context: Context, sequence: NumberedSequence) -> None:
        ids, number = sequence.ids, sequence.number
        if not ids or number is None:
            return
        wanted = self.logits(ids)
        if sequence.last_output is not None:
            assert np.abs(sequence.last_output.logits[-1] - wanted[-1]).max() < TOLERANCE, "a kept output is wrong"
        decode, context._decode = context._decode, context._call.llama_decode  # past who counts tokens
        if not context.free_cells:  # the last token's own may be shared, so that it is not given back
            context.grow(cells=2 * context.cells, batch=context.batch, sequences=context.sequences)
        context.rollback(number, len(ids) - 1)  # everything before the last token has its part in the last one's logits
        assert context.decode([(number, len(ids) - 1, ids[-1:])], [0])
        context._decode = decode
        assert np.abs(context.logits(1)[0] - wanted[-1]).max() < TOLERANCE, "a cache differs from a fresh computation"

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
        self.paths.append(path)

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
            logits = self.logits([*before, *step.tokens])[len(before) - 1 :]
            for at, token in enumerate(step.tokens):
                assert logits[at, token] > logits[at].max() - TOLERANCE, f"token {at} is not the most likely one"
        return path.extend(rng.choice(made.steps))

    async def _read(self, rng: random.Random, path: Path) -> None:
        steps = [Step(rng.choice(WORDS), "delimiter") for _ in range(rng.randint(1, 3))]
        scores = await self.reader.score(path, steps)
        read = self.reader.vocabulary.ids.after(path, steps)
        for feed, count, reward in zip(read.feeds, read.own, scores.rewards, strict=True):
            logits, own = self.logits([*read.prefix, *feed])[-count - 1 : -1], list(feed[-count:])
            wanted = float(np.exp((logits[np.arange(count), own] - log_totals(logits)).min()))
            assert reward is not None
            assert abs(reward - wanted) < TOLERANCE * max(wanted, 0.01), f"{reward} instead of {wanted}"
