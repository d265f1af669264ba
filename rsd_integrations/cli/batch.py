"""`rsd batch`: many prompts into a file that survives whatever ends the run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rsd_core import RSDError
from rsd_integrations.batch import read_problems, run_journaled
from rsd_integrations.cli.options import (
    Concurrency,
    ConfigFile,
    Draft,
    Hedge,
    Lookahead,
    PolicyText,
    TargetSpec,
    Temperature,
    VerifierSpec,
    configured,
    read_mapping,
    writable,
)
from rsd_integrations.cli.show import batch_progress


def batch(
    prompts: Annotated[
        Path, typer.Argument(help='JSONL: each line "TEXT", or {"prompt": TEXT or MESSAGES, "id": NAME}.')
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Results, one a line as they come.")],
    draft: Draft = None,
    target: TargetSpec = None,
    verifier: VerifierSpec = None,
    policy: PolicyText = None,
    temperature: Temperature = None,
    seed: Annotated[int | None, typer.Option(help="Draws the random numbers.")] = None,
    lookahead: Lookahead = None,
    hedge: Hedge = None,
    config: ConfigFile = None,
    concurrency: Concurrency = 64,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed/--keep-failed", help="Whether problems that failed before are tried again.")
    ] = True,
) -> None:
    """Solve many problems; run it again to go on after a kill, a crash or a fault.

    Example: `rsd batch prompts.jsonl --out results.jsonl --concurrency 128`
    """
    data = read_mapping(config, "--config") if config is not None else {}
    made = configured(data, draft, target, verifier, policy, temperature, seed, lookahead=lookahead, hedge=hedge)
    writable(out=out)
    problems = read_problems(prompts)
    console = Console(stderr=True)
    with batch_progress(console) as progress:
        told = run_journaled(made, problems, out, concurrency=concurrency, retry_failed=retry_failed, progress=progress)
    console.print(
        f"{told.found} found, {told.done} done ({told.degraded} of them degraded), {told.failed} failed: {out}",
        highlight=False,
        soft_wrap=True,
    )
    if told.failed:
        raise RSDError(f"{told.failed} of {told.total} problems failed; their errors are in {out}. Run again to retry.")
