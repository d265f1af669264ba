"""Commands on checkpoints: two merged into one, one written for a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rsd_core import ConfigurationError
from rsd_integrations.cli.terminal import Terminal, plain
from rsd_integrations.output_files import new_folder


def merge(
    writer: Annotated[str, typer.Argument(help="The drafter or target: hub id or folder.")],
    rewarder: Annotated[str, typer.Argument(help="The reward model of the same base, with its step head.")],
    out: Annotated[Path, typer.Argument(help="Folder of the merged checkpoint.")],
    method: Annotated[str, typer.Option(help="linear or ties.")] = "linear",
    weight: Annotated[float, typer.Option(help="Of the reward model, in [0, 1].")] = 0.5,
    base: Annotated[str | None, typer.Option(help="What both were trained from; needed by ties.")] = None,
    density: Annotated[float, typer.Option(help="Share of its changes that each keeps under ties, in (0, 1].")] = 0.5,
) -> None:
    """Merge a language model and a reward model of the same base into one that plays both roles.

    Example: `rsd merge ./draft ./reward ./merged`, then `rsd run --draft hf:./merged --verifier shared:./merged`
    """
    from rsd_integrations.huggingface import merging

    if method not in ("linear", "ties"):
        raise ConfigurationError(f"--method {method!r} is unknown; choose linear or ties")
    chosen: Any = method
    with new_folder(out) as fresh:
        merging.merge(writer, rewarder, fresh, method=chosen, weight=weight, base=base, density=density)
    Terminal().print(plain(f"written to {out}: --draft hf:{out} --verifier shared:{out}"))


def export(
    model: Annotated[str, typer.Argument(help="A Qwen2 reward model: hub id or folder.")],
    out: Annotated[Path, typer.Argument(help="Folder of the checkpoint for vLLM.")],
    format: Annotated[str | None, typer.Option(help="Its format, where weights and name do not tell.")] = None,
) -> None:
    """Write a reward model in a layout that vLLM serves by itself, with exactly its own scores.

    Example: `rsd export Skywork/Skywork-o1-Open-PRM-Qwen-2.5-1.5B ./skywork`
    """
    from rsd_integrations.huggingface import exporting

    with new_folder(out) as fresh:
        exporting.export(model, fresh, format=format)
    serve = f"""vllm serve {out} --runner pooling --pooler-config '{{"pooling_type": "ALL"}}'"""
    Terminal().print(plain(f"written to {out}. Serve it: {serve}"))
