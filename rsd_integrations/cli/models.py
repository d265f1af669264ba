"""`rsd models`: what a SPEC can name."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from rsd_core import backends
from rsd_integrations.cli.terminal import Terminal
from rsd_integrations.prm_formats import CRITICS, FORMATS, Critic, PRMFormat, usable


def models(as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """List what a SPEC can name."""
    by_kind = backends()
    formats, critics = dict(usable(FORMATS)).values(), dict(usable(CRITICS)).values()  # a broken package is left out
    files = _gguf_packages()
    if as_json:
        told = {critic.name: _critic(critic) for critic in critics}
        data = {
            "backends": {
                b.kind: {"summary": b.summary, "extra": b.extra, "examples": list(b.examples)} for b in by_kind.values()
            },
            "gguf_packages": files,
            "prm_formats": told | {f.name: _format(f) for f in formats},  # of both sorts, `generative` tells which
            "critics": told,
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
    console.print("    [cyan]./FORMAT.yaml[/]: one of your own, as prm,format=./FORMAT.yaml:MODEL", highlight=False)
    console.print("\n[bold]Generative reward models[/] write a critique first, as judge:hf:MODEL; known critics:")
    for critic in critics:
        judges = ", ".join(critic.models) or f"any model that writes, as judge,mode={critic.name}:MODEL"
        console.print(f"    {critic.name}: {judges}", highlight=False)


def _format(form: PRMFormat) -> dict[str, Any]:
    return {"spec": f"prm,format={form.name}:MODEL", "generative": False, **_told(form), "separator": form.separator}


def _critic(critic: Critic) -> dict[str, Any]:
    return {
        "spec": f"judge,mode={critic.name}:MODEL",
        "generative": True,
        **_told(critic),
        "max_tokens": critic.max_tokens,
        "samples": critic.samples,
        "temperature": critic.temperature,
        "temperature_of_several": critic.temperature if critic.several is None else critic.several,
        "top_p": critic.top_p,
        "top_k": critic.top_k,
    }


def _told(one: PRMFormat | Critic) -> dict[str, Any]:
    """What is told of every sort of reward model."""
    return {
        "models": list(one.models),
        "read_position": one.read,
        "threshold": one.threshold,
        "aggregation": one.aggregation,
        "thoughts": one.thoughts,
        "source": one.source,
    }


def _gguf_packages() -> list[str]:
    """Specs of the GGUF files that packages of this environment hold."""
    try:
        from rsd_integrations.llamacpp.files import packages
    except ModuleNotFoundError:  # without the extra, which is named beside the kind
        return []
    return [f"gguf:{text}" for text in packages()]
