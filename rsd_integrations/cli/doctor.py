"""`rsd doctor`: whether servers, GGUF files and the models of a configuration can play their roles."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Column, Table
from rich.text import Text

from rsd_core import RSDError
from rsd_core.blocking import wait_for
from rsd_core.control_characters import visible
from rsd_core.data import masked
from rsd_integrations.cli.examining import Examined, examine, models_of
from rsd_integrations.cli.options import ConfigFile, configured, read_mapping
from rsd_integrations.cli.terminal import Terminal, plain
from rsd_integrations.cli.verdicts import Verdict, roles_of, to_paste, verdicts

_SIGNS = {True: ("ok", "green"), False: ("FAULT", "bold red"), None: ("–", "yellow")}


def doctor(
    specs: Annotated[
        list[str] | None,
        typer.Argument(metavar="SPEC...", help="Models behind URLs and GGUF files, such as openai:… judge:… gguf:…"),
    ] = None,
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON, and nothing else.")] = False,
) -> None:
    """Test servers and GGUF files before a run: refused fields, thoughts, ends of steps, libraries, memory.

    With `--config`, all roles of a configuration, or of each model of a file for `rsd serve`, get a verdict and, if a
    better one was found, the spec to use. Models are tested concurrently, each once. The exit code is 1 if something
    necessary does not work.

    Example: `rsd doctor openai:draft@http://127.0.0.1:8000/v1 pooling:prm@http://127.0.0.1:8002/v1`
    """
    if bool(specs) == (config is not None):
        raise RSDError("rsd doctor takes either SPECs or --config FILE")
    if config is None:
        works = _examine_specs(specs or [], as_json)
    else:
        works = _examine_file(read_mapping(config, "--config"), f"--config {config}", as_json)
    if not works:
        raise typer.Exit(1)


def _examine_specs(specs: Sequence[str], as_json: bool) -> bool:
    examined = wait_for(examine(specs))
    if as_json:
        by_spec = {spec: [one for model in models_of(spec) for one in examined[model].findings] for spec in specs}
        _print_json({spec: [asdict(one) for one in findings] for spec, findings in by_spec.items()})
    else:
        for model, found in examined.items():
            _show(model, found)
    return not any(found.faults for found in examined.values())


def _examine_file(data: dict[str, object], source: str, as_json: bool) -> bool:
    """Examine a configuration, or each of those in a file for `rsd serve`."""
    served = data.get("models")
    if not isinstance(served, dict):
        works, told = _examine_roles(data, source, as_json)
    else:
        works, told = True, {}
        for name, own in served.items():
            if not as_json:
                print(f"\n{visible(str(name))}")
            fine, told[name] = _examine_roles(own or {}, f"{source}: models.{name}", as_json)
            works = works and fine
    if as_json:
        _print_json(told)
    return works


def _examine_roles(data: dict[str, object], source: str, as_json: bool) -> tuple[bool, dict[str, object]]:
    config = configured(data, *[None] * 6, source=source)
    roles = roles_of(config)
    examined = wait_for(examine(list(dict.fromkeys(roles.values()))))
    found = verdicts(config, examined)
    changes = to_paste(found)
    models = {
        masked(model): {"where": one.where, "findings": [asdict(finding) for finding in one.findings]}
        for model, one in examined.items()
    }
    if not as_json:
        for one in {id(one): one for one in examined.values()}.values():  # models with the same requests are one
            own = [model for model in examined if examined[model] is one]
            _show(own[0], one, [role for role, spec in roles.items() if set(own) & set(models_of(spec))])
        _show_verdicts(found, changes)
    told: dict[str, object] = {"roles": [asdict(one) for one in found], "changes": changes, "models": models}
    return all(one.ok for one in found), told


def _print_json(data: object) -> None:
    print(visible(json.dumps(data, indent=2)))


def _show(model: str, found: Examined, roles: Sequence[str] = ()) -> None:
    specs = [one for one in found.findings if one.name == "spec"]
    title = masked(model) + (f" ({', '.join(roles)})" if roles else "")
    Terminal().print(plain(title), soft_wrap=True)  # for copying
    Terminal().print(_table((one.name, one.ok, one.told) for one in found.findings if one not in specs))
    for one in specs:
        Terminal().print(plain(f"spec: {one.told}"), soft_wrap=True)


def _table(rows: Iterable[tuple[str, bool | None, str]]) -> Table:
    table = Table("", "", Column(overflow="fold"), show_header=False)  # specs and URLs have no spaces to break at
    for name, ok, told in rows:
        sign, style = _SIGNS[ok]
        table.add_row(plain(name), Text(sign, style), plain(told))
    return table


def _show_verdicts(found: Sequence[Verdict], changes: Mapping[str, object]) -> None:
    Terminal().print(_table((one.role, one.ok, one.told) for one in found))
    if changes:
        import yaml

        told = yaml.safe_dump(dict(changes), sort_keys=False, allow_unicode=True, width=2**31)
        Terminal().print(plain(f"To change in the configuration:\n{told.rstrip()}"), soft_wrap=True)
    elif all(one.ok for one in found):
        Terminal().print("The configuration needs no change.")
