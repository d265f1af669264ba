"""Options that several commands share, and the configuration they make."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rsd_core import RSDConfig, RSDError

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
        "constant:0.5, budget_aware:0.2, request_budget:calls=3, advantage_aware, rules in front of one "
        "(first_steps:2/retry:1/budget_aware:0.2), or a file from `rsd calibrate`.",
    ),
]
Temperature = Annotated[float | None, typer.Option(help="0 takes the most likely token.")]
Lookahead = Annotated[
    int | None, typer.Option(min=0, help="Steps that are drafted ahead of the verifier; answers stay the same.")
]
Hedge = Annotated[
    float | None,
    typer.Option(metavar="CHANCE", help="The target begins early where rejection is likelier than this, in (0, 1)."),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="YAML or JSON with drafter, verifier, target, policy, settings."),
]
Concurrency = Annotated[int, typer.Option(min=1, help="Requests in flight at once.")]


def read_mapping(file: Path, option: str) -> dict[str, Any]:
    """The mapping that a YAML or JSON file holds.

    Raises:
        RSDError: The file cannot be read, or holds something else.
    """
    import yaml

    try:
        data = yaml.safe_load(file.read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise RSDError(f"{option} {file} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise RSDError(f"{option} {file} holds no mapping of fields, but {type(data).__name__}")
    return data


def configured(
    data: dict[str, Any],
    draft: str | None,
    target: str | None,
    verifier: str | None,
    policy: str | None,
    temperature: float | None,
    seed: int | None,
    **further: Any,
) -> RSDConfig:
    """The configuration of a command: a file's, with the command line's own words on top.

    Further settings go by their names; None leaves them to the file.
    """
    data = dict(data)
    for key, value in (("drafter", draft), ("target", target), ("verifier", verifier), ("policy", policy)):
        if value is not None:
            data[key] = value
    own = {"seed": seed, "temperature": temperature, **further}
    settings = data.get("settings") or {}
    if isinstance(settings, dict):
        settings = settings | {key: value for key, value in own.items() if value is not None}
    return RSDConfig.parse({**data, "settings": settings})


def writable(**files: Path | None) -> None:
    """Check that files can be written before hours of work go into them.

    Raises:
        RSDError: A folder does not exist.
    """
    for option, file in files.items():
        if file is not None and not file.parent.is_dir():
            raise RSDError(f"--{option} {file}: the folder {file.parent} does not exist")
