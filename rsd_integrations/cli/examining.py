"""Tests models for `rsd doctor`: each once, servers concurrently, and models in this process one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rsd_core import RSDError, load
from rsd_core.blocking import in_thread
from rsd_core.concurrency import run_all
from rsd_core.registry import ROLES, check_spec, options_of, parse_spec, parts_of, split_spec
from rsd_integrations.findings import Finding

LOCAL = ("huggingface", "llamacpp")
"""The extras of the kinds that load weights into this process."""

OF_THE_CLIENT = frozenset({"concurrency", "flops_per_token", "logprobs", "patience", "retries", "timeout"})
"""Options that, like prices, do not change what is tested."""


@dataclass(frozen=True, slots=True)
class Examined:
    """A model that was tested."""

    where: str
    """`server`, `file` (GGUF) or `process`."""
    findings: Sequence[Finding]
    plays: tuple[str, ...] = ()
    """The roles that it can play, if it was loaded to find out."""

    @property
    def faults(self) -> list[str]:
        """Necessary features that do not work, whatever the model's role."""
        return [one.name for one in self.findings if one.ok is False]


def models_of(spec: str) -> Iterator[str]:
    """The models that a spec consists of, by their own specs; itself if it contains none."""
    backend, rest = parse_spec(spec)
    if backend.nested:
        for part in parts_of(rest):
            yield from models_of(part)
    else:
        yield spec


async def examine(specs: Sequence[str]) -> dict[str, Examined]:
    """The findings about all models that some specs consist of, by the models' own specs.

    Raises:
        RSDError: A spec is invalid, or a key is missing; raised before any request to a server.
    """
    for spec in specs:
        check_spec(spec)
    models = list(dict.fromkeys(model for spec in specs for model in models_of(spec)))
    clients = {model: load(model) for model in models if not _is_local(model)}
    for spec in specs:
        if spec not in models and not any(_is_local(model) for model in models_of(spec)):
            await load(spec).aclose()  # combinations of servers are built as a test
    alike = {_asked(model): model for model in reversed(models)}
    one_at_a_time = asyncio.Lock()

    async def one(model: str) -> Examined:
        if model in clients:
            return await _examine_client(clients[model])
        async with one_at_a_time:
            return await in_thread(lambda: asyncio.run(_examine_local(model)))

    try:
        found = dict(zip(alike, await run_all([one(model) for model in alike.values()]), strict=True))
    finally:
        for client in clients.values():
            await client.aclose()
    return {model: found[_asked(model)] for model in models}


def _asked(model: str) -> tuple[str, ...]:
    """A key that is the same for models with the same requests to a server."""
    (kind, *options), rest = split_spec(model)
    names = {text: text.partition("=")[0] for text in options}
    return kind, rest, *sorted(text for text, name in names.items() if not (name in OF_THE_CLIENT or "price" in name))


def _is_local(spec: str) -> bool:
    return parse_spec(spec)[0].extra in LOCAL


async def _examine_client(model: Any) -> Examined:
    """Examine a model behind a URL, or something without a model."""
    if hasattr(model, "examine"):
        return Examined("server", await model.examine())
    return Examined("process", [_in_process(model), *getattr(model, "findings", list)()], _plays(model))


async def _examine_local(spec: str) -> Examined:
    backend, rest = parse_spec(spec)
    if backend.extra == "llamacpp":
        return Examined("file", await _examine_file(rest, spec))
    try:
        model = load(spec)
    except RSDError as error:
        return Examined("process", [Finding("loads", False, str(error))])
    try:
        return Examined("process", [_in_process(model)], _plays(model))
    finally:
        await model.aclose()


def _in_process(model: Any) -> Finding:
    return Finding("in this process", True, f"{model!r}: it loads; there is no server to examine")


def _plays(model: Any) -> tuple[str, ...]:
    return tuple(role for role, kind in ROLES.items() if isinstance(model, kind))


async def _examine_file(rest: str, spec: str) -> list[Finding]:
    """Examine the file as a model that writes and, if it plays another role, in that role."""
    from rsd_integrations.llamacpp.doctor import examine as examine_file

    kind = parse_spec(spec)[0].kind
    findings = await examine_file(rest, options_of(spec), reads_on=kind == "prm")
    if kind != "gguf" and not any(one.ok is False for one in findings):
        try:
            findings.append(Finding(kind, True, repr(load(spec))))
        except RSDError as error:
            findings.append(Finding(kind, False, str(error)))
    return findings
