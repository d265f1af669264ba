"""Many complete answers by the cheap model, one of them chosen: majority vote and best of N."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Literal, get_args

from rsd_core.calls import Calls
from rsd_core.concurrency import run_all
from rsd_core.decoder import Decoder
from rsd_core.errors import ConfigurationError, DrafterError
from rsd_core.events import Event, StepAccepted
from rsd_core.interfaces import Drafter, Verifier
from rsd_core.ledger import Role
from rsd_core.limits import LimitReached
from rsd_core.model import Model
from rsd_core.paths import Path
from rsd_core.request import Request
from rsd_core.results import boxed
from rsd_core.roles import require
from rsd_core.settings import Settings

Aggregate = Literal["last", "min", "mean", "product"]
"""How to aggregate the rewards of an answer's steps into one score."""
AGGREGATES: dict[Aggregate, Callable[[Sequence[float]], float]] = {
    "last": lambda rewards: rewards[-1],
    "min": min,
    "mean": lambda rewards: sum(rewards) / len(rewards),
    "product": math.prod,
}


class MajorityVote(Decoder):
    r"""Self-consistency: the answer that most of n sampled solutions agree on (arXiv 2203.11171).

    Answers are the contents of `\boxed{…}`, compared as text; a tie goes to the solution sampled first. Limits on steps
    and tokens apply to each solution, the others to all of them together.

    Args:
        drafter: The model to sample; this may also be the strong one.
        n: Solutions.
        settings: Needs a temperature above 0.
    """

    def __init__(self, *, drafter: Drafter, n: int = 16, settings: Settings | None = None) -> None:
        require("drafter", drafter, Drafter)
        self.drafter, self.n = drafter, n
        super().__init__(settings)

    def check(self, settings: Settings) -> Settings:
        if self.n < 1 or (self.n > 1 and settings.temperature == 0):
            raise ConfigurationError(
                f"{type(self).__name__} takes n ≥ 1 and a temperature above 0 (got n={self.n}, "
                f"temperature={settings.temperature}): greedy decoding would write the same answer n times"
            )
        return settings

    @property
    def models(self) -> tuple[Model, ...]:
        return (self.drafter,)

    async def _decode(self, request: Request, calls: Calls) -> AsyncGenerator[Event, None]:
        branches = [request.branch(i) for i in range(self.n)]
        written: list[Request] = []
        scores: list[float] = []
        ended: LimitReached | Exception | None = None
        try:
            await run_all([self._write(branch, calls) for branch in branches])
            written = [branch for branch in branches if branch.finish != "error"]
            scores = [-1.0] * len(written)
            if not written:
                raise DrafterError(f"the drafter {self.drafter.name!r} failed: {request.degradations[-1].message}")
            await self._score(request, calls, written, scores)
        except (LimitReached, Exception) as error:
            ended = error  # raised after keeping the best answer so far
        best = self._choose(written, scores) if written else max(branches, key=lambda branch: branch.index)
        for branch in branches:
            if branch is not best:
                steps = branch.path.steps
                unscored = len(steps) - (self._scored(len(steps)) if branch.finish != "error" else 0)
                request.discard(steps[:unscored], scored=False)
                request.discard(steps[unscored:], scored=True)
        for i, record in enumerate(request.adopt(best)):
            yield StepAccepted(i, record)
        if ended is not None:
            raise ended

    async def _write(self, branch: Request, calls: Calls) -> None:
        try:
            while branch.finish is None:
                branch.extend(await calls.draft_or_fail(branch, self.drafter), "draft")
        except LimitReached as limit:
            branch.finish = limit.reason
        except DrafterError:
            branch.finish = "error"

    def _scored(self, steps: int) -> int:  # noqa: ARG002
        """How many of a solution's steps, the last ones, are scored."""
        return 0

    async def _score(self, request: Request, calls: Calls, branches: Sequence[Request], scores: list[float]) -> None:
        """Record the solutions' scores, each as soon as it is known; votes need none."""

    def _choose(self, branches: Sequence[Request], scores: Sequence[float]) -> Request:  # noqa: ARG002
        answers = [boxed(branch.text("thought" if branch.reasons else "answer")) for branch in branches]
        votes = Counter(answer for answer in answers if answer is not None)
        return branches[answers.index(votes.most_common(1)[0][0])] if votes else branches[0]


class BestOfN(MajorityVote):
    """The best-scored of n sampled solutions.

    Args:
        drafter: The model that is sampled.
        verifier: Scores the solutions.
        n: Solutions.
        aggregate: `last` scores the end of a solution, as outcome reward models do; the others score every step, as
            process reward models do, and take the minimum, the mean or the product.
        settings: Needs a temperature above 0.
    """

    def __init__(
        self,
        *,
        drafter: Drafter,
        verifier: Verifier,
        n: int = 16,
        aggregate: Aggregate = "last",
        settings: Settings | None = None,
    ) -> None:
        require("verifier", verifier, Verifier)
        if aggregate not in AGGREGATES:
            raise ConfigurationError(f"aggregate {aggregate!r} is not one of {', '.join(get_args(Aggregate))}")
        self.verifier, self.aggregate = verifier, aggregate
        super().__init__(drafter=drafter, n=n, settings=settings)

    @property
    def models(self) -> tuple[Model, ...]:
        return (self.drafter, self.verifier)

    @property
    def consequences(self) -> Mapping[Role, str]:
        return {"verifier": "the first solution is taken"}

    def _scored(self, steps: int) -> int:
        return min(1, steps) if self.aggregate == "last" else steps

    async def _score(self, request: Request, calls: Calls, branches: Sequence[Request], scores: list[float]) -> None:
        async def one(i: int) -> None:
            scores[i] = await self._worth(request, calls, branches[i].path)

        await run_all([one(i) for i in range(len(branches))])

    def _choose(self, branches: Sequence[Request], scores: Sequence[float]) -> Request:
        return branches[max(range(len(scores)), key=scores.__getitem__)]

    async def _worth(self, request: Request, calls: Calls, path: Path) -> float:
        """The solution's score; below all others if the verifier failed, abstained or had nothing to score."""
        nodes = [node for node in path.up() if node.step is not None][::-1]
        rewards: list[float] = []
        for node in nodes[len(nodes) - self._scored(len(nodes)) :]:
            assert node.step is not None
            scored = await calls.score(request, self.verifier, [node.step], node.parent)
            rewards += [reward for reward in scored if reward is not None]
        return AGGREGATES[self.aggregate](rewards) if rewards else -1.0
