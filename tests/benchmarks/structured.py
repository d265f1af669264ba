"""JSON by a schema: whether every answer is valid, over schemas that hypothesis draws, and the cost of masks.

`python -m tests.benchmarks.structured --json FILE [--quick]`
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections import Counter
from typing import Any

import jsonschema
from hypothesis import HealthCheck, Phase, given, seed, settings

from rsd_core import (
    ConfigurationError,
    Limits,
    Path,
    RewardGuidedDecoder,
    RunError,
    Sampling,
    Settings,
    Step,
    StepRequest,
    StructuredDecoder,
    as_prompt,
    load,
)
from rsd_core.concurrency import run_all
from rsd_core.testing import ScriptedVerifier
from rsd_integrations.inprocess.generator import Generator
from tests.benchmarks.command import Command, Size
from tests.llamacpp.gguf_files import smollm2
from tests.structured.schemas import ALL_SCHEMAS, Schema

SIZES = {
    "schemas": Size(500, 40, "schemas by which the embedded models write", 2),
    "reasoned": Size(60, 4, "of them, for SmolLM2 after reasoning in steps, drafted and replaced", 1),
}
COMMAND = Command("structured", __doc__, SIZES)
QUESTION = as_prompt("Mia has 45 apples. Then she buys 12 more. How many apples does Mia have now?")
TOKENS = 400
AT_ONCE = 16


def drawn(count: int) -> list[Schema]:
    """A number of schemas, the same each time."""
    found: list[Schema] = []

    @seed(0)
    @settings(max_examples=count, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(ALL_SCHEMAS)
    def note(schema: Schema) -> None:
        found.append(schema)

    note()
    return found


def verdict(step: Step, schema: Schema) -> str:
    """The outcome of an answer: one of the keys below."""
    if step.ending != "end":
        return "cut"
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    valid = jsonschema.Draft202012Validator(schema, format_checker=checker).is_valid(json.loads(step.text))
    return "valid" if valid else "invalid"


def embedded(schemas: list[Schema]) -> dict[str, Any]:
    """Whole turns of the embedded drafter at temperature 1, in batches and alone."""
    model: Generator = load("embedded:draft")
    request = StepRequest((1, 2), TOKENS, delimiter=None, sampling=Sampling(1.0))
    counts: Counter[str] = Counter()
    writers: list[tuple[Generator, Schema]] = []
    for schema in schemas:
        try:
            writers.append((by(model, schema), schema))
        except ConfigurationError:
            counts["refused"] += 1

    async def write(writer: Generator) -> tuple[Step, ...]:
        return (await writer.generate(Path(QUESTION), request)).steps

    async def together() -> list[tuple[Step, ...]]:
        return await run_all([write(writer) for writer, _ in writers], AT_ONCE)

    began = time.perf_counter()
    batched = asyncio.run(together())
    seconds = time.perf_counter() - began
    for steps, (_, schema) in zip(batched, writers, strict=True):
        counts.update(verdict(step, schema) for step in steps)
    alone = [asyncio.run(write(writer)) for writer, _ in writers[::10]]
    return {
        "schemas": len(schemas),
        "refused": counts["refused"],
        "answers": {name: counts[name] for name in ("valid", "cut", "invalid")},
        "alone": {"compared": len(alone), "equal": sum(map(tuple.__eq__, alone, batched[::10]))},
        "tokens_per_second": round(sum(step.size for steps in batched for step in steps) / seconds),
    }


def by(model: Generator, schema: Schema) -> Generator:
    """The model for answers by a schema."""
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return model.with_fields({"response_format": form})


def reasoned(schemas: list[Schema]) -> dict[str, Any]:
    """Reasoning in steps, followed by JSON; half of the steps are drafted and half replaced."""
    model = load(f"gguf:{smollm2()}")
    brief = Settings(max_step_tokens=16, temperature=0.7, limits=Limits(max_steps=3, max_tokens=TOKENS))
    decoder = RewardGuidedDecoder(
        drafter=model,
        verifier=ScriptedVerifier(lambda _path, step: float(len(step.text) % 2)),
        target=model,
        settings=brief,
    )
    counts: Counter[str] = Counter()
    authors: Counter[str] = Counter()
    for schema in schemas:
        try:
            result = StructuredDecoder(decoder, schema).run("Describe a cat.")
        except ConfigurationError:
            counts["refused"] += 1
        except RunError:
            counts["failed"] += 1
        else:
            ending: Any = "end" if result.finish_reason == "stop" else "length"
            counts[verdict(Step(result.text, ending), schema)] += 1
            authors[result.steps[-1].author] += 1
    return {
        "schemas": len(schemas),
        **{name: counts[name] for name in ("refused", "failed", "valid", "cut", "invalid")},
        "authors": {name: authors[name] for name in ("draft", "target")},
    }


def masks(schemas: list[Schema]) -> dict[str, float]:
    """Microseconds of a mask, and milliseconds of compiling a schema, with SmolLM2's 49,152 tokens."""
    model: Generator = load(f"gguf:{smollm2()}")
    by(model, {"type": "null"})  # creates the tokenizer once
    compiled, taken = [], []
    for schema in schemas:
        began = time.perf_counter()
        try:
            grammar = by(model, schema).grammar
        except ConfigurationError:
            continue
        compiled.append(1e3 * (time.perf_counter() - began))
        assert grammar is not None
        place = grammar.begin()
        for _ in range(20):
            began = time.perf_counter()
            allowed = place.allowed(model.vocabulary.size)
            taken.append(1e6 * (time.perf_counter() - began))
            token = int(allowed.nonzero()[0][0])
            if token in model.eos_ids:
                break
            try:
                place.take(token)
            except RuntimeError:  # a constant with bytes without tokens in SmolLM2, such as those of U+75B2F
                break
    return {
        "compiling_ms": round(statistics.median(compiled), 2),
        "mask_us": round(statistics.median(taken), 1),
        "mask_us_99": round(statistics.quantiles(taken, n=100)[98], 1),
    }


def main() -> None:
    """Run everything, and write the figures."""
    options = COMMAND.parse()
    schemas = drawn(options.schemas)
    figures = {"embedded": embedded(schemas), "smollm2": reasoned(schemas[: options.reasoned]), "masks": masks(schemas)}
    COMMAND.write(options, figures)
    wrong = figures["embedded"]["answers"]["invalid"] + figures["smollm2"]["invalid"]
    if wrong:
        raise SystemExit(f"{wrong} answers do not match their schema")


if __name__ == "__main__":
    main()
