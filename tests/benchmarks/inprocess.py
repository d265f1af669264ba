"""Speed of the in-process engine: `python -m tests.benchmarks.inprocess --json FILE [--quick]`.

Methods alternate on each problem; ratios are medians over rounds. The embedded family is compared with the code that
one would write with transformers alone (`tests/benchmarks/plain.py`). The engine's overhead, and the gain from many
requests, are also measured on models of sizes that people run on a CPU (`tests/benchmarks/shapes.py`), since models
that take half a millisecond per token say little about others. Those take 16 GB of memory and most of the time;
`--quick` gives them fewer layers and words, and `--published-rounds 0` leaves them out.
"""

from __future__ import annotations

import asyncio
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import date
from pathlib import Path as File
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import torch
import transformers

from rsd_core import BinaryStep, Path, RewardGuidedDecoder, Settings, StepRequest, TargetOnly, as_prompt, load
from rsd_integrations.evaluation.tasks import Item, find_task
from rsd_integrations.huggingface import load_generator, load_likelihood, loading
from rsd_integrations.huggingface.fused_decoder import FusedDecoder
from rsd_integrations.inprocess.runner import Runner, ScheduledRow
from tests.benchmarks import shapes
from tests.benchmarks.clocks import one_at_a_time, seconds, timed
from tests.benchmarks.command import Command, Size
from tests.benchmarks.plain import Plain
from tests.huggingface.soak import Soak
from tests.huggingface.tiny import make_causal_lm

SIZES = {
    "rounds": Size(5, 1, "rounds on the embedded family"),
    "published_rounds": Size(2, 1, "rounds on published shapes, about 10 minutes each", least=0),
    "problems": Size(16, 2, "problems for the comparison at batch 1"),
    "soak": Size(10_000, 400, "random operations of the soak", least=0),
}
DELTA = 0.5
CONCURRENT = 32


def one_thread() -> None:
    """Models this small lose time by sharing cores."""
    torch.set_num_threads(1)


class Family:
    """The embedded models behind the engine, with the time of their forward passes."""

    def __init__(self, *, modules: bool = False) -> None:
        """Load them; with `modules` once more, to run through transformers' modules instead of the fused pass."""
        with ExitStack() as changed:
            if modules:
                loading._loaded.clear()
                changed.enter_context(mock.patch.object(FusedDecoder, "of", return_value=None))
            self.draft, self.verifier, self.target = (load(f"embedded:{n}") for n in ("draft", "verifier", "target"))
        self.rsd, self.without_guesses = (
            RewardGuidedDecoder(
                drafter=self.draft,
                verifier=self.verifier,
                target=self.target,
                policy=BinaryStep(delta=DELTA),
                settings=Settings(reuse_rejected=reuse),
            )
            for reuse in (True, False)
        )
        self.target_only = TargetOnly(target=self.target)
        self.forward = timed(self.runners)
        """Seconds of the forward passes, as a list of one."""

    @property
    def runners(self) -> list[Runner]:
        return [self.draft.runner, self.verifier.runner, self.target.runner]


def against_plain(family: Family, by_modules: Family, plain: Plain, items: list[Item], rounds: int) -> dict[str, Any]:
    """Seconds and correct answers of each method at batch 1, with all methods in turn on each problem."""
    methods: dict[str, Callable[[str], str]] = {
        "rsd": lambda prompt: family.rsd.run(prompt).text,
        "rsd_without_guesses": lambda prompt: family.without_guesses.run(prompt).text,
        "rsd_by_modules": lambda prompt: by_modules.rsd.run(prompt).text,
        "target_only": lambda prompt: family.target_only.run(prompt).text,
        "target_generate": plain.target_generate,
        "assisted": plain.assisted,
        "naive_rsd": plain.naive_rsd,
    }
    spent: dict[str, list[float]] = {name: [] for name in methods}
    right = dict.fromkeys(methods, 0)
    for name, method in methods.items():
        right[name] = sum(item.verdict(method(str(item.prompt))).right is True for item in items)  # also warms up
    for _ in range(rounds):
        total = dict.fromkeys(methods, 0.0)
        for item in items:
            for name, method in methods.items():
                started = time.perf_counter()
                method(str(item.prompt))
                total[name] += time.perf_counter() - started
        for name in methods:
            spent[name].append(total[name] / len(items))
    return {
        "seconds_per_problem": {name: statistics.median(values) for name, values in spent.items()},
        "accuracy": {name: right[name] / len(items) for name in methods},
        "problems": len(items),
        **{
            f"vs_{name}": statistics.median(a / b for a, b in zip(spent[name], spent["rsd"], strict=True))
            for name in ("target_generate", "assisted", "naive_rsd")
        },
    }


