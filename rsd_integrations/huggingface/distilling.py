"""Distils exits: small heads at middle layers learn the rewards that a reward model gives after its last layer.

The reward model reads the given solutions once, in full; its middle layers' states at the positions of scores are kept,
with the rewards. Heads are trained on three quarters of the solutions with the cross-entropy of the rewards. On the
others, the smallest margin is chosen whose verdicts agree with the full model's often enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil, inf, sqrt
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rsd_core import ConfigurationError, Path, Step
from rsd_core.blocking import wait_for
from rsd_integrations.huggingface.early_exit import ExitRule, Exits, normalised
from rsd_integrations.huggingface.heads import linear
from rsd_integrations.huggingface.reward_models import load_with_exits
from rsd_integrations.huggingface.verifier import HuggingFaceVerifier

if TYPE_CHECKING:
    from transformers import PretrainedConfig

INNER = 128
"""Width of a head's inner layer."""
EPOCHS, ROWS, RATE, DECAY = 30, 256, 2e-3, 3e-2
"""Training of a head: passes over the rewards, rewards per step, and AdamW's learning rate and weight decay."""
HELD_OUT = 4
"""One solution in this many is held out, for choosing the margin."""
LEAST = 400
"""Minimum number of steps; with fewer, heads learn next to nothing."""
MARGINS = [i / 20 for i in range(161)]
"""Margins to try, in log odds."""
CERTAINTY = 1.645
"""Standard errors by which the observed agreement must exceed the required one: 19 times in 20."""

Solution = Sequence[tuple[Path, Step]]
"""The steps of a solution in order, each with its path."""


@dataclass(slots=True)
class Readings:
    """A reward model's states and rewards for the steps of solutions."""

    states: list[Tensor]
    """Of each head, [steps, width], normalised."""
    rewards: Tensor
    """[steps], in [0, 1]."""
    sizes: Tensor
    """Tokens of each step; the first of a solution has those of the prompt too."""
    solution: Tensor
    """Index of each step's solution, ascending."""

    def of(self, chosen: Tensor) -> Readings:
        """The steps selected by a mask."""
        states = [of_head[chosen] for of_head in self.states]
        return Readings(states, self.rewards[chosen], self.sizes[chosen], self.solution[chosen])


class _Recorder(Exits):
    """Exits that never end a pass: they record the states that their heads would read."""

    def __init__(self, rule: ExitRule) -> None:
        super().__init__(rule, [nn.Identity() for _ in rule.layers])
        self.seen: list[Tensor] = []

    def log_odds(self, index: int, states: Tensor) -> Tensor:  # noqa: ARG002 - part of the signature
        self.seen.append(normalised(states).cpu())
        return states.new_zeros(len(states), dtype=torch.float32)


def default_layers(depth: int) -> tuple[int, ...]:
    """Default layers of heads: between all layers of small models, otherwise at eighths of the depth from 2/8 on."""
    if depth <= 8:
        return tuple(range(1, depth))
    return tuple(sorted({round(depth * eighth / 8) for eighth in range(2, 8)}))


def check_request(
    threshold: float, agreement: float, layers: Sequence[int] | None = None, depth: int | None = None
) -> None:
    """Refuse arguments of `distil` that are out of range, before any model is loaded.

    Args:
        threshold: As of `distil`.
        agreement: As of `distil`.
        layers: As of `distil`.
        depth: Number of layers of the reward model, if known.

    Raises:
        ConfigurationError: An argument is out of range.
    """
    if not 0 < agreement < 1:
        raise ConfigurationError(f"agreement must be in (0, 1) (got {agreement})")
    ExitRule((1, 2) if layers is None else tuple(layers), threshold, inf)
    if layers is not None and depth is not None and layers[-1] >= depth:
        raise ConfigurationError(f"exits must be below the last of {depth} layers (got {list(layers)})")


def least_steps(agreement: float) -> int:
    """Minimum number of steps to train exits and to show this agreement if all held-out verdicts agree."""
    return max(LEAST, ceil(HELD_OUT * CERTAINTY**2 * agreement / (1 - agreement)))


