"""`rsd run`: one problem, shown as it is solved."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Annotated

import typer

from rsd_core import Finished, RSDConfig, RSDError, as_prompt
from rsd_core.control_characters import visible
from rsd_core.prompts import STEP_BY_STEP
from rsd_integrations.cli.options import (
    ConfigFile,
    Delimiter,
    Draft,
    Hedge,
    Lookahead,
    MaxThoughtTokens,
    MaxTokens,
    MethodText,
    PolicyText,
    TargetSpec,
    Temperature,
    VerifierSpec,
    check_outputs,
    configured,
    read_mapping,
)
from rsd_integrations.cli.show import RunView
from rsd_integrations.cli.starting import without_collection
from rsd_integrations.cli.terminal import Terminal, end_if_idle, resumable, say
from rsd_integrations.cli.unused import refuse_unused
from rsd_integrations.cli.waits import Waits
from rsd_integrations.embedded.task import problems
from rsd_integrations.output_files import write_output
from rsd_integrations.role_faults import RoleFaults

DEMO_SEED = 2
"""Seed of the default problem: a held-out one in which a draft is replaced."""


def run(
    question: Annotated[str | None, typer.Argument(help="The problem; by default one of the embedded task.")] = None,
    draft: Draft = None,
    target: TargetSpec = None,
    verifier: VerifierSpec = None,
    policy: PolicyText = None,
    method: MethodText = None,
    temperature: Temperature = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the default problem and the random numbers.")] = None,
    delimiter: Delimiter = None,
    max_tokens: MaxTokens = None,
    max_thought_tokens: MaxThoughtTokens = None,
    lookahead: Lookahead = None,
    hedge: Hedge = None,
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the trace there, as a page for a browser.")
    ] = None,
    system: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="System prompt for your own question. By default one that asks for steps and a final answer "
            "in \\boxed{}, as in the paper; none for the embedded models, trained without one. '' is none.",
        ),
    ] = None,
    thoughts: Annotated[
        bool, typer.Option("--thoughts", help="Show whole thoughts, not folded into a line; also on the page.")
    ] = False,
) -> None:
    """Solve one problem and watch it happen, step by step.

    Example: `rsd run "Mia has 45 apples. On Monday she buys 12 more. How many apples does Mia have now?"`
    """
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
    if thoughts and as_json and html is None:
        raise RSDError("--thoughts has no effect with --json, which has whole thoughts; remove it")
    item = next(problems("test", DEMO_SEED if seed is None else seed)) if question is None else None
    asked = item.question if item is not None else str(question)
    as_prompt(asked)  # reports a mistake before any model is loaded
    if system is None:
        system = "" if item is not None or _know_no_system_prompt(rsd_config) else STEP_BY_STEP
    prompt = as_prompt([("system", system), ("user", asked)] if system else asked)
    check_outputs(html=html)
    reference = None if item is None else str(item.answer)
    terminal = Terminal()
    view = None if as_json else RunView(terminal, asked, reference, thoughts=thoughts)
    waits = Waits(terminal if view is not None and terminal.is_terminal else Terminal(stderr=True))
    with resumable(lambda: "A single run saves nothing; run again"), view or contextlib.nullcontext(), waits:
        with without_collection():
            decoder = rsd_config.build()
        with decoder:
            if view is not None:
                view.attach(decoder, prompt)
            for event in decoder.stream(prompt):
                if view is not None:
                    with waits.aside():
                        view.show(event)
                if isinstance(event, Finished):
                    result = event.result
                    if as_json:
                        print(visible(json.dumps(result.to_dict(), indent=2)))
                    if html is not None:
                        from rsd_integrations.display import to_html

                        write_output(html, to_html(result, decoder, thoughts=thoughts))
    if html is not None and html.is_file():  # not a pipe
        say(f"written to {html}")
    faults = RoleFaults()
    faults.add(result)
    for line in faults.abstentions:
        say(f"Warning: {line}", "yellow")
    end_if_idle(faults.never_worked, "Fix the cause, then run again")


def _know_no_system_prompt(config: RSDConfig) -> bool:
    """Whether a model that writes was trained without a system prompt, or is scripted."""
    writers = {"drafter": config.drafter, "target": config.target}
    used = [spec for role, spec in writers.items() if role in config.method.roles]  # others keep their defaults
    return any(spec.startswith(("embedded", "scripted")) for spec in used)
