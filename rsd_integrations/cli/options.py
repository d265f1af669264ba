"""Options that several commands share, and the configuration they make."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from rsd_core import ConfigurationError, Limits, RSDConfig, RSDError
from rsd_integrations.output_files import check_output

Draft = Annotated[
    str | None,
    typer.Option(
        "--draft",
        metavar="SPEC",
        help="The cheap model. `rsd models` lists specs; `,template.NAME=VALUE` in one goes to its chat template.",
    ),
]
TargetSpec = Annotated[str | None, typer.Option("--target", metavar="SPEC", help="The strong model.")]
VerifierSpec = Annotated[str | None, typer.Option("--verifier", metavar="SPEC", help="The reward model.")]
PolicyText = Annotated[
    str | None,
    typer.Option(
        "--policy",
        metavar="POLICY",
        help="From reward to acceptance: binary_step:0.7, logistic:alpha=20,delta=0.6, sigmoid, clipping, "
        "constant:0.5, budget_aware:0.2, request_budget:calls=3, advantage_aware, always_draft, always_target, "
        "first_token:1.0, rules in front of one (first_steps:2/retry:1/budget_aware:0.2), or a file from "
        "`rsd calibrate`.",
    ),
]
MethodText = Annotated[
    str | None,
    typer.Option(
        "--method",
        metavar="METHOD",
        help="The decoder, RSD by default: target, draft, majority:8, best_of_n:16, specreason:7, first_steps:2, "
        "drafter_thinks, target_thinks, glimprouter:1.0, speccot:4, … over the same models.",
    ),
]
Delimiter = Annotated[
    str | None,
    typer.Option(
        metavar="SPLITTER",
        help="The end of a step: blank_line (the default), line, sentence, words, words:Wait+But, or a text such as "
        r"'\n---\n'.",
    ),
]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="Maximum tokens of the response, including its thought.")]
MaxThoughtTokens = Annotated[
    int | None, typer.Option(min=1, help="Maximum tokens of the thought, which is then closed for the answer.")
]
Temperature = Annotated[float | None, typer.Option(help="Sampling temperature; 0 is greedy decoding.")]
Lookahead = Annotated[
    int | None, typer.Option(min=0, help="Number of steps drafted ahead of the verifier; answers stay the same.")
]
Hedge = Annotated[
    float | None,
    typer.Option(metavar="CHANCE", help="The target begins early if the chance of rejection is above this, in (0, 1)."),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="YAML or JSON with drafter, verifier, target, policy, settings, thoughts, method.",
    ),
]
Concurrency = Annotated[int, typer.Option(min=1, help="Requests in flight at once.")]


Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse a file with an invalid line; by default only its row has an error.")
]


def read_mapping(file: Path | None, option: str) -> dict[str, Any]:
    """The mapping in a YAML or JSON file; empty if there is no file.

    Raises:
        RSDError: The file cannot be read, or contains something else.
    """
    if file is None:
        return {}
    import yaml

    from rsd_integrations.yaml_data import parse_yaml

    try:
        data = parse_yaml(file.read_text(encoding="utf-8-sig")) or {}
    except OSError as error:
        raise RSDError(f"{option} {file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RSDError(f"{option} {file} is not UTF-8 ({error.reason})") from error
    except yaml.YAMLError as error:
        raise RSDError(f"{option} {file}{_place(error)}") from error
    if not isinstance(data, dict):
        raise RSDError(f"{option} {file} must be a mapping of fields, but is {type(data).__name__}")
    return data


def _place(error: Exception) -> str:
    """Where a file is not YAML, and why."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    return f", line {mark.line + 1}, is not YAML: {problem}" if mark and problem else f" is not YAML: {error}"


def configured(
    data: dict[str, Any],
    draft: str | None,
    target: str | None,
    verifier: str | None,
    policy: str | None,
    temperature: float | None,
    seed: int | None,
    *,
    source: str = "",
    method: str | None = None,
    **further: Any,
) -> RSDConfig:
    """The configuration of a command: a file's, overridden by the command line.

    Args:
        data: The file's content.
        draft: From the command line, as are the next ones; None leaves the file's value.
        target: See `draft`.
        verifier: See `draft`.
        policy: See `draft`.
        temperature: See `draft`.
        seed: See `draft`.
        source: The file as the user named it, for errors in it.
        method: See `draft`.
        further: More settings and limits by name.
    """
    if source and "models" in data and isinstance(data["models"], dict):
        raise ConfigurationError(f"{source} has several models, which only rsd serve accepts; give one of them alone")
    parts = {"drafter": draft, "target": target, "verifier": verifier, "policy": policy, "method": method}
    own = data | {key: value for key, value in parts.items() if value is not None}
    words = {"seed": seed, "temperature": temperature, **further}
    given = {key: value for key, value in words.items() if value is not None}
    if "delimiter" in given:
        given["delimiter"] = given["delimiter"].replace("\\n", "\n")  # hard to type in a shell
    limits = {key: given.pop(key) for key in Limits.model_fields if key in given}
    settings = own.get("settings") or {}
    if isinstance(settings, dict):
        settings = settings | given
        if limits and isinstance(settings.get("limits", {}), dict):
            settings = settings | {"limits": settings.get("limits", {}) | limits}
    try:
        return RSDConfig.parse({**own, "settings": settings})
    except ConfigurationError as error:
        if not source:
            raise
        try:
            RSDConfig.parse(data)
        except ConfigurationError as inside:
            raise ConfigurationError(f"{source}: {inside}") from inside
        raise error from None  # the file alone is valid: the error is in the command line


def count_of(n: int | None, every: bool, default: int | None) -> int | None:
    """The number of problems; None is all of them.

    Raises:
        RSDError: Both options are given.
    """
    if every and n is not None:
        raise RSDError(f"--n {n} and --all contradict each other; give one of them")
    return None if every else n or default


def check_outputs(**files: Path | Sequence[Path] | None) -> None:
    """Check that files can be written, before hours of work.

    Args:
        files: Files by option; several if an option writes several.

    Raises:
        RSDError: A file cannot be written, or two options name the same one.
    """
    owners: dict[Path, str] = {}
    for option, named in files.items():
        for file in () if named is None else (named,) if isinstance(named, Path) else named:
            check_output(file, f"--{option}")
            other = owners.setdefault(file.resolve(), option)
            if other != option:
                raise RSDError(f"--{other} and --{option} both name {file}; give each its own file")
