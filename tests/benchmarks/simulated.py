"""Simulates three model servers on separate machines: a clock that jumps, and documented latencies.

The clock only moves while everything waits, so the clients' own computation takes no time (`tests.benchmarks.client`
measures it), a run does not depend on its machine, and minutes pass in seconds.

A machine works like vLLM: iterations over a running batch, with prefill in chunks, where an iteration takes as long as
reading the weights or computing its tokens, whichever is longer. Generators cache the prefixes they have read; reward
models read every text from its beginning, as observed in vLLM's pooling runner.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import selectors
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rsd_core import (
    Drafter,
    Generation,
    Interrupted,
    Path,
    Prompt,
    Scores,
    Step,
    StepDrafted,
    StepReplaced,
    StepRequest,
    StepScored,
    Target,
    Usage,
    Verifier,
)
from rsd_core.algorithm import RewardGuidedDecoder
from rsd_integrations.openai_compatible.charges import Charges
from rsd_integrations.openai_compatible.streams import Stream, Streams
from tests.benchmarks.lockstep import Live, Score, Write

A100 = 312e12 * 0.5
"""FLOP/s of prefill: half of the data sheet's bf16 peak."""
CHUNK = 8192
"""Maximum tokens of prefill per iteration: vLLM's default for a server."""
BLOCK = 16
"""Tokens in a block of vLLM's prefix cache."""
SCALE = 2
"""Tokens per token of the embedded family: its steps have 21, paragraphs of worked solutions about twice that."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """How fast a machine runs its model."""

    token: float
    """Seconds of an iteration of a small batch: one over the published tokens per second at batch 1."""
    prefill: float
    """Seconds to compute one more token."""


# Tokens per second: Qwen2.5 Speed Benchmark (vLLM 0.6.3, A100 80GB, BF16, batch 1, input length 1).
SMALL = Hardware(1 / 183.33, 2 * 1.5e9 / A100)
MIDDLE = Hardware(1 / 84.28, 2 * 7.6e9 / A100)
LARGE = Hardware(1 / 31.37, 2 * 72.7e9 / (4 * A100))  # on four GPUs


@dataclass(frozen=True, slots=True)
class Network:
    """The network between the client and each machine."""

    trip: float
    """Median seconds of a round trip."""
    overhead: float = 0.005
    """Seconds that a server spends on HTTP, tokens and its queue for each request, whatever its size."""
    spread: float = 0.3
    """Standard deviation of the logarithm of both: they are lognormal."""


@dataclass(frozen=True, slots=True)
class Setup:
    """The machines of the roles."""

    name: str
    drafter: Hardware
    verifier: Hardware
    target: Hardware
    network: Network
    reasoning: int = 0
    """Tokens that a generative reward model writes about each step."""
    verifiers: int = 1
    """Replicas of the verifier behind one URL; a request goes to the one with the fewest sequences."""


NEAR, FAR, NOWHERE = Network(0.001), Network(0.060), Network(0.0, overhead=0.0)
PAPER = Setup("7B PRM, 7B", SMALL, MIDDLE, MIDDLE, NEAR)
TWICE = Setup("two 7B PRMs behind one URL, 7B", SMALL, MIDDLE, MIDDLE, NEAR, verifiers=2)
BIG_TARGET = Setup("7B PRM, 72B", SMALL, MIDDLE, LARGE, NEAR)
BIG = Setup("72B PRM, 72B", SMALL, LARGE, LARGE, NEAR)
REMOTE = Setup("7B PRM, 7B, in another region", SMALL, MIDDLE, MIDDLE, FAR)
JUDGE = Setup("7B judge writing 40 tokens, 72B", SMALL, MIDDLE, LARGE, NEAR, reasoning=40)


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time only passes while it waits."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_Jump(self))

    def time(self) -> float:
        return self.now


class _Jump(selectors.DefaultSelector):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("all tasks wait for something outside the simulation")
        self._clock.now += max(0.0, timeout)
        return super().select(0)


@dataclass(slots=True, eq=False)
class Job:
    """A sequence that a machine processes."""

    prefill: int
    decode: float
    done: asyncio.Event
    written: int = 0
    tell: Callable[[int], object] | None = None
    """Called with each token that is written."""


class Machine:
    """A model server: requests of one or more sequences, in continuous batches."""

    def __init__(self, hardware: Hardware, network: Network, seed: str) -> None:
        self.hardware, self.network = hardware, network
        self._random = random.Random(seed)
        self.jobs: list[Job] = []
        self.computed = 0
        """Tokens run through the model, whatever became of them."""
        self._worker: asyncio.Task[None] | None = None
        self._known: set[tuple[object, ...]] = set()

    def fresh(self, prompt: Prompt, steps: Sequence[Step]) -> int:
        """Tokens of a text outside cached prefixes; the text is cached from now on."""
        keys = [(prompt, *(step.text for step in steps[:n])) for n in range(len(steps) + 1)]
        sizes = [tokens_of(prompt, steps[:n]) for n in range(len(steps) + 1)]
        cached = max((size for key, size in zip(keys, sizes, strict=True) if key in self._known), default=0)
        self._known.update(keys)
        return sizes[-1] - cached // BLOCK * BLOCK

    async def serve(self, sequences: Iterable[tuple[int, int]]) -> None:
        """One request: for each sequence, tokens to prefill and tokens to write."""
        await self._serve([Job(prefill, decode, asyncio.Event()) for prefill, decode in sequences])
        await asyncio.sleep(self._lasts(self.network.trip) / 2)

    async def stream(self, prefill: int, token: Callable[[int], bool]) -> None:
        """One request that reports each token as it is written, until told to stop."""
        back = self._lasts(self.network.trip) / 2
        clock = asyncio.get_running_loop()

        def arrives(written: int) -> None:
            if token(written):
                clock.call_later(back, job.done.set)

        job = Job(prefill, math.inf, asyncio.Event(), tell=lambda written: clock.call_later(back, arrives, written))
        await self._serve([job])

    async def _serve(self, jobs: Sequence[Job]) -> None:
        await asyncio.sleep(self._lasts(self.network.trip) / 2 + self._lasts(self.network.overhead))
        self.jobs += jobs
        if self._worker is None or self._worker.done():
            self._worker = asyncio.ensure_future(self._work())
        try:
            for job in jobs:
                await job.done.wait()
        finally:
            self.jobs = [job for job in self.jobs if job not in jobs]

    async def _work(self) -> None:
        while self.jobs:
            room, computed, batch = CHUNK, 0, []
            for job in self.jobs:
                if job.prefill:
                    taken = min(job.prefill, room)
                    job.prefill -= taken
                    room -= taken
                    computed += taken
                else:
                    computed += 1
                if not job.prefill:
                    batch.append(job)
            lasts = max(self.hardware.token, computed * self.hardware.prefill)
            await asyncio.sleep(lasts)
            self.computed += computed
            for job in batch:
                job.written += 1
                if job.tell is not None:
                    job.tell(job.written)
                if job.written >= job.decode:
                    job.done.set()
            self.jobs = [job for job in self.jobs if not job.done.is_set()]

    def _lasts(self, median: float) -> float:
        return median * self._random.lognormvariate(0, self.network.spread)


def common(one: Step, other: Step) -> int:
    """Number of tokens in the common beginning of two steps, from its share of the text."""
    if one.text == other.text:
        return other.size
    alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one.text, other.text, strict=False))
    characters = sum(1 for _ in alike)
    return min(other.size - 1, other.size * characters // max(1, len(other.text)))


def tokens_of(prompt: Prompt, steps: Sequence[Step]) -> int:
    """Length of a text: 4/3 tokens per word; steps keep their recorded length."""
    return SCALE * (sum(len(message.content.split()) * 4 // 3 for message in prompt) + sum(step.size for step in steps))


@dataclass(frozen=True, slots=True)
class Position:
    """The models' outputs at one step of a recorded answer."""

    draft: Step
    reward: float
    target: Step


