"""Reward heads in numpy: from a body's output at one token to the reward of a step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rsd_integrations.inprocess.calls import Output
from rsd_integrations.llamacpp.safetensors_files import SafetensorsFiles
from rsd_integrations.prm_formats import Head, Layout, tensor_name

Array = NDArray[np.float32]


class RewardHead:
    """Maps hidden states to the probability that a step is right, in single precision.

    Args:
        layers: Weights [in, out] and biases [out] or none, with ReLU between the layers. Two outputs are the logits of
            wrong and right; one is a value, whose sigmoid is the probability. For an ensemble, weights are [member, in,
            out] and biases [member, 1, out]; the members' mean probability is used.
    """

    def __init__(self, layers: Sequence[tuple[Array, Array | None]]) -> None:
        self.layers = layers
        self.weights = sum(part.size for layer in layers for part in layer if part is not None)

    def rewards(self, candidates: Sequence[tuple[Output, Layout]]) -> list[float]:
        """Rewards of candidates, each from the body's output at one position.

        One by one, since matrix products round differently with more rows.
        """
        return [self.reward(output.hidden) for output, _ in candidates]

    def reward(self, hidden: Array) -> float:
        """The reward of one hidden state [1, width]."""
        x = hidden
        for at, (weight, bias) in enumerate(self.layers):
            x = (np.maximum(x, 0) if at else x) @ weight
            x = x if bias is None else x + bias
        return float(_sigmoid(x[..., 1] - x[..., 0] if x.shape[-1] == 2 else x[..., 0]).mean())


class WordHead:
    """Maps logits to the probability of the word for a right step, relative to that for a wrong one.

    Args:
        right: Id of the one.
        wrong: Id of the other.
        width: Of the hidden states.
    """

    def __init__(self, right: int, wrong: int, width: int) -> None:
        self.right, self.wrong = right, wrong
        self.weights = 2 * width

    def rewards(self, candidates: Sequence[tuple[Output, Layout]]) -> list[float]:
        """Rewards of candidates, each from the model's output at one position."""
        return [
            float(_sigmoid(output.logits[0, self.right] - output.logits[0, self.wrong])) for output, _ in candidates
        ]


def read_head(head: Head, files: SafetensorsFiles) -> RewardHead:
    """A head with its numbers.

    Raises:
        ConfigurationError: They are not finite.
    """
    layers: list[tuple[Array, Array | None]] = []
    for layer in head.layers:
        weight, name = files.read(tensor_name(layer, "weight")), tensor_name(layer, "bias")
        weight = np.ascontiguousarray(weight if head.ensemble else weight.T)
        layers.append((weight, files.read(name)[..., None, :] if name in files.shapes else None))
    return RewardHead(layers)


def _sigmoid(x: Array) -> Array:
    values: Array = np.exp(-np.logaddexp(np.float32(0), -x))
    return values
