"""`rsd plan`: whether models fit into memory together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from rsd_core import MissingDependency, SpecError
from rsd_core.data import masked
from rsd_core.registry import check_spec, options_of, parse_spec, parts_of
from rsd_integrations.cli.terminal import Terminal, plain
from rsd_integrations.inprocess.memory import CACHE_SHARE, ModelMemory, check_room, free_machine_memory, machine_memory

if TYPE_CHECKING:
    import torch

    from rsd_integrations.llamacpp.loading import Options

CHECKPOINTS = ("embedded", "hf", "prm", "likelihood", "shared")
"""Kinds of specs that load a checkpoint into this process."""
NOTHING = ("rule", "code", "confidence")
"""Kinds without a model, or that use the drafter itself."""
GGUF_ADVICE = "Use files with fewer bits per weight or smaller models, or lower the largest context="


def plan(
    specs: Annotated[
        list[str], typer.Argument(metavar="SPEC...", help="Models of this process, such as hf:… prm:… gguf:…")
    ],
    dtype: Annotated[
        str | None,
        typer.Option(
            help="For all but GGUF files: float32, bfloat16, float16, or on a CPU int8; by default what each model "
            "would use. A spec's own dtype= comes first."
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="The same, as torch names it; by default a GPU if there is one.")
    ] = None,
) -> None:
    """Check whether models fit into a device's memory together, before any is loaded.

    Example: `rsd plan hf:./draft prm:./reward hf:./target --device cuda --dtype bfloat16`
    """
    found = [one for argument in specs for one in _models(argument)]
    checkpoints = {_loaded_as(rest, spec): spec for kind, rest, spec in found if kind == "checkpoint"}
    files = [(rest, spec) for kind, rest, spec in found if kind == "gguf"]
    if not found:
        raise SpecError(f"{', '.join(specs)}: no weights to load, so there is nothing to plan")
    for option, value in (("--dtype", dtype), ("--device", device)):
        if value is not None and not checkpoints:
            raise SpecError(f"{option} {value} only applies to checkpoints, and there are only GGUF files; remove it")
    on_machine = _gguf(files)
    own = [one.weights for one in on_machine]
    if not checkpoints:
        _show(on_machine, own, machine_memory())
        _fit(on_machine, own, free_machine_memory(), "this machine", GGUF_ADVICE)
        return
    memory, where, models = _checkpoints(checkpoints, dtype, device)
    sizes = memory.weight_bytes(models, where)
    total, room = memory.total_memory(where), memory.free_memory(where)
    if where.type == "cpu":  # both share its memory
        models, sizes = [*models, *on_machine], [*sizes, *own]
    elif on_machine:
        _show(on_machine, own, machine_memory())
        _fit(on_machine, own, free_machine_memory(), "this machine", GGUF_ADVICE)
    _show(models, sizes, total)
    _fit(models, sizes, room, str(where), memory.ADVICE)


def _show(models: list[ModelMemory], weights: list[float], total: float) -> None:
    logits = any(one.logits for one in models)
    table = Table(
        "model",
        "weights",
        "cache per\ntoken",
        "context",
        "sequences\nin the\ncache's\nshare",
        *(["logits\nper step"] if logits else []),
    )
    table.columns[0].overflow = "fold"  # a truncated spec would be useless
    for one, size in zip(models, weights, strict=True):
        table.add_row(
            plain(one.name),
            f"{size / 2**20:,.1f} MiB" if size else "shared",
            f"{one.token / 2**10:,.1f} KiB",
            str(one.context),
            f"{total / CACHE_SHARE / one.sequence:,.0f}",
            *([f"{one.logits / 2**20:,.1f} MiB" if one.logits else "–"] if logits else []),
        )
    Terminal().print(table)


def _fit(models: list[ModelMemory], weights: list[float], room: float, where: str, advice: str) -> None:
    needed = check_room(models, weights, room, where, advice)
    Terminal().print(f"They fit: {needed / 2**30:,.2f} of {room / 2**30:,.2f} GiB on {where}.")


def _models(spec: str) -> Iterator[tuple[str, str, str]]:
    """The models behind a spec of this process, including those of nested specs: their form, place and spec."""
    backend, rest = parse_spec(spec)
    if backend.nested:
        for part in parts_of(rest):
            yield from _models(part)
    elif backend.extra == "llamacpp":
        yield "gguf", rest, spec
    elif backend.kind in CHECKPOINTS:
        yield "checkpoint", rest, spec
    elif backend.kind not in NOTHING:
        known = ", ".join((*CHECKPOINTS, "gguf"))
        raise SpecError(f"{masked(spec)} runs elsewhere and needs no memory here; give specs of {known}")


def _loaded_as(rest: str, spec: str) -> tuple[Any, ...]:
    """The key of a checkpoint: one in two similar roles is loaded once, except for a reward model's body."""
    kind, options = parse_spec(spec)[0].kind, options_of(spec)
    return rest, options.get("dtype"), kind == "prm", kind == "embedded", str(_exits(options))


