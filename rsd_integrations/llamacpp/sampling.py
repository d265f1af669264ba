"""Samples the next token of a row in numpy, as the engine for transformers models does."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rsd_core import Sampling

LEAST = 1e-30
"""Lower bound on temperatures and nuclei: in fp32 smaller ones would be zero, or logits divided by them infinite."""


def choose(logits: NDArray[np.float32], sampling: Sampling, uniform: float) -> int:
    """A token for one row of logits [vocabulary].

    Temperature 0 takes the largest. Otherwise the row's own random number in [0, 1) is looked up in its cumulative
    distribution, so that its token does not depend on the rest of the batch.
    """
    if not sampling.temperature:
        return int(logits.argmax())
    scaled = logits / np.float32(max(sampling.temperature, LEAST))
    if 0 < sampling.top_k < len(scaled):
        scaled[scaled < np.partition(scaled, -sampling.top_k)[-sampling.top_k]] = -np.inf
    weights = np.exp(scaled - scaled.max())
    weights /= weights.sum()
    order = None
    if sampling.top_p < 1:
        order = np.argsort(-weights, kind="stable")
        weights = weights[order]
        before, top_p = _cumulative(weights) - weights, np.float32(max(sampling.top_p, LEAST))
        weights[before >= top_p] = 0  # keep the smallest set of tokens with a total of top_p
    cumulative = _cumulative(weights)
    total = cumulative[-1]
    # Below the total despite rounding, so that a token without weight is never chosen.
    point = min(np.float32(uniform) * total, np.nextafter(total, np.float32(0)))
    index = int(np.searchsorted(cumulative, point, side="right"))
    return index if order is None else int(order[index])


def _cumulative(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sums in double precision, each rounded once, as torch computes them."""
    return np.cumsum(weights, dtype=np.float64).astype(np.float32)
