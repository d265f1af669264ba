"""Verifiers made of verifiers: cascades, ensembles, and kept rewards."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from rsd_core import (
    ConfigurationError,
    Explains,
    Explanation,
    Interrupted,
    Model,
    Path,
    Price,
    Scores,
    Step,
    Usage,
    Verifier,
)


class Combined(Verifier):
    """Base of verifiers that ask others. The ledger charges each of them at its own rate."""

    def __init__(self, name: str, members: Sequence[Verifier]) -> None:
        if wrong := [member for member in members if not isinstance(member, Verifier)]:
            raise ConfigurationError(f"{wrong[0]!r} is no verifier, so it cannot be part of a {name}")
        self.name = f"{name}({', '.join(member.name for member in members)})"
        self.members = tuple(members)
        # For limits, which are set before anything is computed: the rate of the dearest member.
        rates = [member.flops_per_token for member in members]
        self.flops_per_token = None if None in rates else max(rate for rate in rates if rate is not None)
        prices = [member.price for member in members if member.price is not None]
        self.price = max(prices, key=_dearness) if len(prices) == len(members) else None

    async def aclose(self) -> None:
        for member in self.members:
            await member.aclose()

    def explain(self, path: Path, step: Step) -> Explanation:
        """What each member reads."""
        told = [
            f"== {member.name}\n{member.explain(path, step).text if isinstance(member, Explains) else '(not told)'}"
            for member in self.members
        ]
        return Explanation("\n".join(told))


class Cascade(Combined):
    """Asks cheap verifiers first, and the next one only about steps that are not clear (as ConfSpec does).

    A reward up to `low` or from `high` is final, one between them, or none, goes to the next verifier. What the last
    one says is final; where it abstains, the last reward before it counts.

    Args:
        members: From cheap to dear.
        low: Sure enough that a step is wrong.
        high: Sure enough that it is right.
    """

    def __init__(self, members: Sequence[Verifier], low: float = 0.1, high: float = 0.9) -> None:
        if len(members) < 2 or not 0 <= low <= high <= 1:
            raise ConfigurationError(
                f"a cascade takes two verifiers or more, and 0 ≤ low ≤ high ≤ 1 (got {low}, {high})"
            )
        super().__init__("cascade", members)
        self.low, self.high = low, high

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """The first clear reward of each candidate."""
        rewards: list[float | None] = [None] * len(steps)
        parts: list[tuple[Model, Usage]] = []
        open_ = list(range(len(steps)))
        for member in self.members:
            scores = await _told(member, path, [steps[i] for i in open_], parts)
            for i, reward in zip(open_, scores.rewards, strict=True):
                rewards[i] = rewards[i] if reward is None else reward
            open_ = [i for i in open_ if (reward := rewards[i]) is None or self.low < reward < self.high]
            if not open_:
                break
        return Scores(tuple(rewards), _sum(parts))


How = Literal["mean", "min", "product"]


class Ensemble(Combined):
    """Asks several verifiers at once and combines their rewards. Those that abstain are left out.

    Args:
        members: The verifiers.
        how: `mean`, `min` or `product` of the rewards.
    """

    def __init__(self, members: Sequence[Verifier], how: How = "mean") -> None:
        if len(members) < 2 or how not in ("mean", "min", "product"):
            raise ConfigurationError(
                f"an ensemble takes two verifiers or more, and how=mean, min or product (got {how})"
            )
        super().__init__("ensemble", members)
        self.how: How = how

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """The combined reward of each candidate; None where all abstain."""
        parts: list[tuple[Model, Usage]] = []
        asked = [asyncio.ensure_future(_told(member, path, steps, parts)) for member in self.members]
        try:
            found = await asyncio.gather(*asked)
        except BaseException as error:
            for call in asked:
                call.cancel()
            await asyncio.wait(asked)
            if isinstance(error, asyncio.CancelledError):
                raise Interrupted(_sum(parts)) from None
            raise
        return Scores(
            tuple(self._one(rewards) for rewards in zip(*(f.rewards for f in found), strict=True)), _sum(parts)
        )

    def _one(self, rewards: Sequence[float | None]) -> float | None:
        known = [reward for reward in rewards if reward is not None]
        if not known:
            return None
        if self.how == "mean":
            return math.fsum(known) / len(known)
        return min(known) if self.how == "min" else math.prod(known)


class Cached(Combined):
    """Keeps a verifier's rewards: the same step after the same text is scored once.

    Worth it where a verifier is dear and paths come again: retries, calibration, several policies over one problem.

    Args:
        member: The verifier.
        size: How many rewards are kept; the oldest go first.
    """

    def __init__(self, member: Verifier, size: int = 100_000) -> None:
        if size < 1:
            raise ConfigurationError(f"size={size}: a cache keeps at least one reward")
        super().__init__("cached", (member,))
        self._size = size
        self._known: OrderedDict[object, float | None] = OrderedDict()

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """The kept reward of each candidate, or the verifier's."""
        texts = tuple(step.text for step in path.steps)
        keys = [(path.prompt, texts, step.text) for step in steps]
        fresh = list(dict.fromkeys(key for key in keys if key not in self._known))
        parts: list[tuple[Model, Usage]] = []
        if fresh:
            scores = await _told(self.members[0], path, [steps[keys.index(key)] for key in fresh], parts)
            self._known.update(zip(fresh, scores.rewards, strict=True))
        rewards = tuple(self._known[key] for key in keys)
        while len(self._known) > self._size:
            self._known.popitem(last=False)
        return Scores(rewards, _sum(parts))


async def _told(member: Verifier, path: Path, steps: Sequence[Step], parts: list[tuple[Model, Usage]]) -> Scores:
    """A member's scores; its work is noted, also when it is cut short."""
    try:
        scores = await member.score(path, steps)
    except Interrupted as cut:
        parts.append((member, cut.usage))
        raise Interrupted(_sum(parts)) from None
    if len(scores.rewards) != len(steps):
        raise ConfigurationError(f"{member!r} gave {len(scores.rewards)} rewards for {len(steps)} steps")
    parts += scores.usage.parts or [(member, scores.usage)]
    return scores


def _sum(parts: Sequence[tuple[Model, Usage]]) -> Usage:
    names = ("prefix", "computed", "reused", "generated", "scored", "seconds")
    sums = {name: sum(getattr(usage, name) for _, usage in parts) for name in names}
    return Usage(**sums, parts=tuple(parts))


def _dearness(price: Price) -> tuple[float, float]:
    return price.generated, price.prompt
