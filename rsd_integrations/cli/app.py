"""Commands and their options."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

from rsd_core import Finished, MissingDependency, RSDError, as_prompt, backends

try:
    import typer
    import yaml  # noqa: F401
    from rich.console import Console
except ModuleNotFoundError as missing:
    raise SystemExit(str(MissingDependency(missing.name or "typer", "cli", "the rsd command"))) from None

from rsd_integrations.cli.batch import batch
from rsd_integrations.cli.checkpoints import export, merge, plan
from rsd_integrations.cli.doctor import doctor
from rsd_integrations.cli.evaluate import calibrate_, eval_
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
from rsd_integrations.cli.score import score
from rsd_integrations.cli.show import RunView
from rsd_integrations.display import to_html
from rsd_integrations.evaluation.tasks import find_task

DEMO_SEED = 2
"""Draws the default problem: a held-out one in which a draft is replaced."""
app = typer.Typer(
    name="rsd",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Reward-guided speculative decoding: a cheap model drafts each step, a reward model scores it, and only "
    "rejected steps go to the strong model. Everything defaults to small models that ship with the package.",
)


@app.command()
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
    item = None if question is not None else find_task("embedded").draw(1, DEMO_SEED if seed is None else seed)[0]
    asked = item.question if item is not None else str(question)
    as_prompt(asked)  # a mistake is told before any model is loaded
    writable(html=html)
    view = None if as_json else RunView(Console(), asked, made.policy, None if item is None else item.reference)
    with made.build() as decoder:
        for event in decoder.stream(asked):
            if view is not None:
                view.show(event)
            if isinstance(event, Finished):
                if html is not None:
                    html.write_text(to_html(event.result, decoder), encoding="utf-8")
                if as_json:
                    print(json.dumps(event.result.to_dict(), indent=2))


app.command()(batch)
app.command("eval")(eval_)
app.command("calibrate")(calibrate_)
app.command()(score)
app.command()(doctor)
app.command()(plan)
app.command()(merge)
app.command()(export)


@app.command()
def models(as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """List what a SPEC can name."""
    from rsd_integrations.prm_formats import CRITICS, FORMATS

    found = backends()
    if as_json:
        data = {
            "backends": {
                b.kind: {"summary": b.summary, "extra": b.extra, "examples": list(b.examples)} for b in found.values()
            },
            "prm_formats": {
                f.name: {
                    "models": list(f.models),
                    "separator": f.separator,
                    "read_position": f.read,
                    "threshold": f.threshold,
                    "aggregation": f.aggregation,
                    "source": f.source,
                }
                for f in FORMATS.values()
            },
            "critics": {
                c.name: {"models": list(c.models), "threshold": c.threshold, "source": c.source}
                for c in CRITICS.values()
            },
        }
        print(json.dumps(data, indent=2))
        return
    console = Console()
    for backend in found.values():
        console.print(f"[bold]{backend.kind}:[/]…  {backend.summary}", highlight=False)
        for example in backend.examples:
            console.print(f"    {example}", style="cyan", highlight=False)
        if backend.extra:
            console.print(f'    needs pip install "rsd-decoding\\[{backend.extra}]"', style="dim", highlight=False)
    console.print("\n[bold]Process reward models[/] are told by their weights; known formats:")
    for made in FORMATS.values():
        console.print(f"    {made.name}: {', '.join(made.models)}", highlight=False)
    console.print("\n[bold]Generative reward models[/] judge as judge:hf:MODEL:")
    for critic in CRITICS.values():
        if critic.models:
            console.print(f"    {critic.name}: {', '.join(critic.models)}", highlight=False)


def main() -> None:
    """Entry point: errors of this project are told in one line, without a traceback."""
    try:
        app()
    except RSDError as error:
        told = f"[bold red]Error:[/] {_escape(str(error))}"
        Console(stderr=True, emoji=False, highlight=False).print(told, soft_wrap=True)  # `mine:soon:` is a spec
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
