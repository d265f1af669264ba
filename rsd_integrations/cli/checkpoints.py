"""Commands on checkpoints: two merged into one, one written in another layout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from rsd_core import ConfigurationError, MissingDependency
from rsd_integrations.cli.terminal import Terminal, plain
from rsd_integrations.output_files import new_folder


def merge(
    writer: Annotated[str, typer.Argument(help="The drafter or target: hub id or folder.")],
    rewarder: Annotated[str, typer.Argument(help="The reward model of the same base, with its step head.")],
    out: Annotated[Path, typer.Argument(help="Folder of the merged checkpoint.")],
    method: Annotated[str, typer.Option(help="linear or ties.")] = "linear",
    weight: Annotated[float, typer.Option(help="Weight of the reward model, in [0, 1].")] = 0.5,
    base: Annotated[str | None, typer.Option(help="The model that both were trained from; needed by ties.")] = None,
    density: Annotated[
        float | None, typer.Option(help="Share of changes that each model keeps under ties, in (0, 1]; 0.5 by default.")
    ] = None,
) -> None:
    """Merge a language model and a reward model of the same base into one that plays both roles.

    Example: `rsd merge ./draft ./reward ./merged`, then `rsd run --draft hf:./merged --verifier shared:./merged`
    """
    from rsd_integrations.huggingface import merging

    if method not in ("linear", "ties"):
        raise ConfigurationError(f"--method {method!r} is unknown; choose linear or ties")
    if method == "linear":
        for option, value in (("--base", base), ("--density", density)):
            if value is not None:
                raise ConfigurationError(f"{option} {value} only applies to --method ties")
    chosen: Any = method
    share = 0.5 if density is None else density
    with new_folder(out) as fresh:
        merging.merge(writer, rewarder, fresh, method=chosen, weight=weight, base=base, density=share)
    Terminal().print(plain(f"written to {out}: --draft hf:{out} --verifier shared:{out}"))


def export(
    model: Annotated[
        str, typer.Argument(help="A Qwen2 reward model; with --gguf any model, by hub id or folder; a GGUF file.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder of the new checkpoint; with --gguf the file.")],
    gguf: Annotated[bool, typer.Option("--gguf", help="Write a GGUF file, for llama.cpp.")] = False,
    from_gguf: Annotated[bool, typer.Option("--from-gguf", help="Write a checkpoint from a GGUF file.")] = False,
    type: Annotated[str | None, typer.Option(help="For --gguf: f32 (the default), f16 or q8_0.")] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="For --from-gguf: float32 (exact) or bfloat16; by default bfloat16 unless the file is in f32."
        ),
    ] = None,
    format: Annotated[str | None, typer.Option(help="For a reward model, if weights and name do not tell.")] = None,
) -> None:
    """Write a model in another layout: a reward model for vLLM, a GGUF file, or a checkpoint from a GGUF file.

    Examples: `rsd export Skywork/Skywork-o1-Open-PRM-Qwen-2.5-1.5B ./skywork`,
    `rsd export --gguf ./model model.gguf --type q8_0`, `rsd export --from-gguf model.gguf ./model`
    """
    _check_direction(model, out, gguf, from_gguf)
    for option, value, needs, given in (
        ("--type", type, "--gguf", gguf),
        ("--dtype", dtype, "--from-gguf", from_gguf),
        ("--format", format, "a reward model", not from_gguf),
    ):
        if value is not None and not given:
            raise ConfigurationError(f"{option} {value} only applies to {needs}")
    if gguf:
        with _gguf_needs("--gguf"):
            from rsd_integrations.huggingface import to_gguf

        to_gguf.export(model, out, type=type or "f32", format=format)
        told = f"written to {out}: gguf:{out}"
    elif from_gguf:
        with _gguf_needs("--from-gguf"):
            from rsd_integrations.huggingface import from_gguf as reading
        from rsd_integrations.llamacpp.files import find

        reading.export(find(model), out, dtype=dtype)
        told = f"written to {out}: hf:{out}"
    else:
        from rsd_integrations.huggingface import exporting

        with new_folder(out) as fresh:
            exporting.export(model, fresh, format=format)
        serve = f"""vllm serve {out} --runner pooling --pooler-config '{{"pooling_type": "ALL"}}'"""
        told = f"written to {out}. Serve it: {serve}"
    Terminal().print(plain(told))


@contextmanager
def _gguf_needs(option: str) -> Iterator[None]:
    """Name all missing packages at once: torch, `gguf`, and llama.cpp to try the vocabulary."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingDependency(error.name or "torch", "gguf,llamacpp", f"rsd export {option}") from error


def _check_direction(model: str, out: Path, gguf: bool, from_gguf: bool) -> None:
    """Suggest what was meant if the names of files do not match the options."""
    if gguf and from_gguf:
        raise ConfigurationError("--gguf writes a GGUF file and --from-gguf reads one; give one of them")
    if model.endswith(".gguf") and not from_gguf:
        raise ConfigurationError(
            f"{model} is a GGUF file; to make it a checkpoint: rsd export --from-gguf {model} FOLDER"
        )
    if out.suffix == ".gguf" and not gguf:
        raise ConfigurationError(f"{out} is named like a GGUF file; to write one: rsd export --gguf {model} {out}")
    if gguf and out.suffix != ".gguf":
        raise ConfigurationError(f"{out} is not a name of a GGUF file; name it {out}.gguf")