Record = Mapping[Prompt, Sequence[Position]]


async def record(decoder: RewardGuidedDecoder, prompts: Sequence[Prompt]) -> Record:
    """Decode, and record each role's output. If the target was not asked, its output would be as long as the draft."""

    async def one(prompt: Prompt) -> list[Position]:
        found: list[Position] = []
        async for event in decoder.astream([(message.role, message.content) for message in prompt]):
            if isinstance(event, StepDrafted):
                found.append(Position(event.candidates[0], 0.0, event.candidates[0]))
            elif isinstance(event, StepScored):
                found[-1] = Position(found[-1].draft, event.rewards[0] or 0.0, found[-1].target)
            elif isinstance(event, StepReplaced):
                text = event.record.text
                step = Step(text, "delimiter" if text.endswith("\n\n") else "end", size=event.record.size)
                found[-1] = Position(found[-1].draft, found[-1].reward, step)
        return found

    return dict(zip(prompts, await asyncio.gather(*map(one, prompts)), strict=True))


def longer(said: Record, times: int, seed: int = 0) -> Record:
    """Answers as long as several recorded ones: each continues with others, drawn at random."""
    draw = random.Random(seed)
    prompts = list(said)

    def chain(prompt: Prompt) -> list[Position]:
        parts = [said[prompt], *(said[other] for other in draw.choices(prompts, k=times - 1))]
        before = [
            Position(_goes_on(position.draft), position.reward, _goes_on(position.target))
            for part in parts[:-1]
            for position in part
        ]
        return [*before, *parts[-1]]

    return {prompt: chain(prompt) for prompt in prompts}


