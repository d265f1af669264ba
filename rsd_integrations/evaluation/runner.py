"""Runs many methods over the same problems, many requests in flight."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing, closing, nullcontext
from pathlib import Path
from typing import Any

from rsd_core import ConfigurationError, Decoder, Ledger, Method, PromptError, Result, RSDConfig, RunError, parse_method
from rsd_core.blocking import iterate
from rsd_core.methods import RSDMethod
from rsd_integrations.evaluation.grading_process import GradingLimit
from rsd_integrations.evaluation.journal import EvaluationJournal
from rsd_integrations.evaluation.report import Outcome, Report
from rsd_integrations.evaluation.side_by_side import as_ready
from rsd_integrations.evaluation.statistics import binomial_test
from rsd_integrations.evaluation.tasks import Item, Task, find_task

Answer = Result | RunError | PromptError


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
    binomial_test(1, 1)  # a missing package is told before anything is computed
    parsed = {name: parse_method(name) for name in methods}
    items = find_task(task).draw(n, seed)
    label = task if isinstance(task, str) else find_task(task).model_dump_json()
    report = Report(
        label, seed, concurrency, [(item.question, item.reference) for item in items], {m: {} for m in parsed}
    )
    learners = {name for name, method in parsed.items() if _learns(method, config)}
    noting: AbstractContextManager[EvaluationJournal | None] = nullcontext()
    if journal is not None:
        noting = EvaluationJournal(journal, config, items, seed)
    with noting as noted:
        if noted is not None:
            for name in parsed:
                for problem, outcome in noted.outcomes(name, in_order=name in learners).items():
                    report.add(name, problem, outcome)
        progress(report)
        setup = config.setup()
        decoders = {name: method.build(setup.afresh()) for name, method in parsed.items()}
        for name, decoder in decoders.items():
            todo = [i for i in range(len(items)) if i not in report.outcomes[name]]
            at_once = 1 if name in learners else concurrency
            with closing(iterate(_answers(decoder, items, todo, seed, at_once))) as answers:
                for i, answer in answers:
                    outcome = _outcome(answer, items[i], alone=not report.outcomes[name])
                    report.add(name, i, outcome)
                    if noted is not None and not outcome.failed:  # a resumed run tries failures again
                        noted.add_outcome(name, i, outcome)
                    progress(report)
    return Report(report.task, seed, concurrency, report.problems, report.outcomes)


def _learns(method: Method, config: RSDConfig) -> bool:
    """Whether a method's answers depend on those before them."""
    return method.learns or (isinstance(method, RSDMethod) and method.policy is None and config.policy.learns)


def _outcome(answer: Answer, item: Item, *, alone: bool) -> Outcome:
    """The outcome of an answer.

    Raises:
        RunError: Nothing has worked yet, so that the set-up or the grader is broken.
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
        except (RunError, PromptError) as error:
            return error

    async with aclosing(as_ready(answer, todo, concurrency)) as answers:
        async for i, result in answers:
            yield i, result
