"""Runs many methods over the same problems, many requests in flight."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rsd_core import (
    ConfigurationError,
    Decoder,
    Ledger,
    Method,
    PromptError,
    Result,
    RSDConfig,
    RunError,
    WeightingPolicy,
    parse_method,
)
from rsd_core.blocking import iterate
from rsd_integrations.batch import Journal
from rsd_integrations.evaluation.report import Outcome, Report
from rsd_integrations.evaluation.tasks import Item, Task, find_task

Found = Result | RunError | PromptError


def evaluate(
    config: RSDConfig,
    task: str | Mapping[str, Any] | Task,
    methods: Sequence[str],
    n: int | None,
    seed: int,
    progress: Callable[[Report], None] = lambda _: None,
    *,
    concurrency: int = 16,
    journal: Path | None = None,
) -> Report:
    """Answer the same problems by several methods.

    Methods take turns, so that none slows another one down; requests of one method are in flight side by side. A
    method whose policy learns goes through the problems one by one and in order, so that its results do not depend on
    chance; cut off, it begins anew.

    Args:
        config: Models, default policy and settings.
        task: See `find_task`.
        methods: As `parse_method` takes them; their texts are their names in the report.
        n: Number of problems; None is all of them.
        seed: Draws the problems and seeds the decoders.
        progress: Called after each answer.
        concurrency: Requests in flight. Seconds are those of a request under this load; 1 gives a lone request's.
        journal: File of finished answers; a run that finds it goes on from there.

    Raises:
        ConfigurationError: Unknown task or method, or a journal of another run, before any model is loaded.
        RunError: A method failed before it gave a single answer.
    """
    if not methods or concurrency < 1:
        raise ConfigurationError(f"evaluate takes methods and concurrency ≥ 1 (got {methods!r}, {concurrency})")
    parsed = {name: parse_method(name) for name in methods}
    items = find_task(task).draw(n, seed)
    told = task if isinstance(task, str) else find_task(task).model_dump_json()
    kept = _journal(journal, config, items, seed, parsed) if journal is not None else None
    report = Report(
        told, seed, concurrency, [(item.question, item.reference) for item in items], {m: {} for m in parsed}
    )
    for row in kept.rows if kept else ():
        if row["method"] in parsed:
            report.add(row["method"], row["problem"], Outcome(**row["outcome"]))
    progress(report)
    setup = config.setup()
    decoders = {name: method.build(setup.afresh()) for name, method in parsed.items()}
    try:
        for name, method in parsed.items():
            todo = [i for i in range(len(items)) if i not in report.outcomes[name]]
            at_once = 1 if method.learns or _learns(decoders[name]) else concurrency
            for i, result in iterate(_answers(decoders[name], items, todo, seed, at_once)):
                if not isinstance(result, Result):
                    partial = result.partial if isinstance(result, RunError) else None
                    if not report.outcomes[name] and not (partial and partial.steps):
                        raise result  # nothing has worked yet: the set-up is broken
                    result = partial or Result((), "", "error", (), Ledger(), 0.0)
                outcome = Outcome.of(result, items[i].grade(result.text))
                report.add(name, i, outcome)
                if kept and outcome.finish_reason != "error":  # a resumed run tries failures again
                    kept.add({"method": name, "problem": i, "outcome": asdict(outcome)})
                progress(report)
    finally:
        if kept:
            kept.close()
    return Report(report.task, seed, concurrency, report.problems, report.outcomes)


def _learns(decoder: Decoder) -> bool:
    policy = getattr(decoder, "policy", None)
    return isinstance(policy, WeightingPolicy) and policy.learns


def _journal(file: Path, config: RSDConfig, items: list[Item], seed: int, methods: dict[str, Method]) -> Journal:
    asked = hashlib.sha256(repr([item.prompt for item in items]).encode()).hexdigest()
    about = {"journal": 1, "config": config.model_dump(mode="json"), "seed": seed, "n": len(items), "problems": asked}
    journal = Journal(file, about)
    whole = {name for name in methods if sum(row["method"] == name for row in journal.rows) == len(items)}
    known = {name: method.learns or config.policy.learns for name, method in methods.items()}
    journal.keep(lambda row: row["method"] in whole or not known.get(row["method"], False))
    return journal


async def _answers(
    decoder: Decoder, items: Sequence[Item], todo: Sequence[int], seed: int, concurrency: int
) -> AsyncGenerator[tuple[int, Found], None]:
    """The results by number of the problem, in the order in which they are ready."""
    slots = asyncio.Semaphore(concurrency)

    async def answer(i: int) -> tuple[int, Found]:
        async with slots:
            try:
                return i, await decoder.arun(items[i].prompt, seed=seed)
            except (RunError, PromptError) as error:
                return i, error

    tasks = [asyncio.ensure_future(answer(i)) for i in todo]
    try:
        for task in asyncio.as_completed(tasks):
            yield await task
    finally:
        for pending in tasks:
            pending.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
