"""Early exit: heads on middle layers of a reward model, and the rule by which two of them end a pass.

A reward model outputs one number per step, and for most steps the verdict about a threshold is settled long before the
last layer. Small heads, distilled on the model's own rewards (`distilling.py`), read the states of middle layers at the
position of the score. If two heads in a row are on the same side of the threshold, each by at least a margin, the pass
ends (multi-head early exit, arXiv 2501.02173, with the full model's verdict in place of labels).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import log
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from rsd_core import ConfigurationError
from rsd_integrations.huggingface.heads import linear

logger = logging.getLogger(__name__)
FORM = "rsd-exits-1"
"""The format of exit files, named in their metadata: tensors LAYERS.PLACE.weight and .bias, in fp32."""
EPSILON = 1e-6
"""Keeps the normalisation of a state of zeros finite."""


@dataclass(frozen=True, slots=True)
class ExitRule:
    """When a pass ends early, and the results on held-out solutions."""

    layers: tuple[int, ...]
    """Number of layers below each head, ascending."""
    threshold: float
    """The reward, in (0, 1), that separates verdicts: the policy's threshold."""
    margin: float
    """Minimum distance of two heads in a row from the threshold, in log odds, ≥ 0; if infinite, no pass ends early."""
    model: str = ""
    """Fingerprint of the reward model."""
    agreement: float = 1.0
    """Share of held-out steps whose verdict is the full model's, in [0, 1]."""
    kept_rejections: float = 1.0
    """The same for the steps that the full model rejects, which are fewer."""
    share: float = 1.0
    """Layers computed for held-out solutions, including those deferred and run later, as a share of all layers."""
    steps: int = 0
    """Number of held-out steps behind these figures."""

    def __post_init__(self) -> None:
        if len(self.layers) < 2 or list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 1:
            raise ConfigurationError(
                f"exits need at least two ascending numbers of layers, each at least 1 (got {list(self.layers)}): "
                "a pass ends where two heads in a row agree"
            )
        if not 0 < self.threshold < 1:
            raise ConfigurationError(f"the threshold of exits must be in (0, 1) (got {self.threshold})")
        if not self.margin >= 0:
            raise ConfigurationError(f"the margin of exits must be at least 0 (got {self.margin})")


class Exits(nn.Module):
    """Heads on middle layers, in fp32, and the rule by which they end a pass."""

    def __init__(self, rule: ExitRule, heads: Sequence[nn.Module]) -> None:
        """Combine heads and rule; a head maps normalised states [n, width] to log odds [n, 1]."""
        super().__init__()
        self.rule, self.heads = rule, nn.ModuleList(heads)
        self._at = log(rule.threshold / (1 - rule.threshold))

    def log_odds(self, index: int, states: Tensor) -> Tensor:
        """A head's log odds [n] for steps, from its layer's states [n, width] at the positions of scores."""
        odds: Tensor = self.heads[index](normalised(states))[:, 0]
        return odds

    def agree(self, before: Tensor, now: Tensor) -> Tensor:
        """Whether the log odds [n] of two heads in a row end the pass."""
        before, now = before - self._at, now - self._at
        return (before * now > 0) & (torch.minimum(before.abs(), now.abs()) >= self.rule.margin)


def normalised(states: Tensor) -> Tensor:
    """States [n, width] in fp32, each divided by its root mean square."""
    states = states.float()
    return states * (states.square().mean(-1, keepdim=True) + EPSILON).rsqrt()


def save(exits: Exits, file: Path) -> None:
    """Write exits to a safetensors file, with their rule in the metadata."""
    tensors = {
        f"{layers}.{name}": tensor.float().contiguous()
        for layers, head in zip(exits.rule.layers, exits.heads, strict=True)
        for name, tensor in head.state_dict().items()
    }
    save_file(tensors, file, metadata={"format": FORM, "rule": json.dumps(asdict(exits.rule))})


def read(file: Path) -> Exits:
    """Read exits from their file.

    Args:
        file: File written by `save`.

    Raises:
        ConfigurationError: There is no such file, or it holds no exits.
    """
    if not file.is_file():
        raise ConfigurationError(f"exits={file}: there is no such file; `rsd distill-exits` makes one")
    try:
        with safe_open(file, framework="pt") as opened:
            metadata: dict[str, str] = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dictionary
    except SafetensorError as error:
        raise ConfigurationError(f"exits={file} is not a safetensors file ({error})") from error
    if metadata.get("format") != FORM:
        raise ConfigurationError(f"exits={file} holds no exits; `rsd distill-exits` makes a file that does")
    try:
        data = json.loads(metadata["rule"])
        rule = ExitRule(**data | {"layers": tuple(data["layers"])})
        return Exits(rule, [_head(tensors, layers) for layers in rule.layers]).eval()
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"exits={file} is broken ({type(error).__name__}: {error}); distil them again"
        ) from error


def read_for(file: Path, model: str, fingerprint: str, depth: int, width: int) -> Exits:
    """Read exits from their file, for a given reward model.

    Args:
        file: File written by `save`.
        model: The name of the reward model, for messages.
        fingerprint: Fingerprint of the reward model.
        depth: Number of its layers.
        width: Width of its hidden states.

    Raises:
        ConfigurationError: As for `read`, or the exits belong to another model.
    """
    exits = read(file)
    heads: Any = exits.heads
    rule, widths = exits.rule, [head[0].in_features for head in heads]
    if rule.model != fingerprint or rule.layers[-1] >= depth or set(widths) != {width}:
        raise ConfigurationError(
            f"exits={file} belong to another reward model than {model}, or to another format or separator of it, "
            "so their heads do not fit its states. Distil exits for this one: rsd distill-exits"
        )
    logger.info(
        "%s exits early at the threshold %s, which must be the policy's: on %d held-out steps %.1f %% of the "
        "verdicts were the full model's, %.1f %% of those below it, at %.0f %% of the layers",
        model,
        rule.threshold,
        rule.steps,
        100 * rule.agreement,
        100 * rule.kept_rejections,
        100 * rule.share,
    )
    return exits


def _head(tensors: dict[str, Tensor], layers: int) -> Any:
    """The head above this many layers: linear, ReLU, linear."""
    parts = []
    for place in (0, 2):
        weight, bias = tensors[f"{layers}.{place}.weight"], tensors[f"{layers}.{place}.bias"]
        if not (torch.isfinite(weight).all() and torch.isfinite(bias).all()):
            raise ValueError(f"the head above {layers} layers is not finite")
        parts.append(linear(weight, bias))
    return nn.Sequential(parts[0], nn.ReLU(), parts[1])
