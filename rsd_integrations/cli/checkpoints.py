"""Commands on checkpoints: whether they fit into memory, two merged into one, one written in another layout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from rsd_core import ConfigurationError, SpecError
from rsd_core.data import masked
from rsd_core.registry import parse_spec, parts_of
from rsd_integrations.cli.terminal import Terminal, plain
from rsd_integrations.output_files import new_folder


def plan(
    specs: Annotated[list[str], typer.Argument(metavar="SPEC...", help="Models of this process, such as hf:… prm:…")],
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; by default what the device runs.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="As torch names it; by default a GPU where there is one.")] = None,
) -> None:
    """Say whether models fit into a device's memory together, before any is loaded.

    Example: `rsd plan hf:./draft prm:./reward hf:./target --device cuda --dtype bfloat16`
    """
    from rsd_integrations.huggingface import loading, memory

    where, wanted = loading.choose_device(device), loading.named_dtype(dtype)
    models = []
    # One that plays two roles is loaded once.
    for model, spec in {model: spec for argument in specs for model, spec in _checkpoints(argument)}.items():
        folder = loading.find(model)
        files = loading.shards(folder, model)
        kind = wanted or loading.default_dtype(where, files)
        models.append(memory.model_memory(spec, files, loading.read_config(folder), kind))
    if not models:
        raise SpecError(f"{', '.join(specs)}: no weights to load, so there is nothing to plan")
    table = Table("model", "weights", "cache a token", "context", "sequences in the cache's share")
    weights, share = memory.weight_bytes(models, where), memory.total_memory(where) / memory.CACHE_SHARE
    for one, size in zip(models, weights, strict=True):
        table.add_row(
            plain(one.name),
            f"{size / 2**20:,.1f} MiB",
            f"{one.token / 2**10:,.1f} KiB",
            str(one.context),
            f"{share / one.sequence:,.0f}",
        )
    Terminal().print(table)
    room = memory.check_fit(models, where)
    needed = sum(weights) + sum(one.sequence for one in models)
    Terminal().print(f"They fit: {needed / 2**30:,.2f} of {room / 2**30:,.2f} GiB on {where}.")


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
    model: Annotated[
        str, typer.Argument(help="A Qwen2 reward model; with --gguf any model, by hub id or folder; a GGUF file.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder of the new checkpoint; with --gguf the file.")],
    gguf: Annotated[bool, typer.Option("--gguf", help="Write a GGUF file, for llama.cpp.")] = False,
    from_gguf: Annotated[bool, typer.Option("--from-gguf", help="Write a checkpoint from a GGUF file.")] = False,
    type: Annotated[str | None, typer.Option(help="Of --gguf: f32 (the default), f16 or q8_0.")] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Of --from-gguf: float32 (every number kept) or bfloat16; by default bfloat16 unless in f32."
        ),
    ] = None,
    format: Annotated[str | None, typer.Option(help="Of a reward model, where weights and name do not tell.")] = None,
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
            raise ConfigurationError(f"{option} {value} is of {needs}")
    if gguf:
        from rsd_integrations.huggingface import to_gguf

        to_gguf.export(model, out, type=type or "f32", format=format)
        told = f"written to {out}: gguf:{out}"
    elif from_gguf:
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


def _check_direction(model: str, out: Path, gguf: bool, from_gguf: bool) -> None:
    """Say what was meant where the names tell of files that the options do not."""
    if gguf and from_gguf:
        raise ConfigurationError("--gguf writes a GGUF file and --from-gguf reads one; give one of them")
    if model.endswith(".gguf") and not from_gguf:
        raise ConfigurationError(
            f"{model} is a GGUF file; make a checkpoint of it: rsd export --from-gguf {model} FOLDER"
        )
    if out.suffix == ".gguf" and not gguf:
        raise ConfigurationError(f"{out} is named like a GGUF file; to write one: rsd export --gguf {model} {out}")
    if gguf and out.suffix != ".gguf":
        raise ConfigurationError(f"{out} is no name of a GGUF file; name it {out}.gguf")


def _checkpoints(spec: str) -> list[tuple[str, str]]:
    """The checkpoints behind a spec of this process with the specs that name them, those of specs inside included."""
    backend, rest = parse_spec(spec)
    if backend.nested:
        return [checkpoint for part in parts_of(rest) for checkpoint in _checkpoints(part)]
    if backend.kind in ("rule", "code", "confidence"):  # no model, or the drafter itself
        return []
    if backend.kind == "embedded":
        from rsd_integrations.embedded.models import folder_of

        return [(str(folder_of(rest)), spec)]
    if backend.kind not in ("hf", "prm", "likelihood", "shared"):
        known = "embedded, hf, prm, likelihood, shared"
        raise SpecError(f"{masked(spec)} runs elsewhere and takes no memory here; give specs of {known}")
    return [(rest, spec)]