def _goes_on(step: Step) -> Step:
    return step if step.ending == "delimiter" else Step(step.text + "\n\n", "delimiter", size=step.size)


def at(record: Record, prompt: Prompt, depth: int) -> Position:
    """The outputs at a step; beyond the end of the answer, the last ones."""
    return record[prompt][min(depth, len(record[prompt]) - 1)]


class Writer(Drafter, Target):
    """A role that writes, on its machine; with guesses, it rereads the draft that it replaces, like vLLM."""

    def __init__(self, machine: Machine, record: Record, target: bool, guesses: bool = False) -> None:
        self.machine, self._record, self._target, self._guesses = machine, record, target, guesses
        self._streams = Streams()

    def says(self, prompt: Prompt, depth: int) -> Step:
        found = at(self._record, prompt, depth)
        return found.target if self._target else found.draft

    async def generate(self, path: Path, request: StepRequest) -> Generation:
        if request.ahead:
            charges = Charges(self)
            with charges:
                step = await self._streams.step(path, request, partial(self._write_on, path), charges.add)
                return Generation((step,), charges.total())
        step = self.says(path.prompt, path.depth)
        written, read, kept, size = SCALE * step.size, 0, 0, tokens_of(path.prompt, path.steps)
        fresh = self.machine.fresh(path.prompt, path.steps)
        if self._guesses and request.guess is not None:
            read, kept = size + SCALE * request.guess.size, SCALE * common(request.guess, step)
            await self.machine.serve([(read, 1)])
            fresh = (size + kept) % BLOCK
        if kept < written:
            read += fresh
            try:
                await self.machine.serve([(fresh, written - kept)])
            except asyncio.CancelledError:
                raise Interrupted(Usage(computed=read)) from None
        self._wrote(path.prompt, (*path.steps, step))
        return Generation((step,), Usage(computed=read + written - kept, generated=written))

    async def _write_on(self, path: Path, stream: Stream) -> None:
        """Write step after step in one request, like the library's own drafters over vLLM."""
        fresh, begun, enough = self.machine.fresh(path.prompt, path.steps), 0, False

        def token(written: int) -> bool:
            nonlocal path, fresh, begun, enough
            if enough:
                return True
            step = self.says(path.prompt, path.depth)
            size = SCALE * step.size
            if written < begun + size:
                return False
            begun, usage, fresh = begun + size, Usage(computed=fresh + size, generated=size), 0
            path = path.extend(step)
            self._wrote(path.prompt, path.steps)
            enough = stream.put(step, usage) or step.ending == "end"
            return enough

        await self.machine.stream(fresh, token)

    async def write(self, live: Sequence[Live]) -> Sequence[Step]:
        steps = [self.says(problem.prompt, len(problem.steps)) for problem in live]
        texts = [self.machine.fresh(problem.prompt, problem.steps) for problem in live]
        await self.machine.serve([(fresh, SCALE * step.size) for fresh, step in zip(texts, steps, strict=True)])
        for problem, step in zip(live, steps, strict=True):
            self._wrote(problem.prompt, (*problem.steps, step))
        return steps

    def _wrote(self, prompt: Prompt, steps: Sequence[Step]) -> None:
        """Cache text that the generator wrote, like text that it read."""
        self.machine.fresh(prompt, steps)


