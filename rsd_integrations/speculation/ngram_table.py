"""A fixed table of trigrams: which tokens follow which pairs, and how often. `rsd ngrams` builds one from a corpus."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from rsd_core.errors import ConfigurationError

FORM = "rsd-ngrams-1"
"""The format of table files, named in their safetensors metadata; the tensors are the fields of `NgramTable`."""
TYPES = {"pairs": torch.int64, "starts": torch.int64, "tokens": torch.int32, "weights": torch.float32}
"""Dtypes of the tensors, each of one dimension."""
SUCCESSORS = 12
"""Maximum successors of each pair; the most frequent ones are kept, as in ADED."""
PAIRS = 1_000_000
"""Maximum pairs in a table; the most frequent ones are kept: about 50 MB."""
CHUNK = 4_000_000
"""Number of trigrams counted at a time."""

Successor = tuple[int, float]
"""A token and its weight."""


class Successors(Protocol):
    """Knows the tokens that may follow a pair of tokens."""

    def successors(self, pair: tuple[int, int]) -> Sequence[Successor]:
        """The tokens that may follow, in order of decreasing weight, then of ids; empty if none are known."""


@dataclass(frozen=True, slots=True, eq=False)  # proposers are compared, but tensors cannot be
class NgramTable:
    """Pairs of tokens in order, and the successors of each with their shares, P(c | a, b)."""

    vocabulary: str
    """Identity of the vocabulary of these ids."""
    pairs: Tensor
    """a · 2³¹ + b of each pair, int64 [pairs], ascending."""
    starts: Tensor
    """Where the successors of each pair start, int64 [pairs + 1]."""
    tokens: Tensor
    """The successors of all pairs, concatenated, int32; those of each pair by decreasing weight."""
    weights: Tensor
    """Their shares in (0, 1], fp32."""

    def successors(self, pair: tuple[int, int]) -> Sequence[Successor]:
        """Tokens with P(c | a, b), the likeliest first; see `Successors`."""
        key = pair[0] * 2**31 + pair[1]
        place = int(torch.searchsorted(self.pairs, key))
        if place == len(self.pairs) or int(self.pairs[place]) != key:
            return ()
        begin, end = self.starts[place : place + 2].tolist()
        return list(zip(self.tokens[begin:end].tolist(), self.weights[begin:end].tolist(), strict=True))

    def save(self, file: Path) -> None:
        """Write a safetensors file."""
        from safetensors.torch import save_file

        tensors = {"pairs": self.pairs, "starts": self.starts, "tokens": self.tokens, "weights": self.weights}
        save_file(tensors, file, metadata={"format": FORM, "vocabulary": self.vocabulary})

    @classmethod
    def read(cls, file: Path) -> NgramTable:
        """Read a file written by `save`.

        Raises:
            ConfigurationError: There is no such file, or it holds no valid table.
        """
        from safetensors import SafetensorError, safe_open

        if not file.is_file():
            raise ConfigurationError(f"there is no n-gram table {str(file)!r}; `rsd ngrams` builds one from a corpus")
        try:
            with safe_open(file, framework="pt") as opened:
                metadata: dict[str, str] = opened.metadata() or {}
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dictionary
        except SafetensorError as error:
            raise ConfigurationError(
                f"{str(file)!r} is not a safetensors file ({error}): make one with rsd ngrams"
            ) from error
        if metadata.get("format") != FORM:
            raise ConfigurationError(f"{str(file)!r} holds no n-gram table; `rsd ngrams` builds one from a corpus")
        try:
            table = cls(metadata["vocabulary"], **tensors)
            wrong = table._wrong()
        except (KeyError, TypeError) as error:
            wrong = str(error)
        if wrong is not None:
            raise ConfigurationError(f"{str(file)!r} is broken ({wrong}): make it again with rsd ngrams")
        return table

    def _wrong(self) -> str | None:
        """The reason why this is not a valid table, in which lookups would fail or return nonsense; None if it is."""
        sizes = {"pairs": len(self.starts) - 1, "starts": len(self.pairs) + 1}
        sizes |= {"tokens": len(self.weights), "weights": len(self.tokens)}
        for name, dtype in TYPES.items():
            tensor: Tensor = getattr(self, name)
            if tensor.dtype != dtype or tensor.dim() != 1 or len(tensor) != sizes[name]:
                return f"{name} is {tensor.dtype} {list(tensor.shape)} but must be {dtype} [{sizes[name]}]"
        if len(self.pairs) and (self.pairs[0] < 0 or not (self.pairs.diff() > 0).all() or self.pairs[-1] >= 2**62):
            return "pairs are not ascending numbers of two ids below 2**31"
        if self.starts[0] != 0 or self.starts[-1] != len(self.tokens) or not (self.starts.diff() >= 0).all():
            return f"starts do not ascend from 0 to {len(self.tokens)}, the number of successors"
        if not (self.tokens >= 0).all():
            return "tokens are below 0"
        if not ((self.weights > 0) & (self.weights <= 1)).all():
            return "weights are not in (0, 1]"
        return None


def count(texts: Iterable[Sequence[int]], vocabulary: str, size: int) -> NgramTable:
    """Build the table of a corpus.

    Args:
        texts: Ids of each text; trigrams do not cross texts.
        vocabulary: Identity of the vocabulary.
        size: Number of ids, at most 2,000,000, so that three of them fit into a 63-bit number.
    """
    trigrams, times = torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
    waiting, held = list[Tensor](), 0
    for ids in texts:
        text = torch.as_tensor(ids, dtype=torch.int64)
        waiting.append((text[:-2] * size + text[1:-1]) * size + text[2:])
        held += len(waiting[-1])
        if held >= CHUNK:
            trigrams, times = _merged(trigrams, times, waiting)
            waiting, held = [], 0
    trigrams, times = _merged(trigrams, times, waiting)
    return _best(trigrams, times, vocabulary, size)


def _merged(trigrams: Tensor, times: Tensor, more: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Add the counts of more trigrams."""
    new = torch.cat([trigrams[:0], *more])
    keys, place = torch.unique(torch.cat([trigrams, new]), return_inverse=True)
    return keys, torch.zeros_like(keys).scatter_add_(0, place, torch.cat([times, torch.ones_like(new)]))


def _best(trigrams: Tensor, times: Tensor, vocabulary: str, size: int) -> NgramTable:
    """The table of the most frequent pairs and their most frequent successors."""
    pairs, place, successors = torch.unique_consecutive(trigrams // size, return_inverse=True, return_counts=True)
    total = torch.zeros_like(pairs).scatter_add_(0, place, times)
    # By pair, then by decreasing count, then by id (their present order): stable sorts, the last key first.
    order = times.argsort(descending=True, stable=True)
    order = order[place[order].argsort(stable=True)]
    rank = torch.arange(len(order)) - (successors.cumsum(0) - successors)[place[order]]
    frequent = torch.zeros_like(pairs, dtype=torch.bool)
    frequent[total.argsort(descending=True, stable=True)[:PAIRS]] = True
    order = order[(rank < SUCCESSORS) & frequent[place[order]]]
    held = torch.bincount(place[order], minlength=len(pairs))[frequent]
    return NgramTable(
        vocabulary,
        pairs=(pairs // size * 2**31 + pairs % size)[frequent],
        starts=torch.cat([torch.zeros(1, dtype=torch.int64), held.cumsum(0)]),
        tokens=(trigrams[order] % size).int(),
        weights=(times[order] / total[place[order]]).float(),
    )
