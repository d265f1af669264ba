"""`rsd run`: one problem, watched as it happens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rsd_core import Finished, as_prompt
from rsd_integrations.cli.options import (
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
from rsd_integrations.cli.show import RunView
from rsd_integrations.cli.starting import without_collection
from rsd_integrations.embedded.task import problems

DEMO_SEED = 2
"""Draws the default problem: a held-out one in which a draft is replaced."""


def run(
    question: Annotated[str | None, typer.Argument(help="What to solve; an embedded problem by default.")] = None,
    draft: Draft = None,
    target: TargetSpec = None,
    verifier: VerifierSpec = None,
    policy: PolicyText = None,
    temperature: Temperature = None,
    seed: Annotated[int | None, typer.Option(help="Draws the default problem and the random numbers.")] = None,
    lookahead: Lookahead = None,
    hedge: Hedge = None,
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the trace there, as a page for a browser.")
    ] = None,
) -> None:
    """Solve one problem and watch it happen, step by step.

    Example: `rsd run "Mia has 45 apples. On Monday she buys 12 more. How many apples does Mia have now?"`
    """
    data = read_mapping(config, "--config") if config is not None else {}
    made = configured(data, draft, target, verifier, policy, temperature, seed, lookahead=lookahead, hedge=hedge)
    item = next(problems("test", DEMO_SEED if seed is None else seed)) if question is None else None
    asked = item.question if item is not None else str(question)
    as_prompt(asked)  # a mistake is told before any model is loaded
    writable(html=html)
    view = None if as_json else RunView(Console(), asked, made.policy, None if item is None else str(item.answer))
    with without_collection():
        decoder = made.build()
    with decoder:
        for event in decoder.stream(asked):
            if view is not None:
                view.show(event)
            if isinstance(event, Finished):
                if html is not None:
                    from rsd_integrations.display import to_html

                    html.write_text(to_html(event.result, decoder), encoding="utf-8")
                if as_json:
                    print(json.dumps(event.result.to_dict(), indent=2))
