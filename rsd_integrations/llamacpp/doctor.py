"""What `rsd doctor` finds about a GGUF file: whether it runs here, with which library, and how."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rsd_core import ConfigurationError, RSDError, StepRequest, as_prompt
from rsd_core import Path as StepPath
from rsd_integrations.findings import Finding
from rsd_integrations.inprocess.cores import usable_cores
from rsd_integrations.inprocess.memory import check_room, free_machine_memory
from rsd_integrations.llamacpp.files import find
from rsd_integrations.llamacpp.generator import LlamaCppGenerator
from rsd_integrations.llamacpp.header import Header, read_header
from rsd_integrations.llamacpp.library import LIBRARY, library
from rsd_integrations.llamacpp.loading import Options, check_kind, choose_threads, load, memory_of

QUESTION = "Count from one to ten."
WRITTEN = 8
"""Tokens of the trial answer."""
FASTER = {"AMX_INT8": "amx_int8", "AVX512": "avx512f", "AVX2": "avx2"}
"""Kernels by llama.cpp's names, and the processor flags that they need; the best first."""


async def examine(text: str, options: Mapping[str, Any], *, reads_on: bool = False) -> list[Finding]:
    """All findings; only the first fault if nothing can be tested after it.

    Args:
        text: Where the file is, see `files.find`.
        options: Those of its spec; ones that do not affect how a model is run are ignored.
        reads_on: Whether it may read more than it was trained for, as reward models may.
    """
    told = {name: value for name, value in options.items() if name in Options.__slots__}
    chosen = Options(**told, beyond_training=reads_on)
    findings: list[Finding] = []
    try:
        header = read_header(find(text))
        check_kind(header)
        findings.append(Finding("file", True, _file(header)))
        findings.append(_tried("memory", lambda: _memory(header, chosen)))
        findings.append(_tried("library", _library))
        if findings[-1].ok:
            findings.append(_kernels())
            loaded = load(text, chosen, options.get("template"))
            model = LlamaCppGenerator(loaded, text, options.get("template"))
            findings.append(await _answers(model))
            findings += _model(model, header, chosen)
    except RSDError as error:
        findings.append(Finding("model" if findings else "file", False, str(error)))
    return findings


def _tried(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, check())
    except RSDError as error:
        return Finding(name, False, str(error))


def _file(header: Header) -> str:
    files = f" in {len(header.files)} files" if len(header.files) > 1 else ""
    size = f"{header.parameters / 1e6:,.0f} M weights, {header.bytes / 1e6:,.0f} MB{files}"
    return f"{header.name or header.files[0].name}: {header.architecture}, {header.file_type}, {size}"


def _memory(header: Header, options: Options) -> str:
    need, room = memory_of(header.files[0].name, header, options), free_machine_memory()
    advice = "Use a file with fewer bits per weight or a smaller model, or lower context"
    needed = check_room([need], [need.weights], room, "this machine", advice)
    tokens, cache = need.reserved * need.context, need.reserved * need.sequence
    return (
        f"{needed / 1e6:,.0f} MB of {room / 1e6:,.0f} MB that are free: weights {need.weights / 1e6:,.0f}, "
        f"{tokens:,} tokens of cache {cache / 1e6:,.0f}, logits {need.logits / 1e6:,.0f}"
    )


def _library() -> str:
    """Which library it is, and with which layout its structures were verified."""
    loaded = library()
    return f"{loaded.source}, structures as in {loaded.layout.builds}, verified by its defaults"


def _kernels() -> Finding:
    """What the library was compiled for and detected, and what the processor has beyond that."""
    features = library().features
    used = [name for name, value in re.findall(r"(\w+) = (\d+)", features) if value != "0"]
    names = ", ".join(used)
    known = next((name for name in FASTER if name in used), "none of these")
    better = next((name for name, flag in FASTER.items() if flag in _flags()), None)
    if better is None or better in used:
        return Finding("kernels", True, names)
    return Finding(
        "kernels",
        None,
        f"{known}, and this processor has {better}: a build that chooses at run time is faster, "
        f"especially for prefill; {LIBRARY} names one. This one has {names}",
    )


def _flags() -> set[str]:
    """The processor's features, as reported by Linux; elsewhere nothing."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    return set(next((line for line in lines if line.startswith("flags")), "").split())


async def _answers(model: LlamaCppGenerator) -> Finding:
    """Some tokens, greedily."""
    made = await model.generate(StepPath(as_prompt(QUESTION)), StepRequest((0,), WRITTEN, None))
    (step,) = made.steps
    written = made.usage.generated
    ended = step.ending == "end"
    return Finding("answers", bool(written), f"{step.text!r}, {written} tokens{', and the end' if ended else ''}")


def _model(model: LlamaCppGenerator, header: Header, options: Options) -> Iterator[Finding]:
    longest = f"{model.context:,} tokens"
    trained = "" if model.context == header.context else f"; it was trained for {header.context:,}"
    yield Finding("context", True, longest + trained)
    yield _chat(model, header)
    yield _thoughts(model)
    yield _invariance(model, header)
    threads, cores = choose_threads(header, options), usable_cores()
    spin = "; they wait for each other by spinning, so keep as many cores free" if threads > 1 else ""
    yield Finding("threads", True, f"{threads} of {cores} {'core' if cores == 1 else 'cores'}{spin}")


def _chat(model: LlamaCppGenerator, header: Header) -> Finding:
    if not header.has_chat_template:
        return Finding("chat template", None, "none: prompts are plain text, which base models continue")
    try:
        text = model.vocabulary.prompt_text(as_prompt(QUESTION))
    except ConfigurationError as error:
        return Finding("chat template", False, str(error))
    return Finding("chat template", True, f"the file's own; a prompt of {len(model.vocabulary.encode(text))} tokens")


def _thoughts(model: LlamaCppGenerator) -> Finding:
    thinking = model.thinking(as_prompt(QUESTION))
    if thinking is None:
        return Finding("thoughts", None, "it has tokens for them, but no template that says how; see `thoughts`")
    if thinking.markers is None:
        return Finding("thoughts", True, "none")
    if thinking.is_off:
        return Finding("thoughts", True, f"off; its marks are {thinking.markers.open} … {thinking.markers.close}")
    return Finding("thoughts", True, f"between {thinking.markers.open} and {thinking.markers.close}")


def _invariance(model: LlamaCppGenerator, header: Header) -> Finding:
    """Whether results depend on what else runs, and what can be done about it."""
    if model.batch_invariant:
        return Finding("batch invariant", True, "yes: every sequence has its own cells")
    kind = header.file_type
    if header.sliding_window or not header.row_by_row:
        why = "attention with windows" if header.row_by_row else f"products with {kind}"
        buy = "use a file in Q8_0 or Q4_1, of a model without attention windows, with batch_invariant=true"
    else:
        why, buy = "attention", "batch_invariant=true prevents it, and allocates the whole cache at the start"
    rounds = "round differently" if why.startswith("products") else "rounds differently"
    return Finding("batch invariant", None, f"no: {why} {rounds} when requests run concurrently; {buy}")
