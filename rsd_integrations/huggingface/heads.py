"""Reward heads: from a body's hidden state at one token to the reward of a step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rsd_integrations.inprocess.calls import Output
from rsd_integrations.prm_formats import Layout


class RewardHead(nn.Module):
    """Maps hidden states to the probability that a step is correct, in fp32.

    Args:
        layers: Linear layers with ReLU between them. Two outputs are the logits of wrong and correct; one is a value,
            whose sigmoid is the probability; more dimensions are an ensemble's values, whose mean probability is used.
    """

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, hidden: Tensor) -> Tensor:
        """Rewards [n] of hidden states [n, width]."""
        out: Tensor = self.layers(hidden.float())
        if out.shape[-1] == 2:
            return out.softmax(-1)[..., 1]
        return out[..., 0].sigmoid() if out.dim() == 2 else out[..., 0].sigmoid().mean(0)

    def rewards(self, candidates: Sequence[tuple[Output, Layout]]) -> list[float]:
        """Rewards of candidates, each from the body's output at one position."""
        hidden = torch.cat([output.hidden for output, _ in candidates if output.hidden is not None])
        rewards: list[float] = self(hidden).tolist()
        return rewards


class EnsembleLinear(nn.Module):
    """Parallel linear layers: weight [member, in, out], bias [member, out]."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        """[n, in] or [member, n, in] to [member, n, out]."""
        return x @ self.weight + self.bias[:, None]


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A layer with these weights, in their dtype."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype)
    layer.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
    return layer
