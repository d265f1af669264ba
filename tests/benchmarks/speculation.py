"""Speculation on the engine: `python -m tests.benchmarks.speculation --json FILE [--quick]`.

The embedded family: exact speculative decoding against transformers' `generate()` of the target alone and with the
drafter as its assistant; RSD with and without a speculating target; proposals without a model. Methods alternate on
each problem; ratios are medians over rounds. Then models of published shapes with random weights, whose acceptance is
replayed at the rate of the embedded family: every token is computed, but the text is meaningless.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from itertools import islice
from pathlib import Path as File
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Literal

import torch

from rsd_core import (
    BinaryStep,
    Path,
    Result,
    RewardGuidedDecoder,
    Settings,
    Speculation,
    SpeculativeDecoding,
    StepRequest,
    TargetOnly,
    as_prompt,
    load,
)
from rsd_integrations.embedded.task import problems as problems_of
from rsd_integrations.evaluation.tasks import find_task
from rsd_integrations.huggingface import HuggingFaceGenerator, dtypes
from rsd_integrations.inprocess import engine
from rsd_integrations.speculation.ngram_table import count
from rsd_integrations.speculation.rules import AcceptanceRule, Judged, Verdicts
from tests.benchmarks.clocks import seconds
from tests.benchmarks.command import Command, Size
from tests.benchmarks.plain import Plain
from tests.benchmarks.shapes import PAPER, PAPER_TARGET, SMALL, SMALL_TARGET

SIZES = {
    "rounds": Size(5, 1, "rounds, for medians"),
    "problems": Size(16, 2, "problems timed one by one"),
    "together": Size(16, 3, "problems timed all at once"),
    "compared": Size(200, 8, "problems whose texts are compared token by token"),
    "corpus": Size(2000, 100, "solutions in the n-gram table"),
    "shape_tokens": Size(64, 6, "tokens that models of published shapes write", least=0),
}
DELTA, CONCURRENT = 0.9, 16
DRAFT_LENGTH = 8
GOALS = {"vs_target": 4.0, "vs_assisted": 1.5, "batch16_vs_assisted": 4.0, "rsd_spec_gain": 1.15, "ngram_gain": 1.5}


class Replayed(AcceptanceRule):
    """Keeps tokens at a given rate, whatever they are."""

    kind: Literal["replayed"] = "replayed"
    rate: float
    lossless: ClassVar[bool] = False

    def judge(self, judged: Judged) -> Verdicts:
        return Verdicts(judged.uniforms[:, 0] < self.rate, judged.own)


def side_by_side(
    methods: dict[str, Callable[[str], Any]], prompts: Sequence[str], rounds: int
) -> dict[str, list[float]]:
    """Seconds of each method in each round, with all methods in turn on every problem."""
    spent = {name: list[float]() for name in methods}
    for method in methods.values():
        method(prompts[0])
    for _ in range(rounds):
        total = dict.fromkeys(methods, 0.0)
        for prompt in prompts:
            for name, method in methods.items():
                total[name] += seconds(partial(method, prompt))
        for name, value in total.items():
            spent[name].append(value)
    return spent


def gain(spent: dict[str, list[float]], slow: str, fast: str) -> float:
    """The time of one method over that of another, as median over rounds."""
    return statistics.median(a / b for a, b in zip(spent[slow], spent[fast], strict=True))


def embedded(rounds: int, problems: int, together: int, compared: int, corpus: int) -> dict[str, Any]:
    """The figures of the embedded family."""
    torch.set_num_threads(1)  # models this small lose time when they share cores
    draft, target, prm = (load(f"embedded:{name}") for name in ("draft", "target", "prm"))
    items = find_task("embedded").draw(max(problems, compared, together), 1)
    prompts = [str(item.prompt) for item in items]
    alone = TargetOnly(target=target)
    exact = SpeculativeDecoding(drafter=draft, target=target, draft_length=DRAFT_LENGTH)
    plain, reused = Plain(DELTA), BinaryStep(delta=DELTA)
    rsd, combined = (
        RewardGuidedDecoder(
            drafter=draft, verifier=prm, target=target, policy=reused, settings=Settings(speculate=proposer)
        )
        for proposer in (None, "drafter")
    )
    with TemporaryDirectory() as folder:
        table = File(folder) / "table.safetensors"
        vocabulary = target.vocabulary
        texts = ("".join(problem.solution()) for problem in islice(problems_of("train", 2), corpus))
        count(map(vocabulary.encode, texts), vocabulary.identity, vocabulary.size).save(table)
        ngram, tree, lookup = (
            SpeculativeDecoding(target=target, proposer=proposer, draft_length=DRAFT_LENGTH)
            for proposer in (f"ngram:{table}", f"ngram:{table},tree=true", "lookup")
        )
    methods: dict[str, Callable[[str], Any]] = {
        "target_generate": plain.target_generate, "assisted": plain.assisted, "target": alone.run, "exact": exact.run,
        "ngram": ngram.run, "ngram_tree": tree.run, "lookup": lookup.run,
        "rsd": rsd.run, "rsd_speculating": combined.run,
    }  # fmt: skip
    spent = side_by_side(methods, prompts[:problems], rounds)
    at_once = []
    exact.run_many(prompts[:together])  # caches grow once
    for _ in range(rounds):
        one_by_one = seconds(lambda: [plain.assisted(prompt) for prompt in prompts[:together]])
        at_once.append(one_by_one / seconds(lambda: exact.run_many(prompts[:together])))
    different = {
        name: _different(decoder, reference, prompts[:compared])
        for name, decoder, reference in (
            ("exact", exact, alone), ("ngram", ngram, alone), ("ngram_tree", tree, alone), ("lookup", lookup, alone),
            ("rsd", combined, rsd),
        )
    }  # fmt: skip
    return {
        "vs_target": gain(spent, "target_generate", "exact"),
        "vs_assisted": gain(spent, "assisted", "exact"),
        "vs_target_on_the_engine": gain(spent, "target", "exact"),
        "batch16_vs_assisted": statistics.median(at_once),
        "rsd_spec_gain": gain(spent, "rsd", "rsd_speculating"),
        **repeating(target, [str(item.prompt) for item in items[:problems]], rounds),
        "ngram_table_gain": gain(spent, "target", "ngram"),
        "ngram_tree_gain": gain(spent, "target", "ngram_tree"),
        "seconds_per_problem": {name: statistics.median(times) / problems for name, times in spent.items()},
        "proposals": {
            name: _proposals(decoder, target, prompts[:problems])
            for name, decoder in (
                ("exact", exact),
                ("ngram", ngram),
                ("ngram_tree", tree),
                ("lookup", lookup),
                ("rsd_speculating", combined),
            )
        },
        "different_texts": different,
        "compared": compared,
        "draft_length": DRAFT_LENGTH,
        "target_steps_of_rsd": statistics.mean(
            step.author == "target" for result in rsd.run_many(prompts[:problems]) for step in result.steps
        ),
    }


def repeating(target: HuggingFaceGenerator, prompts: Sequence[str], rounds: int) -> dict[str, float]:
    """The gain of proposals without a model if a text repeats its input: JSON that the schema fully determines."""
    turn, gains = Settings(granularity="turn"), {"ngram": list[float](), "lookup": list[float]()}
    writers = []
    for prompt in prompts:
        parts = {f"part {i}": part for i, part in enumerate(prompt.split(". "))}
        schema = {
            "type": "object",
            "properties": {name: {"const": part} for name, part in parts.items()},
            "required": list(parts),
        }
        form = {"type": "json_schema", "json_schema": {"name": "copy", "schema": schema, "strict": True}}
        writer = target.with_fields({"response_format": form})
        decoders: dict[str, Any] = {"target": TargetOnly(target=writer, settings=turn)}
        for proposer in gains:
            decoders[proposer] = SpeculativeDecoding(
                target=writer, proposer=proposer, draft_length=DRAFT_LENGTH, settings=turn
            )
        text = json.dumps(parts)
        for decoder in decoders.values():
            if (written := decoder.run(text).text) != text:
                raise AssertionError(f"{written!r} does not repeat {text!r}")
        writers.append((text, decoders))
    for _ in range(rounds):
        spent = dict.fromkeys(("target", *gains), 0.0)
        for text, decoders in writers:
            for name, decoder in decoders.items():
                spent[name] += seconds(partial(decoder.run, text))
        for name, found in gains.items():
            found.append(spent["target"] / spent[name])
    return {f"{name}_gain": statistics.median(found) for name, found in gains.items()}


def _different(decoder: Any, reference: Any, prompts: Sequence[str]) -> int:
    """The number of answers that differ from a reference's, with sixteen at once."""
    pairs = zip(decoder.run_many(prompts, concurrency=CONCURRENT), reference.run_many(prompts), strict=True)
    return sum(_texts(mine) != _texts(theirs) for mine, theirs in pairs)