class Judge(Verifier):
    """The role that scores, on its machines; it reads every text from its beginning."""

    def __init__(self, replicas: Sequence[Machine], record: Record, reasoning: int) -> None:
        self.replicas, self._record, self._reasoning = replicas, record, reasoning

    @property
    def _machine(self) -> Machine:
        return min(self.replicas, key=lambda machine: len(machine.jobs))

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        (step,) = steps
        length = tokens_of(path.prompt, [*path.steps, step])
        await self._serve(length)
        return Scores((at(self._record, path.prompt, path.depth).reward,), Usage(computed=length, scored=length))

    async def _serve(self, length: int) -> None:
        try:
            await self._machine.serve([(length, 1 + self._reasoning)])
        except asyncio.CancelledError:
            raise Interrupted(Usage(computed=length)) from None

    async def read(self, drafts: Sequence[tuple[Live, Step]]) -> Sequence[float]:
        texts = [tokens_of(problem.prompt, [*problem.steps, step]) for problem, step in drafts]
        await self._machine.serve([(length, 1 + self._reasoning) for length in texts])
        return [at(self._record, problem.prompt, len(problem.steps)).reward for problem, _ in drafts]


class Reader(Judge):
    """A verifier that writes nothing, and so finds the rewards of all steps in one reading of a text."""

    async def score_run(self, path: Path, steps: Sequence[Step]) -> Sequence[Scores]:
        await self._serve(tokens_of(path.prompt, [*path.steps, *steps]))
        new = [SCALE * step.size for step in steps]
        new[0] += tokens_of(path.prompt, path.steps)
        return [
            Scores((at(self._record, path.prompt, path.depth + i).reward,), Usage(computed=size, scored=size))
            for i, size in enumerate(new)
        ]


class Free(Judge):
    """A verifier that takes no time, so that only writing remains."""

    async def _serve(self, length: int) -> None:
        return


@dataclass(frozen=True, slots=True)
class Servers:
    """Three machines, for both kinds of clients."""

    drafter: Writer
    verifier: Judge
    target: Writer

    @property
    def batched(self) -> tuple[Write, Score, Write]:
        """The three machines, as a client in lock-step uses them."""
        return self.drafter.write, self.verifier.read, self.target.write


def start(setup: Setup, record: Record, seed: int, guesses: bool = False) -> Servers:
    """Machines with empty caches."""

    def machine(hardware: Hardware, name: str) -> Machine:
        return Machine(hardware, setup.network, f"{seed} {name}")

    readers = [machine(setup.verifier, f"verifier {i}") for i in range(setup.verifiers)]
    return Servers(
        Writer(machine(setup.drafter, "drafter"), record, target=False),
        (Judge if setup.reasoning else Reader)(readers, record, setup.reasoning),
        Writer(machine(setup.target, "target"), record, target=True, guesses=guesses),
    )