def distil(
    model: str,
    solutions: Sequence[Solution],
    *,
    threshold: float = 0.5,
    agreement: float = 0.99,
    layers: Sequence[int] | None = None,
    seed: int = 0,
    told: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> Exits:
    """Train exits for a reward model, and choose their margin.

    Args:
        model: Hub id or folder.
        solutions: Solutions like those it will judge: a few thousand steps, many of them wrong.
        threshold: The reward in (0, 1) that separates verdicts: the policy's (`BinaryStep.delta`).
        agreement: Minimum share of steps, in (0, 1), whose verdict must be the full model's, 19 times in 20.
        layers: Number of layers below each head, ascending; by default `default_layers`.
        seed: Seed of the heads' initial weights and of the order of training.
        told: Called with occasional progress messages.
        options: As for `load_verifier`.

    Returns:
        The exits, whose rule includes the results on held-out solutions.

    Raises:
        ConfigurationError: As for `load_verifier`; too few steps; an argument out of range; or no margin reaches the
            agreement with fewer than all layers.
    """
    check_request(threshold, agreement, layers)
    if (count := sum(map(len, solutions))) < (least := least_steps(agreement)):
        raise ConfigurationError(
            f"{count} steps are too few to train exits and show {agreement:.2%} agreement; give at least {least}, "
            "better a few thousand"
        )
    recorder: list[_Recorder] = []

    def make(fingerprint: str, config: PretrainedConfig) -> Exits:
        depth = config.num_hidden_layers
        chosen = tuple(default_layers(depth) if layers is None else layers)
        check_request(threshold, agreement, chosen, depth)
        recorder.append(_Recorder(ExitRule(chosen, threshold, inf, fingerprint)))
        return recorder[0]

    verifier = load_with_exits(model, make, **options)
    readings = _read(verifier, recorder[0], solutions, told)
    rule, depth = recorder[0].rule, int(verifier.body.config.num_hidden_layers)
    exits = learned(rule, readings, depth, agreement=agreement, seed=seed)
    told(f"{len(rule.layers)} heads trained, margin {exits.rule.margin:.2f}")
    return exits


def learned(rule: ExitRule, readings: Readings, depth: int, *, agreement: float, seed: int) -> Exits:
    """Exits from the readings of a reward model with `depth` layers; otherwise like `distil`."""
    held_out = readings.solution % HELD_OUT == 0
    known, fresh = readings.of(~held_out), readings.of(held_out)
    exits = Exits(rule, [_trained(states, known.rewards, seed) for states in known.states]).eval()
    for margin in MARGINS:
        exits.rule = measured(exits, replace(rule, margin=margin), fresh, depth)
        if _at_least(exits.rule.agreement, exits.rule.steps) >= agreement:
            break
    if exits.rule.share >= 1 or _at_least(exits.rule.agreement, exits.rule.steps) < agreement:
        raise ConfigurationError(
            f"no margin lets the model exit early with {agreement:.2%} agreement, shown on {exits.rule.steps} held-out "
            f"steps (the last one tried: {exits.rule.agreement:.2%}); give more solutions, or lower the agreement"
        )
    return exits


@torch.inference_mode()
def measured(exits: Exits, rule: ExitRule, readings: Readings, depth: int) -> ExitRule:
    """The rule with its results on some readings, whose solutions are read from the beginning."""
    exits.rule = rule
    odds = [exits.heads[index](states)[:, 0] for index, states in enumerate(readings.states)]
    layers, rewards = torch.full_like(readings.sizes, depth), readings.rewards.clone()
    for index, (before, now) in enumerate(pairwise(odds), 1):
        over = exits.agree(before, now) & (layers == depth)
        layers[over], rewards[over] = rule.layers[index], now[over].sigmoid()
    full, early = readings.rewards >= rule.threshold, rewards >= rule.threshold
    # Each token finally runs as deep as the deepest of its own and later steps.
    deepest = layers.clone()
    for i in range(len(deepest) - 2, -1, -1):
        if readings.solution[i] == readings.solution[i + 1]:
            deepest[i] = max(deepest[i], deepest[i + 1])
    share = float((deepest * readings.sizes).sum() / (depth * readings.sizes.sum()))
    kept = float(early[~full].logical_not().float().mean()) if (~full).any() else 1.0
    agreement = float((full == early).float().mean())
    return replace(rule, agreement=agreement, kept_rejections=kept, share=share, steps=len(layers))


def _read(
    verifier: HuggingFaceVerifier, recorder: _Recorder, solutions: Sequence[Solution], told: Callable[[str], None]
) -> Readings:
    """Have the reward model read solutions step by step, each token once."""
    states: list[list[Tensor]] = [[] for _ in recorder.rule.layers]
    rewards, sizes, of_solution = [], [], []
    for number, solution in enumerate(solutions):
        for path, step in solution:
            recorder.seen.clear()
            scores = wait_for(verifier.score(path, [step]))
            for kept, seen in zip(states, recorder.seen, strict=True):
                kept.append(seen)
            rewards.append(scores.rewards[0])
            sizes.append(scores.usage.computed)
            of_solution.append(number)
        if number % 100 == 99:
            told(f"{number + 1} of {len(solutions)} solutions read")
    return Readings([torch.cat(one) for one in states], *map(torch.tensor, (rewards, sizes, of_solution)))


def _trained(states: Tensor, rewards: Tensor, seed: int) -> nn.Module:
    """Train a head to output the log odds of rewards, with cross-entropy."""
    # Trained on standardised states; the standardisation is then folded into the first layer.
    mean, deviation = states.mean(0), states.std(0) + 1e-3
    inputs = (states - mean) / deviation
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(states.shape[1], INNER), nn.ReLU(), nn.Linear(INNER, 1))
        batches = max(1, len(inputs) // ROWS)
        optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=EPOCHS * batches)
        for chosen in _shuffled(len(inputs), batches):
            odds = net(inputs[chosen])[:, 0]
            loss = nn.functional.binary_cross_entropy_with_logits(odds, rewards[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    first, inner, second = net.requires_grad_(False)
    assert isinstance(first, nn.Linear)
    weight = first.weight / deviation
    return nn.Sequential(linear(weight, first.bias - weight @ mean), inner, second)


def _shuffled(count: int, batches: int) -> Iterator[Tensor]:
    for _ in range(EPOCHS):
        yield from torch.randperm(count).tensor_split(batches)


def _at_least(share: float, count: int) -> float:
    """The lower bound of Wilson's interval of a share observed `count` times."""
    z2 = CERTAINTY**2 / count
    return (share + z2 / 2 - CERTAINTY * sqrt((share * (1 - share) + z2 / 4) / count)) / (1 + z2)