def _gguf(files: list[tuple[str, str]]) -> list[ModelMemory]:
    """The memory that GGUF files will need, with the specs that name them; models from one file share weights."""
    if not files:
        return []
    try:
        from rsd_integrations.llamacpp.files import find
        from rsd_integrations.llamacpp.header import read_header
        from rsd_integrations.llamacpp.loading import Options, memory_of
    except ModuleNotFoundError as error:
        raise MissingDependency(error.name or "xllamacpp", "llamacpp", "rsd plan of GGUF files") from error
    models: dict[tuple[str, Options], ModelMemory] = {}
    for rest, spec in files:
        check_spec(spec)
        file, options = find(rest), _options(spec, Options)
        one = memory_of(spec, read_header(file), options)
        shared = any(str(file) == other for other, _ in models)
        models.setdefault((str(file), options), replace(one, weights=0.0) if shared else one)
    return list(models.values())


def _options(spec: str, kind: type[Options]) -> Options:
    """How a file is run; reward models are run differently."""
    given = {name: value for name, value in options_of(spec).items() if name in kind.__slots__}
    reward_model = parse_spec(spec)[0].kind == "prm"
    return kind(**given, exact=reward_model, beyond_training=reward_model)


def _checkpoints(
    specs: dict[tuple[Any, ...], str], dtype: str | None, device: str | None
) -> tuple[Any, torch.device, list[ModelMemory]]:
    """The modules for checkpoints, devices, and memory."""
    try:
        from rsd_integrations.huggingface import dtypes, early_exit, loading, memory
    except ModuleNotFoundError as error:
        named = ", ".join(masked(spec) for spec in specs.values())
        raise MissingDependency(error.name or "torch", "huggingface", f"rsd plan of {named}") from error
    where = loading.choose_device(device)
    wanted = dtypes.named_dtype(dtype, where)
    models, reasons = [], {}
    for (rest, *_), spec in specs.items():
        check_spec(spec)
        options = options_of(spec)
        if exits := _exits(options):
            early_exit.read(exits)
        model = _embedded(rest) if parse_spec(spec)[0].kind == "embedded" else rest
        folder = loading.find(model)
        files = loading.shards(folder, model)
        asked = dtypes.named_dtype(options.get("dtype"), where) or wanted
        kind, reason = (asked, "as asked for") if asked else dtypes.decide_dtype(where, memory.count_weights(files))
        reasons[spec] = f"{dtypes.dtype_name(kind)}: {reason}"
        head = parse_spec(spec)[0].kind != "prm"
        raw = loading.read_config(folder)
        dtypes.check_layers(kind, raw, model)
        others = dtypes.computed_in(kind)
        one = memory.model_memory(spec, files, raw, kind, others, head=head, deferring=exits is not None)
        models.append(one)
    for reason in dict.fromkeys(reasons.values()):
        who = ", ".join(masked(spec) for spec in reasons if reasons[spec] == reason)
        Terminal().print(plain(f"{reason} ({who})." if len(set(reasons.values())) > 1 else f"{reason}."))
    return memory, where, models


def _exits(options: dict[str, Any]) -> Path | None:
    """The file of exits that a spec names."""
    exits = options.get("exits")
    if exits is True:
        from rsd_integrations.embedded.models import EXITS

        return EXITS
    return Path(str(exits)).expanduser() if exits else None


def _embedded(name: str) -> str:
    from rsd_integrations.embedded.models import folder_of

    return str(folder_of(name))