def concurrency(family: Family, items: list[Item], rounds: int) -> dict[str, Any]:
    """The same problems one after another and all at once; wall-clock time of both over that of their forward passes.

    The latter with one model at a time: in parallel, forward passes add up to more than wall-clock time.
    """
    prompts = [item.prompt for item in items]
    ratios, alone, together = [], [], []
    family.rsd.run_many(prompts)  # caches grow to their size once
    for _ in range(rounds):
        family.forward[0] = 0.0
        one_by_one = seconds(lambda: [family.rsd.run(prompt) for prompt in prompts])
        alone.append(one_by_one / family.forward[0])
        ratios.append(one_by_one / seconds(lambda: family.rsd.run_many(prompts)))
        with one_at_a_time(torch.device("cpu")):
            family.forward[0] = 0.0
            together.append(seconds(lambda: family.rsd.run_many(prompts)) / family.forward[0])
    return {
        f"concurrent{len(items)}_over_sequential": statistics.median(ratios),
        "overhead_batch1": statistics.median(alone),
        f"overhead_batch{len(items)}": statistics.median(together),
    }


def depth(family: Family, rounds: int) -> float:
    """Time per token of drafting and scoring at step 40 over that at step 4.

    Steps of four tokens keep the prefix as short as in answers, so that attention over it is small.
    """
    request = StepRequest((0,), max_tokens=4, delimiter=None)
    eos_ids, family.draft.eos_ids = family.draft.eos_ids, frozenset()

    async def steps() -> list[float]:
        path, spent = Path(as_prompt("Mia has 45 apples.")), []
        for _ in range(41):
            started = time.perf_counter()
            made = await family.draft.generate(path, request)
            await family.verifier.score(path, made.steps)
            spent.append(time.perf_counter() - started)
            path = path.extend(made.steps[0])
        return spent

    ratios = []
    for _ in range(12 * rounds):
        spent = asyncio.run(steps())
        ratios.append(statistics.median(spent[37:41]) / statistics.median(spent[2:6]))
    family.draft.eos_ids = eos_ids
    return statistics.median(ratios)


@contextmanager
def recomputed(runners: list[Runner]) -> Iterator[list[int]]:
    """Counts tokens that are run again after the same prefix of the same request."""
    seen: set[tuple[int, int, int]] = set()
    roots: dict[int, Path] = {}  # kept alive, so that no two requests have the same identity
    count = [0]

    def watch(runner: Runner, original: Callable[[list[ScheduledRow]], Any]) -> Callable[[list[ScheduledRow]], Any]:
        def forward(scheduled: list[ScheduledRow]) -> Any:
            for row, cached, new, _ in scheduled:
                *_, root = row.call.path.up()
                roots[id(root)] = root
                for at in range(cached, cached + new):
                    place = (id(runner), id(root), hash(tuple(row.ids[: at + 1])))
                    count[0] += place in seen
                    seen.add(place)
            return original(scheduled)

        return forward

    before = [runner._forward for runner in runners]
    for runner, forward in zip(runners, before, strict=True):
        runner._forward = watch(runner, forward)  # type: ignore[method-assign,assignment]
    yield count
    for runner, forward in zip(runners, before, strict=True):
        runner._forward = forward  # type: ignore[method-assign]


def published(rounds: int, *, sample: bool) -> dict[str, Any]:
    """The engine on published shapes; all None without a round, and no model is built."""
    if not rounds:
        return {**dict.fromkeys(shapes.OF_THE_ENGINE), "published": None}
    answers = shapes.SIZES["answers"]
    device = torch.device("cpu")
    found = shapes.measure(device, rounds, 0, answers.quick if sample else answers.full, sample=sample)
    return {**{name: found[name] for name in shapes.OF_THE_ENGINE}, "published": found}


def soak(operations: int) -> dict[str, Any]:
    """Random operations with memory for three sequences, each checked; raises if anything differs."""
    with TemporaryDirectory() as folder:
        checkpoint = str(make_causal_lm(File(folder)))
        budget = 3.5 * 256 * 2 * 2 * 32 * 4
        reference = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
        work = Soak(
            load_generator(checkpoint, cache_bytes=budget), load_likelihood(checkpoint, cache_bytes=budget), reference
        )
        took = seconds(lambda: asyncio.run(work.run(operations)))
        return {"operations": operations, "seconds": took, "evicted": work.evicted, **work.done}


