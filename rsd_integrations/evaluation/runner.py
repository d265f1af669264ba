"""Runs many methods over the same problems, with many requests in flight."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import AsyncGenerator, Callable, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, aclosing, closing
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
    UnrecoverableError,
    parse_method,
)
from rsd_core.blocking import iterate
from rsd_core.methods import RSDMethod, Setup
from rsd_integrations.evaluation.described import described
from rsd_integrations.evaluation.grading_process import GradingLimit
from rsd_integrations.evaluation.journal import EvaluationJournal
from rsd_integrations.evaluation.outcome import Outcome
from rsd_integrations.evaluation.report import Report
from rsd_integrations.evaluation.side_by_side import as_ready
from rsd_integrations.evaluation.tasks import Item, Task, find_task
from rsd_integrations.recorded import Recorder, Replay

Answer = Result | RunError | PromptError


def evaluate(
    config: RSDConfig,
    task: str | Mapping[str, Any] | Task,
    methods: Sequence[str],
    n: int | None,
    seed: int,
    progress: Callable[[Report], None] = lambda _: None,
    *,
    seeds: int = 1,
    concurrency: int = 16,
    journal: Path | None = None,
    record: Path | None = None,
    replay: Replay | None = None,
) -> Report:
    """Answer the same problems with several methods.

    Methods run one after another, so that none slows another one down; requests of one method run concurrently. A
    method whose policy learns goes through the problems one by one and in order, so that its results do not depend on
    chance, and starts over for each seed; if interrupted, it starts from the beginning.

    Args:
        config: Models, default policy and settings.
        task: See `find_task`.
        methods: As `parse_method` accepts them; their texts are their names in the report.
        n: Number of problems; None is all of them.
        seed: Draws the problems and seeds the decoders.
        progress: Called at the beginning and after each answer.
        seeds: How often each problem is answered, with seeds from `seed` on; at least 1.
        concurrency: Requests in flight. Seconds are those of a request under this load; 1 gives a lone request's.
        journal: File of finished answers; a run that finds it resumes.
        record: File that all calls of the models are recorded in.
        replay: A recorded run that answers instead of the models. Lookahead and hedging, which change no answer, are
            off.

    Raises:
        ConfigurationError: Unknown task or method, or a journal or record of another run; before any model is loaded.
        RunError: A method failed before it gave a single answer.
        MissingCallError: The recorded run lacks a call.
    """
    if not methods:
        raise ConfigurationError("no method to evaluate is named; name at least one, such as rsd, target or draft")
    if concurrency < 1 or seeds < 1:
        raise ConfigurationError(
            f"evaluate needs concurrency ≥ 1 and seeds ≥ 1 (got concurrency={concurrency}, seeds={seeds})"
        )
    if replay is not None and (record or journal):
        raise ConfigurationError("a replay takes seconds and asks no model: leave record and journal out")
    began = time.monotonic()
    parsed = _checked(methods, config.setup(replay.load if replay else None))
    items = find_task(task).draw(n, seed)
    label = task if isinstance(task, str) else find_task(task).model_dump_json()
    problems = [(item.question, item.reference) for item in items]
    report = Report(label, seed, concurrency, problems, {m: {} for m in parsed}, seeds, described(config))
    if replay is not None:
        report.replayed, config = replay.title, _without_early_work(config)
    with ExitStack() as stack:
        noted = stack.enter_context(EvaluationJournal(journal, config, items, seed)) if journal else None
        if noted is not None:
            _take_up(report, noted, {name for name, method in parsed.items() if _learns(method, config)})
        about: dict[str, Any] = {"task": label, "n": n, "seed": seed, "seeds": seeds, "methods": list(methods)}
        about |= {"config": config.model_dump(mode="json")}
        recorder = stack.enter_context(Recorder(record, about)) if record else None
        tape = replay or recorder
        progress(report)
        setup = config.setup(None if tape is None else tape.load)
        # Each seed has its own policy, even if the method brings it.
        decoders = {name: [parse_method(name).build(setup.afresh()) for _ in range(seeds)] for name in parsed}
        for name, own in decoders.items():
            at_once = 1 if _learns(parsed[name], config) else concurrency
            for number, answer in _in_turn(own, items, report.outcomes[name], seed, at_once):
                outcome = _outcome(answer, items[number % len(items)], alone=not report.outcomes[name])
                if replay is not None and isinstance(answer, Result):
                    outcome = dataclasses.replace(outcome, seconds=answer.ledger.total.seconds)
                report.add(name, number, outcome)
                if recorder is not None:
                    recorder.flush()  # before the journal: an answer in there is not requested again
                if noted is not None and not outcome.failed:  # a resumed run retries failures
                    noted.add_outcome(name, number, outcome)
                progress(report)
    return dataclasses.replace(report, elapsed=time.monotonic() - began, methods={})


def _in_turn(
    decoders: Sequence[Decoder], items: Sequence[Item], done: Container[int], seed: int, at_once: int
) -> Iterator[tuple[int, Answer]]:
    """The answers that are not done yet, seed after seed, in the order in which they are ready."""
    n = len(items)
    for k, decoder in enumerate(decoders):
        todo = [i for i in range(n) if k * n + i not in done]
        with closing(iterate(_answers(decoder, items, todo, seed + k, at_once))) as answers:
            for i, answer in answers:
                yield k * n + i, answer


def _checked(methods: Sequence[str], setup: Setup) -> dict[str, Method]:
    """The methods by their texts, checked as far as possible before models are loaded."""
    parsed = {name: parse_method(name) for name in methods}
    for method in parsed.values():
        method.check(setup)
    return parsed


def _without_early_work(config: RSDConfig) -> RSDConfig:
    """Settings for the same answers without speculative calls."""
    return config.model_copy(update={"settings": config.settings.model_copy(update={"lookahead": 0, "hedge": None})})


def _take_up(report: Report, noted: EvaluationJournal, learners: Container[str]) -> None:
    """Count the answers in a journal."""
    for name in report.outcomes:
        for number, outcome in noted.outcomes(name, report.answers, in_order=name in learners).items():
            report.add(name, number, outcome)


def _learns(method: Method, config: RSDConfig) -> bool:
    """Whether a method's answers depend on those before them."""
    return method.learns or (isinstance(method, RSDMethod) and method.policy is None and config.policy.learns)


def _outcome(answer: Answer, item: Item, *, alone: bool) -> Outcome:
    """The outcome of an answer.

    Raises:
        RunError: Nothing has worked yet, so the set-up or the grader is broken.
    """
    error = None if isinstance(answer, Result) else answer
    if not isinstance(answer, Result):
        partial = answer.partial if isinstance(answer, RunError) else None
        if alone and not (partial and partial.steps):
            raise answer
        answer = partial or Result((), "", "error", (), Ledger(), 0.0)
    verdict = item.verdict(answer.text)
    if alone and verdict.error is not None and not isinstance(verdict.error, GradingLimit):
        raise verdict.error
    return Outcome.of(answer, verdict.right, error, grader=item.grader, ungraded=verdict.error)


async def _answers(
    decoder: Decoder, items: Sequence[Item], todo: Sequence[int], seed: int, concurrency: int
) -> AsyncGenerator[tuple[int, Answer], None]:
    """The results by number of the problem, in the order in which they are ready."""

    async def answer(i: int) -> Answer:
        try:
            return await decoder.arun(items[i].prompt, seed=seed)
        except UnrecoverableError:
            raise
        except (RunError, PromptError) as error:
            return error

    async with aclosing(as_ready(answer, todo, concurrency)) as answers:
        async for i, result in answers:
            yield i, result
