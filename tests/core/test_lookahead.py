"""Work started early only changes when things happen, not what happens."""

import asyncio
import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsd_core import (
    AdvantageAware,
    BinaryStep,
    BudgetAware,
    Cancellation,
    ConfigurationError,
    Constant,
    Drafter,
    FirstSteps,
    Generation,
    Interrupted,
    Limits,
    Path,
    RequestBudget,
    RequestView,
    Result,
    Retry,
    RewardGuidedDecoder,
    RunError,
    Scores,
    Settings,
    Step,
    StepRequest,
    Takeover,
    Target,
    Usage,
    Verifier,
    VerifierError,
    WeightingPolicy,
    as_prompt,
    load,
)
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_integrations.evaluation import find_task
from tests.benchmarks.servers import Way, simulate
from tests.benchmarks.simulated import BIG, JUDGE, PAPER, Clock, Position

TEXTS = ("a\n\n", "b b\n\n", "wait c\n\n", "d d d\n\n", "\n\n", "", "the end")


class Worker:
    """Works for some ticks of the loop and keeps its own books."""

    flops_per_token: float | None = 2.0
    written = 0
    """Tokens written by a call when it is cut."""

    def __init__(self, world: int, faults: float) -> None:
        self.world, self.faults = world, faults
        self.computed = 0

    def dice(self, *key: object) -> random.Random:
        return random.Random(repr((type(self).__name__, self.world, *key)))

    async def work(self, dice: random.Random, tokens: int, broken: bool) -> None:
        try:
            for _ in range(dice.choice((0, 0, 1, 2, 5, 9))):
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.computed += 1
            raise Interrupted(Usage(computed=1, generated=self.written)) from None
        if broken:
            raise RuntimeError("broken")
        self.computed += tokens


class Writer(Worker, Drafter, Target):
    written = 1

    async def generate(self, path: Path, request: StepRequest) -> Generation:
        dice = self.dice(path.text, path.depth, request.seeds)
        text = " ".join(dice.choices(TEXTS, (6, 6, 3, 6, 1, 1, 2))[0].split(" ")[: request.max_tokens])
        size = min(len(text.split()) + 1, request.max_tokens)
        await self.work(dice, size, dice.random() < self.faults)
        return Generation(
            (Step(text, "delimiter" if text.endswith("\n\n") else "end", size=size),),
            Usage(prefix=1, computed=size, generated=size),
        )


class Reader(Worker, Verifier):
    def __init__(self, world: int, faults: float) -> None:
        super().__init__(world, faults)
        self.inside = self.crowd = 0
        """Calls at work, and the most there were."""
        self.blank = 0
        """Steps that nothing can be said about."""

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        (scores,) = await self.read(path, steps)
        return scores

    async def read(self, path: Path, steps: Sequence[Step]) -> list[Scores]:
        verdicts, at = [], path
        for step in steps:
            verdicts.append(self.verdict(at, step))
            at = at.extend(step)
        self.blank += sum(not step.text.strip() for step in steps)
        self.inside += 1
        self.crowd = max(self.crowd, self.inside)
        try:
            dice = self.dice(path.text, path.depth, *(step.text for step in steps))
            broken = any(broken for broken, _ in verdicts) or (len(steps) > 1 and dice.random() < self.faults)
            await self.work(dice, sum(step.size for step in steps), broken)
        finally:
            self.inside -= 1
        sizes = [Usage(computed=step.size, scored=step.size) for step in steps]
        return [Scores((reward,), usage) for (_, reward), usage in zip(verdicts, sizes, strict=True)]

    def verdict(self, path: Path, step: Step) -> tuple[bool, float | None]:
        """Whether the step breaks its reader, and its reward."""
        dice = self.dice("verdict", path.text, path.depth, step.text)
        return dice.random() < self.faults, dice.choice((None, 0.0, 0.3, 0.7, 0.8, 0.9, 1.0, 1.0, 1.0))


class RunReader(Reader):
    """Reads steps that follow each other in one call, which fails where one of them does and sometimes by itself."""

    async def score_run(self, path: Path, steps: Sequence[Step]) -> Sequence[Scores]:
        return await self.read(path, steps)


class EveryThird(WeightingPolicy):
    """Gives every third step to the target before anything is drafted."""

    def weight(self, reward: float) -> float:
        return reward

    def route(self, request: RequestView) -> Literal["draft", "target"]:
        return "target" if request.index % 3 == 2 else "draft"


