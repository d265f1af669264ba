"""`rsd models`: what a SPEC can name."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from rsd_core import backends
from rsd_integrations.cli.terminal import Terminal
from rsd_integrations.prm_formats import CRITICS, FORMATS, usable


def models(as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """List what a SPEC can name."""
    by_kind = backends()
    formats, critics = dict(usable(FORMATS)).values(), dict(usable(CRITICS)).values()  # a broken package is left out
    files = _gguf_packages()
    if as_json:
        data = {
            "backends": {
                b.kind: {"summary": b.summary, "extra": b.extra, "examples": list(b.examples)} for b in by_kind.values()
            },
            "gguf_packages": files,
            "prm_formats": {
                f.name: {
                    "models": list(f.models),
                    "separator": f.separator,
                    "read_position": f.read,
                    "threshold": f.threshold,
                    "aggregation": f.aggregation,
                    "thoughts": f.thoughts,
                    "source": f.source,
                }
                for f in formats
            },
            "critics": {
                c.name: {"models": list(c.models), "threshold": c.threshold, "source": c.source} for c in critics
            },
        }
        print(json.dumps(data, indent=2))
        return
    console = Terminal()
    for backend in by_kind.values():
        console.print(f"[bold]{backend.kind}:[/]…  {backend.summary}", highlight=False)
        for example in backend.examples:
            console.print(f"    {example}", style="cyan", highlight=False)
        if backend.extra:
            needs = f'    needs pip install "rsd-decoding\\[{backend.extra}]"'
            if backend.gguf:
                needs += '; with gguf= instead "rsd-decoding\\[llamacpp]"'
            console.print(needs, style="dim", highlight=False)
    if files:
        console.print("\n[bold]GGUF files in installed packages[/], as drafter or target:")
        for spec in files:
            console.print(f"    {spec}", style="cyan", highlight=False)
    console.print(
        "\n[bold]Arguments of a chat template[/] are options template.NAME=VALUE, as with thinking models:\n"
        "    [cyan]hf,template.enable_thinking=false:Qwen/Qwen3-8B[/]",
        highlight=False,
    )
    console.print("\n[bold]Process reward models[/] are told by their weights; known formats:")
    for prm_format in formats:
        console.print(f"    {prm_format.name}: {', '.join(prm_format.models)}", highlight=False)
    console.print("\n[bold]Generative reward models[/] judge as judge:hf:MODEL:")
    for critic in critics:
        if critic.models:
            console.print(f"    {critic.name}: {', '.join(critic.models)}", highlight=False)


def _gguf_packages() -> list[str]:
    """Specs of the GGUF files that packages of this environment hold."""
    try:
        from rsd_integrations.llamacpp.files import packages
    except ModuleNotFoundError:  # without the extra, which is named beside the kind
        return []
    return [f"gguf:{text}" for text in packages()]
