"""The output of a GGUF model at given positions."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rsd_integrations.inprocess.calls import Output

Array = NDArray[np.float32]
ROWS_AT_ONCE = 16
"""Positions whose probabilities are computed at once, limited by memory for a copy of their logits."""


class NumpyOutput(Output):
    """Numpy arrays in single precision."""

    hidden: Array | None
    logits: Array | None

    def last(self) -> Self:
        return self._map(lambda array: array[-1:].copy())

    def joined(self, others: Sequence[Self]) -> Self:
        hidden = [one.hidden for one in (self, *others) if one.hidden is not None]
        logits = [one.logits for one in (self, *others) if one.logits is not None]
        return type(self)(np.concatenate(hidden) if hidden else None, np.concatenate(logits) if logits else None)

    def log_likelihoods(self, ids: Sequence[int]) -> list[float]:
        assert self.logits is not None
        chosen = self.logits[np.arange(len(ids)), np.asarray(ids, np.intp)]
        values: list[float] = (chosen - log_totals(self.logits)).tolist()
        return values

    def entropies(self) -> list[float]:
        assert self.logits is not None
        values: list[float] = []
        for logits in _parts(self.logits):
            logprobs = logits - log_totals(logits)[:, None]
            values += (-(np.exp(logprobs) * logprobs).sum(-1)).tolist()
        return values

    def log_probabilities(self, ids: Sequence[int]) -> list[float]:
        assert self.logits is not None
        row = self.logits[-1:]
        values: list[float] = (row[0, list(ids)] - log_totals(row)).tolist()
        return values


def log_total(logits: Array, largest: np.float32) -> float:
    """The logarithm of the sum of exponentials of one row [vocabulary], given its largest."""
    return float(largest) + log(np.add.reduce(np.exp(logits - largest)))


def log_totals(logits: Array) -> Array:
    """The logarithm of the sum of exponentials of each row: the difference between logits and log-probabilities."""
    totals = np.empty(len(logits), np.float32)
    for at in range(0, len(logits), ROWS_AT_ONCE):
        part = logits[at : at + ROWS_AT_ONCE]
        largest = part.max(-1, keepdims=True)
        totals[at : at + ROWS_AT_ONCE] = np.log(np.exp(part - largest).sum(-1)) + largest[:, 0]
    return totals


def _parts(logits: Array) -> list[Array]:
    return [logits[at : at + ROWS_AT_ONCE] for at in range(0, len(logits), ROWS_AT_ONCE)]