POLICIES: tuple[WeightingPolicy, ...] = (
    BinaryStep(),
    Constant(p=0.9),
    Retry(n=2),
    FirstSteps(n=2),
    Takeover(steps=3, then=Constant(p=0.8)),
    BudgetAware(target_rate=0.3),
    AdvantageAware(),
    RequestBudget(calls=2),
    RequestBudget(tokens=5),
    EveryThird(),
)
LIMITS = st.builds(
    Limits,
    max_steps=st.integers(1, 12),
    max_tokens=st.none() | st.integers(1, 30),
    max_target_calls=st.none() | st.integers(0, 4),
    max_target_tokens=st.none() | st.integers(0, 9),
    max_target_flops=st.none() | st.integers(1, 20),
    max_flops=st.none() | st.integers(1, 60),
    max_repeats=st.none() | st.integers(2, 3),
)


@dataclass
class Run:
    """A result with what the models say of themselves."""

    result: Result
    error: str
    computed: tuple[int, int, int]

    @property
    def told(self) -> dict[str, Any]:
        told = asdict(self.result)
        return {name: told[name] for name in told if name not in ("ledger", "seconds")} | {"error": self.error}


async def run(
    world: int,
    faults: float,
    reader: type[Reader],
    policy: WeightingPolicy,
    settings: Settings,
    stop: list[str],
    presses: int | None = None,
) -> Run:
    """A request in a world; its models have spent what the ledger says, and nothing continues after its end."""
    drafter, verifier, target = Writer(world, faults), reader(world, faults), Writer(world + 1, faults)
    made = RewardGuidedDecoder(
        drafter=drafter, verifier=verifier, target=target, policy=copy.deepcopy(policy), settings=settings
    )
    cancel, error = Cancellation(), ""
    if presses is not None:
        _after(presses, cancel.cancel)
    result: Result | None
    try:
        result = await made.arun("question", stop=stop, cancel=cancel)
    except RunError as failed:
        result, error = failed.partial, str(failed)
    assert result is not None
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    ledger = result.ledger
    computed = (drafter.computed, verifier.computed, target.computed)
    assert (ledger.drafter.computed, ledger.verifier.computed, ledger.target.computed) == computed
    assert verifier.blank == 0
    assert verifier.crowd <= 1 or reader is Reader
    return Run(result, error, computed)


