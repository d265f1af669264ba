"""Verifiers composed of verifiers: cascades, ensembles, and a reward cache."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from rsd_core import (
    ConfigurationError,
    Explains,
    Explanation,
    Path,
    Price,
    Scores,
    Step,
    Usage,
    Verifier,
    VerifierError,
)
from rsd_core.concurrency import run_calls
from rsd_integrations.verifiers.charging import charged_to, charging


class Combined(Verifier):
    """Base of verifiers that call others. The ledger charges each of them at its own rate."""

    def __init__(self, name: str, members: Sequence[Verifier]) -> None:
        if wrong := [member for member in members if not isinstance(member, Verifier)]:
            raise ConfigurationError(f"{wrong[0]!r} is not a verifier, so it cannot be part of a {name}")
        if led := [member.name for member in members if member.stronger is not None]:
            raise ConfigurationError(f"{led} needs a policy to decide, and a {name} has none: remove ask=policy inside")
        self.name = f"{name}({', '.join(member.name for member in members)})"
        self.members = tuple(members)
        self.may_abstain = all(member.may_abstain for member in members)
        # For limits, which are set before anything is computed: the rate of the most expensive member.
        rates = [member.flops_per_token for member in members]
        self.flops_per_token = None if None in rates else max(rate for rate in rates if rate is not None)
        prices = [member.price for member in members if member.price is not None]
        self.threshold = next((one.threshold for one in members if one.threshold is not None), None)
        self.price = max(prices, key=_expense) if len(prices) == len(members) else None

    async def aclose(self) -> None:
        for member in self.members:
            await member.aclose()

    def explain(self, path: Path, step: Step) -> Explanation:
        """What each member reads."""
        texts = [
            f"== {member.name}\n{member.explain(path, step).text if isinstance(member, Explains) else '(not shown)'}"
            for member in self.members
        ]
        return Explanation("\n".join(texts))


class Cascade(Combined):
    """Asks cheap verifiers first, and the next one only about unclear steps (as in ConfSpec).

    A reward of at most `low` or at least `high` is final; with one in between, or none, the step goes to the next
    verifier. The last one's reward is final; if it abstains, the previous reward counts.

    With `ask="policy"`, the first verifier scores all steps, and the policy decides for which ones the others are worth
    their cost (`AdvantageAware` with a price).

    Args:
        members: From cheap to expensive.
        low: Reward at or below which a step is clearly wrong.
        high: Reward at or above which a step is clearly right.
        ask: What decides on the second verifier: the `range` of the first one's reward, or the `policy`.
    """

    def __init__(
        self,
        members: Sequence[Verifier],
        low: float = 0.1,
        high: float = 0.9,
        ask: Literal["range", "policy"] = "range",
    ) -> None:
        if len(members) < 2 or not 0 <= low <= high <= 1:
            raise ConfigurationError(
                f"a cascade takes two verifiers or more, and 0 ≤ low ≤ high ≤ 1 (got {low}, {high})"
            )
        if ask not in ("range", "policy"):
            raise ConfigurationError(f"a cascade takes ask=range or ask=policy (got {ask!r})")
        super().__init__("cascade", members)
        self.low, self.high = low, high
        self._asked = self.members
        if ask == "policy":
            self._asked, rest = self.members[:1], self.members[1:]
            self.stronger = Cascade(rest, low, high) if len(rest) > 1 else rest[0]

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """The first clear reward of each candidate."""
        rewards: list[float | None] = [None] * len(steps)
        unclear = list(range(len(steps)))
        spent: list[Usage] = []
        with charging(spent):
            for member in self._asked:
                scores = await _scores(member, path, [steps[i] for i in unclear])
                spent.append(scores.usage)
                for i, reward in zip(unclear, scores.rewards, strict=True):
                    rewards[i] = rewards[i] if reward is None else reward
                unclear = [i for i in unclear if (reward := rewards[i]) is None or self.low < reward < self.high]
                if not unclear:
                    break
        return Scores(tuple(rewards), sum(spent, Usage()))


How = Literal["mean", "min", "product"]


class Ensemble(Combined):
    """Asks several verifiers at once and combines their rewards, ignoring abstentions.

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
        """The combined reward of each candidate; None if all abstain."""
        scores = await run_calls(_scores(member, path, steps) for member in self.members)
        rewards = zip(*(own.rewards for own in scores), strict=True)
        return Scores(tuple(map(self._combine, rewards)), sum((own.usage for own in scores), Usage()))

    def _combine(self, rewards: Sequence[float | None]) -> float | None:
        known = [reward for reward in rewards if reward is not None]
        if not known:
            return None
        if self.how == "mean":
            return math.fsum(known) / len(known)
        return min(known) if self.how == "min" else math.prod(known)


class Cached(Combined):
    """Caches a verifier's rewards: the same step after the same text is scored once.

    Useful with an expensive verifier and recurring paths: retries, calibration, several policies over one problem.
    Concurrent calls do not wait for each other.

    Args:
        member: The verifier.
        size: How many rewards to keep; the oldest are dropped first.
    """

    def __init__(self, member: Verifier, size: int = 100_000) -> None:
        if size < 1:
            raise ConfigurationError(f"size={size}: a cache holds at least one reward")
        super().__init__("cached", (member,))
        self._size = size
        self._rewards: OrderedDict[tuple[object, ...], float | None] = OrderedDict()
        self._lock = threading.Lock()

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """The cached reward of each candidate, or the verifier's."""
        # Messages compare by their texts; the thought that a prompt begins is not one of them.
        thoughts = tuple(message.extra.get("reasoning_content") for message in path.prompt)
        before = (path.prompt, thoughts, path.thinking, tuple(step.text for step in path.steps))
        # The ending counts: models read how an answer ends, and rules see where a step was cut off.
        keys: list[tuple[object, ...]] = [(*before, step.text, step.ending) for step in steps]
        with self._lock:
            rewards = {key: self._rewards[key] for key in keys if key in self._rewards}
        usage = Usage()
        if unknown := {key: step for key, step in zip(keys, steps, strict=True) if key not in rewards}:
            scores = await _scores(self.members[0], path, list(unknown.values()))
            fresh = dict(zip(unknown, scores.rewards, strict=True))
            rewards, usage = rewards | fresh, scores.usage
            with self._lock:
                self._rewards.update(fresh)
                while len(self._rewards) > self._size:
                    self._rewards.popitem(last=False)
        return Scores(tuple(rewards[key] for key in keys), usage)


async def _scores(member: Verifier, path: Path, steps: Sequence[Step]) -> Scores:
    """A member's scores, one per candidate, with its work attributed to it."""
    scores = await charged_to(member, member.score(path, steps))
    if len(scores.rewards) != len(steps):
        raise VerifierError(
            f"{member.name!r} returned {len(scores.rewards)} rewards for {len(steps)} steps", usage=scores.usage
        )
    return scores


def _expense(price: Price) -> tuple[float, float]:
    return price.generated, price.prompt
