"""Commands and their options."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

from rsd_core import Finished, MissingDependency, RSDConfig, RSDError, as_prompt, backends

try:
    import typer
    import yaml
    from rich.console import Console
except ModuleNotFoundError as missing:
    raise SystemExit(str(MissingDependency(missing.name or "typer", "cli", "the rsd command"))) from None

from rsd_integrations.cli.score import processbench, score
from rsd_integrations.cli.show import RunView, eval_progress, eval_table
from rsd_integrations.evaluation.runner import evaluate
from rsd_integrations.evaluation.tasks import TASKS, find_task

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

Draft = Annotated[
    str | None, typer.Option("--draft", metavar="SPEC", help="The cheap model. `rsd models` lists specs.")
]
TargetSpec = Annotated[str | None, typer.Option("--target", metavar="SPEC", help="The strong model.")]
VerifierSpec = Annotated[str | None, typer.Option("--verifier", metavar="SPEC", help="The reward model.")]
PolicyText = Annotated[
    str | None,
    typer.Option(
        "--policy",
        metavar="POLICY",
        help="From reward to acceptance: binary_step:0.7, logistic:alpha=20,delta=0.6, sigmoid, clipping, "
        "constant:0.5, budget_aware:0.2.",
    ),
]
Temperature = Annotated[float | None, typer.Option(help="0 takes the most likely token.")]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="YAML or JSON with drafter, verifier, target, policy, settings."),
]


@app.command()
def run(
    question: Annotated[str | None, typer.Argument(help="What to solve; an embedded problem by default.")] = None,
    draft: Draft = None,
    target: TargetSpec = None,
    verifier: VerifierSpec = None,
    policy: PolicyText = None,
    temperature: Temperature = None,
    seed: Annotated[int | None, typer.Option(help="Draws the default problem and the random numbers.")] = None,
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")] = False,
) -> None:
    """Solve one problem and watch it happen, step by step.

    Example: `rsd run "Mia has 45 apples. On Monday she buys 12 more. How many apples does Mia have now?"`
    """
    made = _config(config, draft, target, verifier, policy, temperature, seed)
    item = None if question is not None else find_task("embedded").draw(1, DEMO_SEED if seed is None else seed)[0]
    asked = item.prompt if item is not None else str(question)
    as_prompt(asked)  # a mistake is told before any model is loaded
    view = None if as_json else RunView(Console(), asked, item.reference if item is not None else None)
    with made.build() as decoder:
        for event in decoder.stream(asked):
            if view is not None:
                view.show(event)
            elif isinstance(event, Finished):
                print(json.dumps(event.result.to_dict(), indent=2))


@app.command("eval")
def eval_(
    task: Annotated[str, typer.Option(help=f"One of: {', '.join(TASKS)}, processbench.")] = "embedded",
    methods: Annotated[
        str,
        typer.Option(help="Separated by `;` or spaces: rsd, target, draft, rsd@POLICY. Plain names also by commas."),
    ] = "rsd,target,draft",
    n: Annotated[
        int | None,
        typer.Option(
            "--n", "-n", min=1, help="Number of problems, 100 by default; for processbench of each split, all."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws the problems and the random numbers.")] = 1,
    draft: Draft = None,
    target: TargetSpec = None,
    verifier: VerifierSpec = None,
    policy: PolicyText = None,
    temperature: Temperature = None,
    config: ConfigFile = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all figures there.")] = None,
    data: Annotated[Path | None, typer.Option(metavar="FILE", help="processbench: its files, or one of them.")] = None,
    threshold: Annotated[
        str, typer.Option(help="processbench: a step below it counts as wrong; `auto` chooses the best on gsm8k.")
    ] = "0.5",
) -> None:
    """Compare methods over the same problems: accuracy, FLOPs, seconds, share of the target.

    Example: `rsd eval --n 200 --methods "rsd@binary_step:0.5;rsd@binary_step:0.9;target;draft"`
    """
    made = _config(config, draft, target, verifier, policy, temperature, seed)
    if json_file is not None and not json_file.parent.is_dir():
        raise RSDError(f"--json {json_file}: the folder {json_file.parent} does not exist")
    if task == "processbench":
        processbench(data, made.verifier, _threshold(threshold), n, json_file)
        return
    console, n = Console(), n or 100
    with eval_progress(Console(stderr=True), n) as progress:
        report = evaluate(made, task, _split(methods), n, seed, progress)
    console.print(eval_table(report))
    if json_file is not None:
        json_file.write_text(json.dumps(report.to_dict(), indent=1) + "\n")
        console.print(f"written to {json_file}")


app.command()(score)


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


def _threshold(text: str) -> float | None:
    try:
        return None if text == "auto" else float(text)
    except ValueError as error:
        raise RSDError(f"--threshold {text!r} is neither a number nor `auto`") from error


def _split(methods: str) -> list[str]:
    """Method names; a comma separates them only outside of policies, which have commas of their own."""
    parts = methods.replace(";", " ").split()
    return [name for part in parts for name in ([part] if "@" in part else part.split(",")) if name]


def _config(
    file: Path | None,
    draft: str | None,
    target: str | None,
    verifier: str | None,
    policy: str | None,
    temperature: float | None,
    seed: int | None,
) -> RSDConfig:
    """The configuration of a command: a file's, with the command line's own words on top."""
    data: dict[str, Any] = {}
    if file is not None:
        try:
            data = yaml.safe_load(file.read_text()) or {}
        except (OSError, yaml.YAMLError) as error:
            raise RSDError(f"--config {file} cannot be read: {error}") from error
        if not isinstance(data, dict):
            raise RSDError(f"--config {file} holds no mapping of fields, but {type(data).__name__}")
    for key, value in (("drafter", draft), ("target", target), ("verifier", verifier), ("policy", policy)):
        if value is not None:
            data[key] = value
    own = {"seed": seed, "temperature": temperature}
    settings = data.get("settings") or {}
    if isinstance(settings, dict):
        settings = settings | {key: value for key, value in own.items() if value is not None}
    return RSDConfig.parse({**data, "settings": settings})


def main() -> None:
    """Entry point: errors of this project are told in one line, without a traceback."""
    try:
        app()
    except RSDError as error:
        Console(stderr=True).print(f"[bold red]Error:[/] {_escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