def _after(ticks: int, what: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_soon(*((_after, ticks - 1, what) if ticks else (what,)))


WORLD = {
    "world": st.integers(0, 2**32),
    "faults": st.sampled_from((0.0, 0.1, 0.3)),
    "reader": st.sampled_from((Reader, RunReader)),
    "policy": st.sampled_from(POLICIES),
    "limits": LIMITS | st.just(Limits(max_steps=12)),
    "stop": st.sampled_from(([], ["b b\n\nb"], ["d d"], ["\n\na"])),
    "on_error": st.sampled_from(("target", "accept", "raise")),
    "depth": st.integers(0, 4),
    "hedge": st.none() | st.sampled_from((0.1, 0.4, 0.6)),
}


def both(limits: Limits, on_error: Any, depth: int, hedge: float | None) -> tuple[Settings, Settings]:
    plain = Settings(limits=limits, on_verifier_error=on_error, target_retries=1)
    return plain, plain.model_copy(update={"lookahead": depth, "hedge": hedge})


@settings(max_examples=600, deadline=None)
@given(**WORLD)
def test_results_are_the_same_with_and_without(
    world: int,
    faults: float,
    reader: type[Reader],
    policy: WeightingPolicy,
    limits: Limits,
    stop: list[str],
    on_error: str,
    depth: int,
    hedge: float | None,
) -> None:
    plain, early = both(limits, on_error, depth, hedge)
    before = asyncio.run(run(world, faults, reader, policy, plain, stop))
    after = asyncio.run(run(world, faults, reader, policy, early, stop))
    assert after.told == before.told
    was, now = before.result.ledger, after.result.ledger
    assert now.drafter.generated - now.drafter.discarded == was.drafter.generated - was.drafter.discarded
    assert now.verifier.scored - now.verifier.discarded == was.verifier.scored - was.verifier.discarded
    assert now.target.generated - now.target.discarded == was.target.generated
    hard = limits.tightened(policy.limits)
    assert now.target.calls <= (99 if hard.max_target_calls is None else hard.max_target_calls)
    assert now.target.generated <= (99 if hard.max_target_tokens is None else hard.max_target_tokens)
    if hard.max_flops is not None:
        assert now == was  # where wasted work counts, nothing is begun early


@settings(max_examples=200, deadline=None)
@given(**WORLD, presses=st.integers(0, 40))
def test_a_cancelled_request_leaves_nothing_running_and_nothing_uncharged(
    world: int,
    faults: float,
    reader: type[Reader],
    policy: WeightingPolicy,
    limits: Limits,
    stop: list[str],
    on_error: str,
    depth: int,
    hedge: float | None,
    presses: int,
) -> None:
    _, early = both(limits, on_error, depth, hedge)
    whole = asyncio.run(run(world, faults, reader, policy, early, stop))
    cut = asyncio.run(run(world, faults, reader, policy, early, stop, presses))
    if cut.result.finish_reason == "cancelled":
        assert whole.result.text.startswith(cut.result.text) or stop
    else:
        assert cut.told == whole.told


def decoder(rewards: Any, delays: tuple[float, float, float], steps: int = 6, **options: Any) -> RewardGuidedDecoder:
    draft, score, target = delays
    script = [f"step {i}\n\n" for i in range(steps - 1)] + ["the end"]
    return RewardGuidedDecoder(
        drafter=ScriptedDrafter(script, delay=draft),
        verifier=ScriptedVerifier(rewards, delay=score),
        target=ScriptedTarget(script, delay=target),
        settings=Settings(**options),
    )


def clocked(made: RewardGuidedDecoder) -> tuple[Result, float]:
    """The result, and the seconds that it took on a clock that only waiting moves."""

    async def go() -> tuple[Result, float]:
        clock = asyncio.get_running_loop()
        started = clock.time()
        return await made.arun("question"), clock.time() - started

    with asyncio.Runner(loop_factory=Clock) as runner:
        return runner.run(go())


@pytest.mark.parametrize(("draft", "score"), [(2.0, 2.0), (3.0, 1.0), (1.0, 3.0)])
def test_drafting_and_scoring_take_the_longer_of_both_where_steps_stay(draft: float, score: float) -> None:
    plain, without = clocked(decoder([0.9], (draft, score, 0)))
    ahead, with_ = clocked(decoder([0.9], (draft, score, 0), lookahead=1))
    assert ahead.steps == plain.steps
    assert ahead.ledger == plain.ledger
    assert without == pytest.approx(6 * (draft + score))
    assert with_ == pytest.approx(draft + 5 * max(draft, score) + score)


def test_a_rejected_step_takes_as_long_as_without() -> None:
    rewards = [0.9, 0.9, 0.1, 0.9, 0.9, 0.9]
    _, without = clocked(decoder(rewards, (3.0, 2.0, 5.0)))
    result, ahead = clocked(decoder(rewards, (3.0, 2.0, 5.0), lookahead=1))
    assert [step.author for step in result.steps].count("target") == 1
    assert without - ahead == pytest.approx(4 * 2.0)  # the last draft, and the one after the rejection, hide nothing


def test_from_depth_two_on_steps_ahead_are_scored_ahead() -> None:
    one, seconds = clocked(decoder([0.9], (1.0, 8.0, 0), steps=9, lookahead=1))
    assert seconds == pytest.approx(1 + 9 * 8)
    for depth, limit in ((2, 0.7), (4, 0.6)):  # less than 1/2 and 1/4: the acceptance estimate has to grow first
        more, less = clocked(decoder([0.9], (1.0, 8.0, 0), steps=9, lookahead=depth))
        assert less < limit * seconds
        assert more.steps == one.steps
        assert more.ledger == one.ledger


class Scans(ScriptedVerifier):
    """A scripted verifier that scores steps that follow each other in one call."""

    def __init__(self, rewards: Any, delay: float, broken: Exception | None = None, short: int = 0) -> None:
        super().__init__(rewards, delay=delay)
        self.broken, self.short = broken, short
        self.asked: list[tuple[int, ...]] = []
        """The depths of the steps of each call."""

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        self.asked.append((path.depth,))
        return await super().score(path, steps)

    async def score_run(self, path: Path, steps: Sequence[Step]) -> Sequence[Scores]:
        self.asked.append(tuple(range(path.depth, path.depth + len(steps))))
        try:
            await asyncio.sleep(self.delay)
        except asyncio.CancelledError:
            raise Interrupted(Usage(computed=100)) from None
        if self.broken is not None:
            raise self.broken
        found = []
        for step in steps[self.short :]:
            found.append(await ScriptedVerifier(self.script).score(path, [step]))
            path = path.extend(step)
        return found


def scanned(verifier: Scans, depth: int, steps: int = 13, **options: Any) -> RewardGuidedDecoder:
    made = decoder([], (1.0, 0, 1.0), steps, lookahead=depth, **options)
    made.verifier = verifier
    return made


def test_drafts_that_wait_for_a_slow_verifier_are_scored_in_one_call() -> None:
    plain, without = clocked(scanned(Scans([0.9], 8.0), 0))
    verifier = Scans([0.9], 8.0)
    result, seconds = clocked(scanned(verifier, 4))
    # As far ahead as the acceptance estimate allows: 1/2, then 2/3, and 3/4 from the third step on; then to the depth.
    assert verifier.asked == [(0,), (1,), (2, 3, 4), (5, 6, 7, 8), (9, 10, 11, 12)]
    assert seconds == pytest.approx(1 + 5 * 8)
    assert without == pytest.approx(13 * (1 + 8))
    assert result.steps == plain.steps
    assert result.ledger == plain.ledger  # each step bears its own share of a call


@pytest.mark.parametrize(("depth", "delay"), [(1, 8.0), (4, 0.5)])
def test_where_no_drafts_wait_every_step_is_a_call(depth: int, delay: float) -> None:
    verifier = Scans([0.9], delay)
    clocked(scanned(verifier, depth))
    assert verifier.asked == [(i,) for i in range(13)]


def test_a_step_that_is_rejected_in_the_middle_of_a_run_drops_those_after_it() -> None:
    rewards = [0.9, 0.9, 0.9, 0.1, *[0.9] * 9]
    plain, _ = clocked(scanned(Scans(rewards, 8.0), 0))
    verifier = Scans(rewards, 8.0)
    result, _ = clocked(scanned(verifier, 4))
    assert verifier.asked[:4] == [(0,), (1,), (2, 3, 4), (4,)]
    assert result.steps == plain.steps
    assert result.ledger.verifier.discarded - plain.ledger.verifier.discarded == 2  # the two words of step 4
    assert result.ledger.verifier.scored - plain.ledger.verifier.scored == 2


@pytest.mark.parametrize(
    ("fault", "read"),
    [
        ({"broken": RuntimeError("too long")}, 0),
        ({"broken": VerifierError("too long", usage=Usage(computed=7))}, 3 * 7),
        ({"short": 1}, 2 * 2 + 3 * 2 + 3 * 2 + 1),
    ],
)
def test_steps_of_a_run_that_fails_are_asked_for_alone_and_the_run_is_charged_once(fault: Any, read: int) -> None:
    plain, _ = clocked(scanned(Scans([0.9], 8.0), 0))
    verifier = Scans([0.9], 8.0, **fault)
    result, _ = clocked(scanned(verifier, 4))
    assert verifier.asked[2:6] == [(2, 3, 4), (2,), (3,), (4,)]
    assert result.steps == plain.steps
    assert result.degradations == ()
    assert result.ledger.drafter == plain.ledger.drafter
    spent = result.ledger.verifier
    assert (spent.calls - spent.failed, spent.failed) == (plain.ledger.verifier.calls, 3)
    assert spent.computed - plain.ledger.verifier.computed == read


def test_a_run_that_is_cut_is_charged_once() -> None:
    verifier = Scans([0.9], 8.0)
    made, cancel = scanned(verifier, 4), Cancellation()

    async def go() -> Result:
        asyncio.get_running_loop().call_later(20, cancel.cancel)
        return await made.arun("question", cancel=cancel)

    with asyncio.Runner(loop_factory=Clock) as runner:
        result = runner.run(go())
    assert verifier.asked == [(0,), (1,), (2, 3, 4)]
    assert result.finish_reason == "cancelled"
    assert result.ledger.verifier.computed == 2 + 2 + 100


def test_a_target_that_is_likely_to_be_needed_begins_with_the_drafter() -> None:
    plain, without = clocked(decoder([0.1], (2.0, 2.0, 3.0)))
    hedged, with_ = clocked(decoder([0.1], (2.0, 2.0, 3.0), hedge=0.6))
    assert hedged.steps == plain.steps
    assert hedged.ledger.target == plain.ledger.target  # every hedge was needed
    assert without == pytest.approx(6 * (2 + 2 + 3))
    assert with_ == pytest.approx(7 + 5 * (2 + 2))  # nothing is known at the first step


def test_a_step_given_to_the_target_unseen_leaves_its_draft_behind() -> None:
    def length(path: Path, rng: random.Random) -> str:
        return "the end" if path.depth == 9 else f"after {len(path.text)}\n\n"

    def made(depth: int) -> RewardGuidedDecoder:
        return RewardGuidedDecoder(
            drafter=ScriptedDrafter(length, delay=1.0),
            verifier=ScriptedVerifier([0.9], delay=8.0),
            target=ScriptedTarget(["by the target\n\n"]),
            policy=EveryThird(),
            settings=Settings(lookahead=depth, seed=1),
        )

    plain, _ = clocked(made(0))
    ahead, _ = clocked(made(4))
    assert ahead.steps == plain.steps
    assert ahead.ledger.drafter.discarded > plain.ledger.drafter.discarded


def test_lock_step_gives_the_same_answers_later() -> None:
    def step(i: int, j: int, words: str, size: int) -> Step:
        last = j == 2 + i
        return Step(f"{i} {j}{words}" + "\n\n" * (not last), "end" if last else "delimiter", size=size)

    said = {
        as_prompt(f"question {i}"): [
            Position(step(i, j, "", 5 + (i + j) % 7), (i * j % 4) / 4, step(i, j, " by target", 9))
            for j in range(3 + i)
        ]
        for i in range(6)
    }
    ways = (None, Way(), Way(Settings(lookahead=2)), Way(Settings(lookahead=2), guesses=True))
    runs = {at_once: [simulate(JUDGE, said, 0.5, 1, way, at_once) for way in ways] for at_once in (1, 6)}
    lock, rsd, ahead, reading = runs[1]
    assert rsd.seconds == pytest.approx(lock.seconds, rel=0.02)  # the same requests, but new random latencies
    assert reading.seconds < ahead.seconds < rsd.seconds
    lock, rsd, *_ = runs[6]
    assert rsd.seconds < lock.seconds
    assert "by target" in lock.texts[1]
    assert len({tuple(run.texts) for methods in runs.values() for run in methods}) == 1


def test_a_verifier_that_everybody_waits_for_reads_less_and_everybody_is_done_sooner() -> None:
    def position(i: int, j: int) -> Position:
        step = Step(f"{i} {j}\n\n", "delimiter", size=20) if j < 9 else Step("end", "end", size=2)
        return Position(step, 0.2 if (i, j) == (2, 5) else 0.9, step)

    said = {as_prompt(f"question {i}"): [position(i, j) for j in range(10)] for i in range(8)}
    slow = replace(PAPER, verifier=BIG.verifier)
    plain, ahead = (simulate(slow, said, 0.5, 1, Way(Settings(lookahead=depth)), 8) for depth in (0, 4))
    assert ahead.texts == plain.texts
    assert ahead.read < 0.7 * plain.read
    assert ahead.seconds < 0.7 * plain.seconds


def test_what_is_thrown_away_is_on_the_ledger() -> None:
    made = decoder([0.9, 0.1, 0.9, 0.9, 0.9], (0, 0.01, 0), lookahead=1)
    ledger = made.run("question").ledger
    drafter = made.drafter
    assert isinstance(drafter, ScriptedDrafter)
    assert ledger.drafter.calls == len(drafter.calls) == 7
    assert ledger.drafter.discarded == 2 + 2  # the rejected draft, and the one that was written after it
    assert ledger.drafter.generated == ledger.drafter.discarded + 4 * 2 + 3


def test_what_was_dropped_before_it_reached_its_model_was_no_call() -> None:
    """A verifier that answers at once leaves the draft ahead no time to begin."""
    drafter = ScriptedDrafter(["draft\n\n"])
    made = RewardGuidedDecoder(
        drafter=drafter,
        verifier=ScriptedVerifier([0.1]),
        target=ScriptedTarget(["target\n\n", "end"]),
        settings=Settings(lookahead=1),
    )
    account = made.run("question").ledger.drafter
    assert (account.calls, account.failed, len(drafter.calls)) == (2, 0, 2)


def test_what_is_not_needed_ends_before_the_target_is_asked() -> None:
    ended: list[int] = []

    class Slow(ScriptedDrafter):
        async def generate(self, path: Path, request: StepRequest) -> Generation:
            if path.depth == 1 and path.text == "one\n\n":
                try:
                    await asyncio.sleep(30)
                finally:
                    ended.append(path.depth)
            return await super().generate(path, request)

    class After(ScriptedTarget):
        async def generate(self, path: Path, request: StepRequest) -> Generation:
            await asyncio.sleep(0)
            assert ended == [1]
            return await super().generate(path, request)

    made = RewardGuidedDecoder(
        drafter=Slow(["one\n\n", "two"]),
        verifier=ScriptedVerifier([0.1, 0.9], delay=0.001),
        target=After(["ONE\n\n"]),
        settings=Settings(lookahead=1),
    )
    assert made.run("question").text == "ONE\n\ntwo"


def test_it_rests_while_drafts_are_rejected() -> None:
    rewards = [0.1] * 5 + [0.9] * 20
    made = decoder(rewards, (0, 0.002, 0), steps=25, lookahead=1)
    ledger = made.run("question").ledger
    assert ledger.drafter.calls - 25 == 1  # one look at the start; then the acceptance estimate is below one half
    spent = decoder(rewards[::-1], (0, 0.002, 0), steps=25, lookahead=1).run("question").ledger.drafter.calls
    assert spent - 25 == 4  # the last of the five would have ended the answer


def test_a_failed_look_ahead_is_reported_at_its_own_step() -> None:
    script: list[str | Exception] = ["one\n\n", RuntimeError("out of memory"), "the end"]
    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter(script),
        verifier=ScriptedVerifier([0.9], delay=0.005),
        target=ScriptedTarget(["ONE\n\n", "TWO\n\n"]),
        settings=Settings(lookahead=2),
    )
    result = made.run("question")
    assert result.text == "one\n\nTWO\n\nthe end"
    assert [(item.step, item.kind) for item in result.degradations] == [(1, "drafter_error")]


