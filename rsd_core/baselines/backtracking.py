"""Depth-first searches: a step that the reward model finds wrong is redrafted, then its predecessor is removed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from rsd_core.baselines.search import GuidedSearch
from rsd_core.calls import Calls
from rsd_core.errors import ConfigurationError
from rsd_core.events import Event, StepAccepted, StepDrafted, StepScored
from rsd_core.interfaces import Drafter, Verifier
from rsd_core.limits import LimitReached
from rsd_core.paths import Step
from rsd_core.request import Request
from rsd_core.settings import Settings


@dataclass(eq=False)
class Child:
    """A step drafted at a place."""

    step: Step
    reward: float
    place: Place | None = None
    """The place after it, once the search has gone there."""


@dataclass(eq=False)
class Place:
    """A node of the tree: an answer up to some step, and the drafts that may follow it."""

    request: Request
    children: list[Child] = field(default_factory=list)

    @property
    def best(self) -> Child | None:
        """The unexplored child with the highest reward."""
        return max((one for one in self.children if one.place is None), key=lambda one: one.reward, default=None)


Move = Literal["draft", "back", "settle"] | Child
"""Draft here again; go back to the previous place; stop searching and take the best so far; or go on to a child."""


class DepthFirst(GuidedSearch):
    """Base of the searches that go back. Abandoned steps stay in the tree, and are charged as discarded at the end.

    At a limit, a fault, or the end of the budget, the answer that got furthest is kept.
    """

    pays: ClassVar[Literal["draft", "back"]]
    """Which moves count against the budget."""

    @property
    @abstractmethod
    def budget(self) -> int:
        """How many such moves an answer may use."""

    @abstractmethod
    def move(self, here: Place, left: int, *, returns: bool) -> Move:
        """Where the search goes next.

        Args:
            here: Where it is.
            left: Remaining budget; at 0 a search may only draft and go on.
            returns: Whether there is a place before this one.
        """

    async def _decode(self, request: Request, calls: Calls) -> AsyncGenerator[Event, None]:
        way, left, drafted = [Place(request.branch(0))], self.budget, list[Step]()
        furthest = way[0]
        ended: LimitReached | Exception | None = None
        try:
            while (here := way[-1]).request.finish is None:
                move = self.move(here, left, returns=len(way) > 1)
                if (limit := request.terms.limits.exhausted(request.ledger)) is not None:
                    if here.best is None or here.request.index < furthest.request.index:
                        raise LimitReached(limit)
                    move = here.best
                if move == "draft":
                    (step,), (reward,) = await self._candidates(here.request, calls, 1)
                    drafted.append(step)
                    here.children.append(Child(step, reward))
                    here.request.attempt += 1
                    yield StepDrafted(here.request.index, (step,))
                    yield StepScored(here.request.index, (reward,))
                elif isinstance(move, Child):
                    way.append(move.place or _follow(here, move, left))
                    if way[-1].request.index >= furthest.request.index:
                        furthest = way[-1]
                elif move == "back":
                    way.pop()
                else:
                    left = 0
                left = max(0, left - (move == self.pays))
                if move == "back":
                    way[-1].request = way[-1].request.branch(left)
                    way[-1].request.attempt = 1  # sampled: repeating the same step would be useless
            furthest = here
        except (LimitReached, Exception) as error:
            ended = error  # raised after keeping what was written
        kept = {id(step) for step in furthest.request.path.steps}
        request.discard([step for step in drafted if id(step) not in kept], scored=True)
        for i, record in enumerate(request.adopt(furthest.request)):
            yield StepAccepted(i, record)
        if ended is not None:
            raise ended


def _follow(here: Place, child: Child, left: int) -> Place:
    """The place after a child; where the search comes back, other random numbers are drawn."""
    here.request, after = here.request.branch(left), here.request
    after.extend(child.step, "draft", None if after.progress.is_mark(child.step) else child.reward)
    child.place = Place(after)
    return child.place


class Backtracking(DepthFirst):
    """PRM-guided greedy search with backtracking, by one threshold.

    A step below the threshold is redrafted; after several tries the step before it is removed too. When the
    backtracks are used up, the best draft of a position is kept. Retried drafts are sampled, even if the decoder is
    greedy (`Settings.retry_temperature`).

    Args:
        drafter: Writes the steps.
        verifier: Scores them.
        delta: Lowest reward at which a step is kept.
        tries: Drafts of a step before its predecessor is removed.
        backtracks: How often that may happen in one answer.
        settings: Everything else.
    """

    pays = "back"

    def __init__(
        self,
        *,
        drafter: Drafter,
        verifier: Verifier,
        delta: float = 0.7,
        tries: int = 3,
        backtracks: int = 5,
        settings: Settings | None = None,
    ) -> None:
        if not 0 <= delta <= 1 or tries < 1 or backtracks < 0:
            raise ConfigurationError(
                f"Backtracking takes delta in [0, 1], tries ≥ 1 and backtracks ≥ 0 (got {delta}, {tries}, {backtracks})"
            )
        self.delta, self.tries, self.backtracks = delta, tries, backtracks
        super().__init__(drafter=drafter, verifier=verifier, settings=settings)

    @property
    def budget(self) -> int:
        return self.backtracks

    def move(self, here: Place, left: int, *, returns: bool) -> Move:
        best = here.best
        if best is None or (best.reward < self.delta and here.request.attempt < self.tries):
            return "draft"
        return best if best.reward >= self.delta or not returns or not left else "back"


class HeuristicGreedySearch(DepthFirst):
    """HGS-PRM: steps are positive, neutral or negative ("Let's reward step by step", arXiv 2310.10080).

    Children of a place are drafted one at a time until one is positive: the search continues there. If none is, the
    best neutral one is used. If all are negative, or were removed, their parent is removed in turn. When the
    iterations are used up, or there is nothing left to go back to, the search settles: the best draft of each place is
    kept, whatever its class. The paper's bandwidth and iterations were not to be found; the values here are ours.
    Drafts after a place's first are sampled at `Settings.retry_temperature` or above, the first at
    `Settings.temperature`; the paper samples at 0.1 for mathematics and 0.2 for code.

    Args:
        drafter: Writes the steps.
        verifier: Scores them; two thresholds turn its rewards into classes.
        positive: Lowest reward of a positive step, in [0, 1].
        negative: Reward below which a step is negative, in [0, positive].
        children: Maximum number of drafts per place.
        iterations: Drafts per answer until the search settles; after that, one more for each further step.
        settings: Everything else.
    """

    pays = "draft"

    def __init__(
        self,
        *,
        drafter: Drafter,
        verifier: Verifier,
        positive: float = 0.7,
        negative: float = 0.3,
        children: int = 3,
        iterations: int = 50,
        settings: Settings | None = None,
    ) -> None:
        if not 0 <= negative <= positive <= 1 or children < 1 or iterations < 1:
            raise ConfigurationError(
                "HeuristicGreedySearch takes 0 ≤ negative ≤ positive ≤ 1, children ≥ 1 and iterations ≥ 1 "
                f"(got negative={negative}, positive={positive}, {children}, {iterations})"
            )
        self.positive, self.negative, self.children, self.iterations = positive, negative, children, iterations
        super().__init__(drafter=drafter, verifier=verifier, settings=settings)

    @property
    def budget(self) -> int:
        return self.iterations

    def move(self, here: Place, left: int, *, returns: bool) -> Move:
        best = here.best
        if not here.children or (left and len(here.children) < self.children and not self._is_positive(best)):
            return "draft"
        if best is not None and best.reward >= self.negative:
            return best
        if not left:
            return max(here.children, key=lambda one: one.reward)
        return "back" if returns else "settle"

    def _is_positive(self, child: Child | None) -> bool:
        return child is not None and child.reward >= self.positive