def _texts(result: Result) -> list[str]:
    return [step.text for step in result.steps]


def _proposals(decoder: Any, target: HuggingFaceGenerator, prompts: Sequence[str]) -> dict[str, float]:
    """Tokens per pass of the target, and the acceptance rate, of a decoder with one request at a time."""
    passes = target.runner.passes
    accounts = [decoder.run(prompt).ledger.target for prompt in prompts]
    passes = target.runner.passes - passes
    generated, rejected = (sum(getattr(account, name) for account in accounts) for name in ("generated", "discarded"))
    accepted = generated - passes  # each pass adds one of the target's own tokens
    return {
        "tokens_per_pass": generated / passes,
        "acceptance_rate": accepted / (accepted + rejected) if accepted + rejected else 0.0,
    }


def shapes(tokens: int, rounds: int, rate: float, *, sample: bool) -> dict[str, Any]:
    """A target of a published shape alone and with a drafter, at an acceptance rate; without tokens, none is built."""
    if not tokens:
        return dict.fromkeys(("models", "gain", "gain_of_8", "tokens_per_pass", "seconds_per_token"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(engine.ALL_THREADS)
    small, big = (PAPER, PAPER_TARGET) if device.type == "cuda" else (SMALL, SMALL_TARGET)
    if sample:
        small, big = small.sample(), big.sample()
    dtype = torch.bfloat16 if device.type == "cuda" or dtypes.multiplies_bf16() else torch.float32
    torch.manual_seed(0)
    draft, target = small.make(device, dtype), big.make(device, dtype)
    request = StepRequest((0,), tokens, delimiter=None)
    speculation = Speculation(rule=Replayed(rate=rate), drafter=draft)

    async def write(asked: StepRequest, many: int) -> None:
        paths = [Path(as_prompt(f"Problem {i}. How many apples are there?")) for i in range(many)]
        await asyncio.gather(*(target.generate(path, asked) for path in paths))

    def took(asked: StepRequest, many: int) -> float:
        return seconds(lambda: asyncio.run(write(asked, many)))

    assisted = replace(request, speculation=speculation)
    took(replace(assisted, max_tokens=4), 8)
    passes = target.runner.passes
    took(assisted, 1)
    passes = target.runner.passes - passes
    alone, with_drafter = zip(*((took(request, 1), took(assisted, 1)) for _ in range(rounds)), strict=True)
    many = [took(request, 8) / took(assisted, 8) for _ in range(rounds)]
    return {
        "models": f"{small.name} drafts for {big.name}, {str(dtype).removeprefix('torch.')}",
        "gain": statistics.median(a / b for a, b in zip(alone, with_drafter, strict=True)),
        "gain_of_8": statistics.median(many),
        "tokens_per_pass": tokens / passes,
        "seconds_per_token": statistics.median(with_drafter) / tokens,
    }


def markdown(data: dict[str, Any]) -> str:
    """The figures as a section of a page."""
    goals = "\n".join(
        f"| `{name}` | {data[name]:.3f} | ≥ {goal:g} | {'met' if data[name] >= goal else '**missed**'} |"
        for name, goal in GOALS.items()
    )
    rows = "\n".join(
        f"| {name.replace('_', ' ')} | {1e3 * took:.0f} |" for name, took in data["seconds_per_problem"].items()
    )
    proposals = "\n".join(
        f"| {name.replace('_', ' ')} | {of['tokens_per_pass']:.2f} | {of['acceptance_rate']:.0%} |"
        for name, of in data["proposals"].items()
    )
    made = data["shapes"]
    published = (
        f"{made['models']}, acceptance replayed at {data['proposals']['exact']['acceptance_rate']:.0%}: "
        f"{made['gain']:.2f} times the target alone at batch 1, {made['gain_of_8']:.2f} times for 8 requests at once, "
        f"{made['tokens_per_pass']:.2f} tokens per pass, {1e3 * made['seconds_per_token']:.0f} ms per token."
        if made["models"]
        else "Models of published shapes were not measured."
    )
    different = ", ".join(f"{name} {count}" for name, count in data["different_texts"].items())
    return f"""
## Speculation

Made by `python -m tests.benchmarks.speculation`, {data["date"]}, {data["machine"]}, medians over {data["rounds"]}
rounds, {data["problems"]} problems, greedy, drafts of {data["draft_length"]} tokens; load average
{data["load_before"][0]:.1f}
before. Times are wall-clock, with alternating methods: `vs_target` and `vs_assisted` over transformers' `generate()`,
`batch16_vs_assisted` 16 requests at once over assisted generation of one after another, `rsd_spec_gain` RSD with
`embedded:prm` at δ = {DELTA} without a speculating target over with one (the target writes
{data["target_steps_of_rsd"]:.0%} of the steps), `ngram_gain` the engine's target alone over the same with n-grams
when it writes JSON that repeats its prompt; with prompt lookup that is {data["lookup_gain"]:.2f}. On the problems
themselves, an n-gram table of {data["corpus"]:,} other solutions gives {data["ngram_table_gain"]:.2f} by chains and
{data["ngram_tree_gain"]:.2f} by trees.

| figure | measured | goal | |
|---|---|---|---|
{goals}

| method, batch 1 | ms per problem |
|---|---|
{rows}

| proposals | tokens per pass of the target | accepted |
|---|---|---|
{proposals}

Answers that differ from the reference's, of {data["compared"]}: {different}.

{published}
"""


COMMAND = Command("speculation", __doc__, SIZES, markdown, sample="published shapes with fewer layers and words")


def main() -> None:
    """Measure and write."""
    options = COMMAND.parse()
    started, load_before = time.monotonic(), os.getloadavg()
    data = embedded(options.rounds, options.problems, options.together, options.compared, options.corpus)
    rate = data["proposals"]["exact"]["acceptance_rate"]
    data |= {
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores {platform.machine()}",
        "rounds": options.rounds,
        "problems": options.problems,
        "corpus": options.corpus,
        "shapes": shapes(options.shape_tokens, options.rounds, rate, sample=options.quick),
        "load_before": load_before,
        "load_after": os.getloadavg(),
        "took_seconds": time.monotonic() - started,
    }
    COMMAND.write(options, data)


if __name__ == "__main__":
    main()