GOALS = {
    "vs_target_generate": ("≥", 2.0),
    "vs_assisted": ("≥", 1.5),
    "vs_naive_rsd": ("≥", 2.0),
    "overhead_batch1": ("≤", 1.10),
    "overhead_batch32": ("≤", 1.15),
    "concurrent32_over_sequential": ("≥", 4.0),
    "step40_over_step4": ("≤", 1.15),
    "recomputed_tokens": ("≤", 0),
    "overhead_batch1_embedded": ("≤", 1.10),
    "overhead_batch32_embedded": ("≤", 1.15),
    "overhead_batch1_embedded_by_modules": ("≤", 1.10),
    "overhead_batch32_embedded_by_modules": ("≤", 1.15),
    "concurrent32_over_sequential_embedded": ("≥", 4.0),
}


def markdown(data: dict[str, Any]) -> str:
    """The figures as a section of a page."""
    lines = [
        "## The in-process engine",
        "",
        f"Made by `python -m tests.benchmarks.inprocess`, {data['date']}, {data['machine']}, medians over "
        f"{data['rounds']} rounds, {data['took_seconds'] / 60:.0f} minutes; load average {data['load_before'][0]:.1f} "
        f"before and {data['load_after'][0]:.1f} after.",
        "",
        "| figure | measured | goal | |",
        "|---|---|---|---|",
    ]
    for name, (sign, goal) in GOALS.items():
        if data[name] is None:
            lines.append(f"| `{name}` | not measured | {sign} {goal:g} | |")
            continue
        met = data[name] >= goal if sign == "≥" else data[name] <= goal
        lines.append(f"| `{name}` | {data[name]:.2f} | {sign} {goal:g} | {'met' if met else '**missed**'} |")
    large = shapes.described(data["published"]) if data["published"] else "omitted here."
    lines += [
        "",
        "Overhead is wall-clock time relative to the time in forward passes, which build positions and masks as "
        "transformers' do. It and the gain of 32 concurrent requests are given twice. First for models of sizes that "
        f"people run on a CPU: {large} Then for the embedded family, in fp32 with one thread per "
        "model, whose passes take half a millisecond: with the fused pass, and with transformers' own modules instead "
        "(`by_modules`), as for other model families. There the same overhead weighs more, and "
        "[the engine's page](engine.md#what-is-not-done) explains the limits. The comparisons (`vs_…`), "
        "`step40_over_step4` (steps of four tokens, so that attention over the prefix stays small) and "
        "`recomputed_tokens` use the embedded family.",
    ]
    lines += ["", "| method, batch 1 | seconds per problem | accuracy |", "|---|---|---|"]
    for name, spent in data["seconds_per_problem"].items():
        lines.append(f"| {name} | {spent:.3f} | {data['accuracy'][name]:.3f} |")
    return "\n".join(lines) + "\n"


COMMAND = Command("inprocess", __doc__, SIZES, markdown, sample="published shapes with fewer layers and words")


def main() -> None:
    """Measure and write."""
    options = COMMAND.parse()
    one_thread()
    load, started = os.getloadavg(), time.monotonic()
    family, by_modules = Family(), Family(modules=True)
    items = find_task("embedded").draw(64, 1)
    with recomputed(family.runners) as again:
        family.rsd.run_many([item.prompt for item in items])
    embedded = concurrency(family, items[:CONCURRENT], options.rounds)
    modules = concurrency(by_modules, items[:CONCURRENT], options.rounds)
    data: dict[str, Any] = {
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores {platform.machine()}, no GPU, torch {torch.__version__}",
        "rounds": options.rounds,
        "load_before": load,
        "recomputed_tokens": again[0],
        **{f"{name}_embedded": value for name, value in embedded.items()},
        **{f"{name}_embedded_by_modules": value for name, value in modules.items()},
        "step40_over_step4": depth(family, options.rounds),
        **against_plain(family, by_modules, Plain(DELTA), items[: options.problems], options.rounds),
    }
    data["soak"] = soak(options.soak) if options.soak else None
    data |= published(options.published_rounds, sample=options.quick)
    data |= {"took_seconds": time.monotonic() - started, "load_after": os.getloadavg()}
    COMMAND.write(options, data)


if __name__ == "__main__":
    main()