def test_time_that_is_up_ends_what_was_begun_early() -> None:
    async def go() -> Result:
        made = decoder([0.9], (0.001, 30, 30), lookahead=3, hedge=0.1, limits=Limits(max_seconds=0.05))
        result = await made.arun("question")
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return result

    assert asyncio.run(go()).finish_reason == "max_seconds"


def test_a_caller_that_leaves_takes_everything_along() -> None:
    async def go() -> None:
        made = decoder([0.9], (0.001, 30, 30), lookahead=3, hedge=0.1)
        task = asyncio.create_task(made.arun("question"))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(go())


def test_several_candidates_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="which candidate goes on"):
        Settings().updated(candidates=2, temperature=0.7, lookahead=1)
    with pytest.raises(ConfigurationError, match="less than 1"):
        Settings().updated(hedge=1.0)


def test_real_models_answer_the_same() -> None:
    draft, verifier, target = (load(f"embedded:{name}") for name in ("draft", "verifier", "target"))
    prompts = [item.prompt for item in find_task("embedded").draw(6, 5)]
    answers = []
    for early in (Settings(), Settings(lookahead=1, hedge=0.4), Settings(lookahead=3, hedge=0.2)):
        made = RewardGuidedDecoder(
            drafter=draft, verifier=verifier, target=target, policy=BinaryStep(delta=0.9), settings=early
        )
        answers.append([[(s.text, s.author) for s in result.steps] for result in made.run_many(prompts)])
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize(
    ("options", "reused"),
    [
        ({}, True),
        ({"reuse_rejected": False}, False),
        ({"limits": Limits(max_target_tokens=100)}, False),
        ({"limits": Limits(max_target_calls=9)}, False),
        ({"limits": Limits(max_tokens=100)}, True),
    ],
)
def test_the_target_is_shown_the_draft_that_it_replaces(options: dict[str, Any], reused: bool) -> None:
    seen: list[str | None] = []

    class Watched(ScriptedTarget):
        async def generate(self, path: Path, request: StepRequest) -> Generation:
            seen.append(None if request.guess is None else request.guess.text)
            return await super().generate(path, request)

    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter(["a\n\n", "b\n\n", "c"]),
        verifier=ScriptedVerifier([0.1, 0.9, 0.1]),
        target=Watched(["A\n\n", "B\n\n", "C"]),
        settings=Settings(**options),
    )
    assert made.run("?").text == "A\n\nb\n\nC"
    assert seen == (["a\n\n", "c"] if reused else [None, None])
