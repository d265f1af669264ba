"""`rsd doctor`: whether servers behind specs, and GGUF files, can do what they are wanted for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from rsd_core import RSDError, load
from rsd_core.blocking import wait_for
from rsd_core.control_characters import visible
from rsd_core.registry import check_spec, options_of, parse_spec, parts_of
from rsd_integrations.cli.terminal import Terminal, plain
from rsd_integrations.findings import Finding

_SIGNS = {True: ("ok", "green"), False: ("FAULT", "bold red"), None: ("–", "yellow")}


def doctor(
    specs: Annotated[
        list[str],
        typer.Argument(metavar="SPEC...", help="Models behind URLs and GGUF files, such as openai:… judge:… gguf:…"),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON, and nothing else.")] = False,
) -> None:
    """Try servers and GGUF files out before a run: refused fields, thoughts, ends of steps, libraries, memory.

    The exit code is 1 where something that is needed does not work.

    Example: `rsd doctor openai:draft@http://127.0.0.1:8000/v1 pooling:prm@http://127.0.0.1:8002/v1`
    """
    by_spec = {spec: wait_for(_examine(spec)) for spec in specs}
    if as_json:
        data = {spec: [asdict(one) for one in findings] for spec, findings in by_spec.items()}
        print(visible(json.dumps(data, indent=2)))
    else:
        for spec, findings in by_spec.items():
            _show(spec, findings)
    if any(one.ok is False for findings in by_spec.values() for one in findings):
        raise typer.Exit(1)


async def _examine(spec: str) -> list[Finding]:
    files = list(_gguf(spec))
    if files:
        check_spec(spec)
        return [one for rest, inner in files for one in await _examine_file(rest, inner)]
    model: Any = load(spec)
    try:
        behind = model
        while not hasattr(behind, "examine") and hasattr(behind, "model"):
            behind = behind.model  # a judge is as good as the model it asks
        return list(await behind.examine()) if hasattr(behind, "examine") else []
    finally:
        await model.aclose()


async def _examine_file(rest: str, spec: str) -> list[Finding]:
    """The file as a model that writes and, where it plays another role, whether it can do so."""
    from rsd_integrations.llamacpp.doctor import examine

    kind = parse_spec(spec)[0].kind
    findings = await examine(rest, options_of(spec), reads_on=kind == "prm")
    if kind != "gguf" and not any(one.ok is False for one in findings):
        try:
            findings.append(Finding(kind, True, repr(load(spec))))
        except RSDError as error:
            findings.append(Finding(kind, False, str(error)))
    return findings


def _gguf(spec: str) -> Iterator[tuple[str, str]]:
    """The GGUF files of a spec, each with the spec inside of it that names it."""
    backend, rest = parse_spec(spec)
    if backend.nested:
        for part in parts_of(rest):
            yield from _gguf(part)
    elif backend.extra == "llamacpp":
        yield rest, spec


def _show(spec: str, findings: list[Finding]) -> None:
    table = Table("", "", "", title=plain(spec), title_justify="left", show_header=False)
    for one in findings:
        sign, style = _SIGNS[one.ok]
        table.add_row(plain(one.name), Text(sign, style), plain(one.told))
    if not findings:
        table.add_row("in this process", Text("–", "yellow"), Text("no server to examine"))
    Terminal().print(table)
