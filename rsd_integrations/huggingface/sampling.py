"""Choosing the next tokens of a batch: one decision on the device, whatever its rows ask for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rsd_core import Sampling

LEAST = 1e-30
"""Temperatures and nuclei below this count as this much: in fp32 they would be zero, or logits infinite over them."""


def choose(logits: Tensor, samplings: Sequence[Sampling], uniforms: Sequence[float]) -> Tensor:
    """A token for each row of logits [rows, vocabulary], left on the device as [rows, 1].

    Temperature 0 takes the largest. Otherwise the row's own random number in [0, 1) is looked up in its cumulative
    distribution, so that a row's token depends on nothing else in the batch.
    """
    best = logits.max(-1, keepdim=True).indices  # several times faster than argmax in bf16 on a CPU, and the same
    sampled = [i for i, sampling in enumerate(samplings) if sampling.temperature > 0]
    for nucleus in (False, True) if sampled else ():
        rows = [i for i in sampled if (samplings[i].top_p < 1) is nucleus]
        if rows:
            best[rows] = _sampled(logits[rows], [samplings[i] for i in rows], [uniforms[i] for i in rows], nucleus)
    return best


def _sampled(logits: Tensor, samplings: Sequence[Sampling], uniforms: Sequence[float], nucleus: bool) -> Tensor:
    numbers = [[max(s.temperature, LEAST), max(s.top_p, LEAST), u] for s, u in zip(samplings, uniforms, strict=True)]
    # In fp32 by name: transformers changes the process's default while it loads a model in another thread.
    temperature, top_p, uniform = torch.tensor(numbers, dtype=torch.float32).to(logits.device).T.unsqueeze(-1)
    weights = torch.softmax(logits.float() / temperature, dim=-1)
    order = None
    if nucleus:
        weights, order = weights.sort(dim=-1, descending=True, stable=True)
        weights[weights.cumsum(-1) - weights >= top_p] = 0  # the smallest set of tokens whose mass reaches top_p stays
    cumulative = weights.cumsum(-1)
    total = cumulative[:, -1:]
    # Below the total, however it was rounded: a token without weight is never chosen.
    point = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    index = torch.searchsorted(cumulative, point, right=True)
    return index if order is None else order.gather(-1, index)
