"""`rsd batch`: many prompts, with results in a file that survives whatever ends the run."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from rsd_core import ConfigurationError, RSDError
from rsd_integrations.batch import Progress, read_problems, run_journaled, write_rows
from rsd_integrations.batch.runs import FORM
from rsd_integrations.cli.options import (
    Concurrency,
    ConfigFile,
    Delimiter,
    Draft,
    Hedge,
    Lookahead,
    MaxThoughtTokens,
    MaxTokens,
    MethodText,
    PolicyText,
    Strict,
    TargetSpec,
    Temperature,
    VerifierSpec,
    check_outputs,
    configured,
    read_mapping,
)
from rsd_integrations.cli.progress import batch_progress
from rsd_integrations.cli.terminal import Terminal, end_if_idle, resumable, say
from rsd_integrations.cli.unused import refuse_unused
from rsd_integrations.data_files import check_journal_format, check_written_format
from rsd_integrations.display.reading import counted, duration, spending

CONCURRENCY = 64
"""Requests in flight by default."""


def batch(
    prompts: Annotated[
        str,
        typer.Argument(
            help='JSONL: each line "TEXT", or {"prompt": TEXT or MESSAGES, "id": NAME}. Or JSON, CSV, TSV or Parquet '
            "with such columns, a folder of such files, or dataset:ORG/NAME,config=…,split=…"
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Results, one per line as they arrive.")],
    address: Annotated[
        str | None,
        typer.Argument(help="For --ray: the cluster, as HOST:PORT; by default RAY_ADDRESS, else only this machine."),
    ] = None,
    ray: Annotated[bool, typer.Option("--ray", help="Decode on a Ray cluster.")] = False,
    actors: Annotated[
        str | None,
        typer.Option(
            metavar="ACTORS",
            help="For --ray: number and resources of decoders: 4, or count=4,num_gpus=1,num_cpus=2,memory=8e9.",
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="The column of prompts; by default one with such a name.")
    ] = None,
    draft: Draft = None,
    target: TargetSpec = None,
    verifier: VerifierSpec = None,
    policy: PolicyText = None,
    method: MethodText = None,
    temperature: Temperature = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the random numbers.")] = None,
    delimiter: Delimiter = None,
    max_tokens: MaxTokens = None,
    max_thought_tokens: MaxThoughtTokens = None,
    lookahead: Lookahead = None,
    hedge: Hedge = None,
    config: ConfigFile = None,
    concurrency: Concurrency = CONCURRENCY,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed/--keep-failed",
            help="Whether to retry problems that failed before, and those in which the drafter or the verifier failed "
            "at every call.",
        ),
    ] = True,
    strict: Strict = False,
    rows: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="At the end, write one row per prompt there, with text, thought, rewards, tokens and cost: JSONL, "
            "CSV, TSV or Parquet, by the suffix.",
        ),
    ] = None,
) -> None:
    """Solve many problems; run it again to resume after a kill, a crash or a fault.

    Example: `rsd batch prompts.jsonl --out results.jsonl --concurrency 128`; over a cluster, where the concurrency is
    per decoder: `rsd batch prompts.jsonl --out results.jsonl --ray 10.0.0.1:6379 --actors 8`
    """
    if not ray and (word := address or (actors and f"--actors {actors}")):
        raise ConfigurationError(f"{word!r} needs --ray: add it, or leave {word!r} out")
    data = read_mapping(config, "--config")
    words = (draft, target, verifier, policy, temperature, seed)
    rsd_config = configured(
        data,
        *words,
        source=f"--config {config}",
        method=method,
        delimiter=delimiter,
        max_tokens=max_tokens,
        max_thought_tokens=max_thought_tokens,
        lookahead=lookahead,
        hedge=hedge,
    )
    refuse_unused(
        rsd_config,
        data,
        f"--config {config}",
        draft=draft,
        target=target,
        verifier=verifier,
        policy=policy,
        temperature=temperature,
        lookahead=lookahead,
        hedge=hedge,
    )
    check_outputs(out=out, rows=rows)
    check_journal_format(out, "--out")
    if rows is not None:
        check_written_format(rows, "--rows")
    problems = read_problems(prompts, prompt=prompt, strict=strict)
    if not problems:
        raise ConfigurationError(f"{prompts} has no rows; it needs one for each prompt")
    so_far = Progress(len(problems))

    def note(progress: Progress) -> None:
        nonlocal so_far
        so_far = progress
        show(progress)

    def resume() -> str:
        done = so_far.found + so_far.done
        return f"{done} of {so_far.total} problems are in {out}; the same command continues from there"

    began = time.monotonic()
    run = _on_ray(address, actors, concurrency) if ray else partial(run_journaled, concurrency=concurrency)
    with resumable(resume), batch_progress(Terminal(stderr=True), concurrency) as show:
        counts = run(rsd_config, problems, out, retry_failed=retry_failed, progress=note)
    found = f"{counts.found} found" + f" ({counts.kept} of them failed)" * bool(counts.kept)
    say(f"{found}, {counts.done} done ({counts.degraded} of them degraded), {counts.failed} failed: {out}")
    if counts.done:
        say(f"in total {spending(counts.spent)}, in {duration(time.monotonic() - began)}")
    if rows is not None:
        write_rows(out, problems, rows)
        say(f"written to {rows}")
    for line in counts.faults.abstentions:
        say(f"Warning: {line}", "yellow")
    end_if_idle(counts.faults.never_worked, "Fix the cause, then run the same command again: it retries them")
    if counts.refused:
        bad = next(problem.error for problem in problems if problem.error is not None)
        lines = counted(counts.refused, "line")
        say(f"{lines} of {prompts} cannot be asked. The first: {bad.rstrip('.')}; {FORM}", "yellow")
    if counts.failed:
        again = "Run again to retry." if counts.failed > counts.refused else "Correct these lines, then run again."
        raise RSDError(
            f"{counts.failed} of {counted(counts.total, 'problem')} failed; the errors are in {out}. {again}"
        )


def _on_ray(address: str | None, actors: str | None, concurrency: int) -> Callable[..., Progress]:
    """The function that runs a batch on a cluster; the options are checked before anything starts."""
    from rsd_integrations.ray.actors import Actors
    from rsd_integrations.ray.batch import run_journaled_on_ray

    parsed = Actors.parse(actors or "")
    if "concurrency" not in parsed.model_fields_set:
        parsed = parsed.model_copy(update={"concurrency": concurrency})
    elif concurrency not in (parsed.concurrency, CONCURRENCY):
        raise ConfigurationError(
            f"--concurrency {concurrency} and --actors {actors} contradict each other; give the concurrency in one"
        )
    return partial(run_journaled_on_ray, address=address, actors=parsed)
