"""The machine's memory, and how much of it models will need, known from their files before weights are read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rsd_core import ConfigurationError

CACHE_SHARE = 8
"""A model's keys and values may take one part in this many of the device's memory."""


def machine_memory() -> float:
    """Bytes of memory of the machine."""
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def free_machine_memory() -> float:
    """Bytes of its memory that are free or that the system would free."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
        return 1024 * float(fields["MemAvailable"].split()[0])
    return machine_memory()


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """The memory that one model will need."""

    name: str
    weights: float
    """Bytes."""
    token: float
    """Bytes of one token's keys and values."""
    context: int
    logits: float = 0.0
    """Bytes of the logits of a step, if the vocabulary makes them significant."""
    wide_head: float = 0.0
    """Bytes of a CPU's form of an output head with fp32 logits, in addition to the original weights."""
    copy: float = 0.0
    """Bytes of a copy of its weights in a faster layout, if there is room for one."""
    reserved: int = 1
    """Number of sequences whose memory is allocated from the beginning."""

    @property
    def sequence(self) -> float:
        """Bytes of the keys and values of one sequence as long as the context, the minimum to run it."""
        return self.token * self.context

    @property
    def working(self) -> float:
        """Bytes required in addition to the weights."""
        return self.reserved * self.sequence + self.logits


def check_room(models: Sequence[ModelMemory], weights: Sequence[float], room: float, where: str, advice: str) -> float:
    """Check that models fit before they are loaded.

    Args:
        models: All models that will be in this memory.
        weights: Bytes of the weights of each.
        room: Free bytes.
        where: Name of the memory.
        advice: What can be changed.

    Returns:
        The number of bytes needed.

    Raises:
        ConfigurationError: They do not fit; the message says what each needs.
    """
    needed = sum(weights) + sum(one.working for one in models)
    if needed <= room:
        return needed
    parts = "; ".join(_parts(one, size) for one, size in zip(models, weights, strict=True))
    raise ConfigurationError(f"{_gb(needed)} are needed on {where}, {_gb(room)} are free ({parts}). {advice}")


def _parts(model: ModelMemory, weights: float) -> str:
    logits = f", logits {_gb(model.logits)}" if model.logits else ""
    sequences = "a sequence" if model.reserved == 1 else f"{model.reserved} sequences"
    cache = _gb(model.reserved * model.sequence)
    return f"{model.name}: weights {_gb(weights)}, {sequences} of {model.context} tokens {cache}{logits}"


def _gb(size: float) -> str:
    return f"{size / 2**30:,.2f} GiB"
