"""However a request ends: none of its calls continues, and generated text is kept or on the ledger as discarded."""

import asyncio
import contextlib
import copy
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from rsd_core import (
    Backtracking,
    BatchError,
    BestOfN,
    Cancellation,
    Decoder,
    Drafter,
    DraftOnly,
    Generation,
    HeuristicGreedySearch,
    Interrupted,
    Likelihoods,
    MajorityVote,
    Path,
    Result,
    Retry,
    RewardGuidedDecoder,
    RunError,
    Scores,
    Settings,
    SpecReason,
    Speculation,
    SpeculativeDecoding,
    Step,
    StepBeam,
    StepRequest,
    Target,
    TargetOnly,
    TiltedDecoder,
    Usage,
    Verifier,
)


class Books:
    """What the models of a test did, by their own books."""

    def __init__(self, fail_at: int = -1, stall_at: int = -1) -> None:
        self.fail_at, self.stall_at = fail_at, stall_at
        self.calls = self.inside = 0
        self.stalled = asyncio.Event()

    async def work(self) -> None:
        """One call: a tick of the loop or some, a fault, or a stand-still."""
        number, self.calls = self.calls, self.calls + 1
        self.inside += 1
        try:
            for _ in range(1 + number % 3):
                await asyncio.sleep(0)
            if 0 <= self.fail_at <= number:
                raise RuntimeError("gone")
            if 0 <= self.stall_at <= number:
                self.stalled.set()
                await asyncio.sleep(30)
        finally:
            try:
                await asyncio.sleep(0)  # leaving takes time as well
            finally:
                self.inside -= 1


class Writer(Drafter, Target):
    flops_per_token = 2.0

    def __init__(self, books: Books, name: str) -> None:
        self.books, self.name = books, name

    async def generate(self, path: Path, request: StepRequest) -> Generation:
        try:
            await self.books.work()
        except asyncio.CancelledError:
            raise Interrupted(Usage(prefix=1, computed=2, generated=1)) from None
        if "Score:" in path.prompt[-1].content:
            return Generation((Step("7", "end", size=1),), Usage(prefix=1, computed=2, generated=1))
        steps = []
        for seed in request.seeds:
            words = " ".join(random.Random(seed).choices("abcdef", k=3))
            steps.append(
                Step(
                    words if path.depth == 3 else words + "\n\n",
                    "end" if path.depth == 3 else "delimiter",
                    size=3 + (path.depth == 3),
                )
            )
        size = sum(step.size for step in steps)
        return Generation(tuple(steps), Usage(prefix=1, computed=1 + size, generated=size))

    async def log_likelihoods(self, path: Path, steps: Sequence[Step]) -> Likelihoods:
        await self.books.work()
        return Likelihoods((-1.0,) * len(steps), Usage(computed=len(steps)))

    def checked_speculation(self, speculation: Speculation) -> Speculation:
        return speculation


class Reader(Verifier):
    flops_per_token = 2.0

    def __init__(self, books: Books) -> None:
        self.books = books

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        await self.books.work()
        rewards = tuple(random.Random(step.text).random() for step in steps)
        return Scores(rewards, Usage(computed=len(steps), scored=sum(step.size for step in steps)))


SETTINGS = Settings(temperature=1.0, on_verifier_error="raise", target_retries=0)
Make = Callable[[Books, Settings], Decoder]


def models(books: Books) -> dict[str, Any]:
    return {"drafter": Writer(books, "small"), "target": Writer(books, "large")}


def pair(books: Books) -> dict[str, Any]:
    return {"drafter": Writer(books, "small"), "verifier": Reader(books)}


DECODERS: dict[str, Make] = {
    "rsd": lambda books, settings: RewardGuidedDecoder(**models(books), verifier=Reader(books), settings=settings),
    "rsd, early": lambda books, settings: RewardGuidedDecoder(
        **models(books), verifier=Reader(books), policy=Retry(n=1), settings=settings.updated(lookahead=3, hedge=0.1)
    ),
    "rsd, candidates": lambda books, settings: RewardGuidedDecoder(
        **models(books), verifier=Reader(books), settings=settings.updated(candidates=3)
    ),
    "drafter": lambda books, settings: DraftOnly(drafter=Writer(books, "small"), settings=settings),
    "target": lambda books, settings: TargetOnly(target=Writer(books, "large"), settings=settings),
    "vote": lambda books, settings: MajorityVote(drafter=Writer(books, "small"), n=5, settings=settings),
    "best of n": lambda books, settings: BestOfN(**pair(books), n=4, aggregate="min", settings=settings),
    "beam": lambda books, settings: StepBeam(**pair(books), width=3, expand=2, settings=settings),
    "backtracking": lambda books, settings: Backtracking(**pair(books), tries=2, settings=settings),
    "hgs": lambda books, settings: HeuristicGreedySearch(**pair(books), children=2, settings=settings),
    "specreason": lambda books, settings: SpecReason(**models(books), settings=settings),
    "gsi": lambda books, settings: TiltedDecoder(
        **models(books), verifier=Reader(books), settings=settings.updated(candidates=2)
    ),
    "speculative": lambda books, settings: SpeculativeDecoding(**models(books), settings=settings),
}
every = pytest.mark.parametrize("make", DECODERS.values(), ids=DECODERS)


async def settled(books: Books, result: Result | None) -> None:
    """Nothing works on, and the ledger is final and adds up."""
    assert books.inside == 0
    assert len(asyncio.all_tasks()) == 1
    if result is None:
        return
    before = copy.deepcopy(result.ledger)
    await asyncio.sleep(0.01)
    assert result.ledger == before
    for author, account in (("draft", before.drafter), ("target", before.target)):
        kept = sum(step.size for step in result.steps if step.author == author)
        assert account.generated == account.discarded + kept, author


@every
async def test_a_whole_answer_adds_up(make: Make) -> None:
    books = Books()
    result = await make(books, SETTINGS).arun("question")
    assert result.finish_reason == "stop"
    await settled(books, result)


@every
async def test_a_call_that_fails_takes_the_others_along_and_what_was_written_is_kept(make: Make) -> None:
    for fail_at in range(40):
        books = Books(fail_at=fail_at)
        try:
            result: Result | None = await make(books, SETTINGS).arun("question")
        except RunError as error:
            result = error.partial
        assert result is not None
        await settled(books, result)
        if books.calls <= fail_at:
            break
    assert fail_at > 0


@every
async def test_a_call_that_is_cut_by_a_limit_leaves_nothing_behind(make: Make) -> None:
    for stall_at in range(40):
        books = Books(stall_at=stall_at)
        decoder, cancel = make(books, SETTINGS), Cancellation()
        running = asyncio.create_task(decoder.arun("question", cancel=cancel))
        stalls = asyncio.create_task(books.stalled.wait())
        await asyncio.wait([running, stalls], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            break
        for _ in range(5):
            await asyncio.sleep(0)
        cancel.cancel()
        result = await running
        assert result.finish_reason == "cancelled"
        await settled(books, result)
    stalls.cancel()
    assert stall_at > 0


@every
async def test_time_that_is_up_leaves_nothing_behind(make: Make) -> None:
    for stall_at in (0, 2, 5):
        books = Books(stall_at=stall_at)
        result = await make(books, SETTINGS.updated(max_seconds=0.03)).arun("question")
        if books.stalled.is_set():
            assert result.finish_reason == "max_seconds"
        await settled(books, result)


@every
@pytest.mark.parametrize("how", ["cancelled", "timeout", "stream is left"])
async def test_a_caller_that_leaves_takes_everything_along(make: Make, how: str) -> None:
    for stall_at in (0, 3, 6):
        books = Books(stall_at=stall_at)
        decoder = make(books, SETTINGS)
        if how == "timeout":
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.03):
                    await decoder.arun("question")
        elif how == "cancelled":
            running = asyncio.create_task(decoder.arun("question"))
            await asyncio.wait([running], timeout=0.03)
            running.cancel()
            await asyncio.wait([running])
        else:
            stream = decoder.astream("question")
            first = asyncio.ensure_future(anext(stream))
            await asyncio.wait([first], timeout=0.03)
            first.cancel()
            await asyncio.wait([first])
            await stream.aclose()
        await settled(books, None)


async def test_a_task_whose_call_was_cut_by_a_limit_is_not_cancelled() -> None:
    """asyncio counts cancellations: one that is left over would end the caller's next time-out early."""
    result = await DECODERS["rsd"](Books(stall_at=2), SETTINGS.updated(max_seconds=0.03)).arun("question")
    assert result.finish_reason == "max_seconds"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


class Lingers(Writer):
    """Stands still, and takes its time to leave."""

    def __init__(self) -> None:
        super().__init__(Books(stall_at=0), "small")
        self.leaving, self.may_leave = asyncio.Event(), asyncio.Event()

    async def generate(self, path: Path, request: StepRequest) -> Generation:
        try:
            return await super().generate(path, request)
        finally:
            self.leaving.set()
            await self.may_leave.wait()


async def test_a_caller_that_leaves_while_a_limit_cuts_a_call_has_left() -> None:
    drafter, cancel = Lingers(), Cancellation()
    running = asyncio.create_task(DraftOnly(drafter=drafter, settings=SETTINGS).arun("question", cancel=cancel))
    await drafter.books.stalled.wait()
    cancel.cancel()
    await drafter.leaving.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await settled(drafter.books, None)


async def test_the_first_of_two_limits_is_the_reason() -> None:
    drafter, cancel = Lingers(), Cancellation()
    decoder = DraftOnly(drafter=drafter, settings=SETTINGS.updated(max_seconds=0.03))
    running = asyncio.create_task(decoder.arun("question", cancel=cancel))
    await drafter.leaving.wait()
    cancel.cancel()
    await asyncio.sleep(0.01)
    drafter.may_leave.set()
    result = await running
    assert result.finish_reason == "max_seconds"
    await settled(drafter.books, result)


async def test_a_batch_that_is_cancelled_leaves_nothing_behind() -> None:
    books = Books(stall_at=9)
    decoder = DECODERS["rsd, early"](books, SETTINGS)
    running = asyncio.create_task(decoder.arun_many([f"question {i}" for i in range(6)], concurrency=3))
    await books.stalled.wait()
    running.cancel()
    await asyncio.wait([running])
    await settled(books, None)


async def test_a_batch_finishes_the_others_when_one_request_fails() -> None:
    class Picky(Writer):
        async def generate(self, path: Path, request: StepRequest) -> Generation:
            if path.prompt[-1].content == "question 1":
                raise RuntimeError("gone")
            return await super().generate(path, request)

    books = Books()
    decoder = TargetOnly(target=Picky(books, "large"), settings=SETTINGS)
    with pytest.raises(BatchError) as caught:
        await decoder.arun_many([f"question {i}" for i in range(4)])
    assert [result.finish_reason for result in caught.value.results] == ["stop", "error", "stop", "stop"]
    for result in caught.value.results:
        await settled(books, result)


async def test_a_model_that_cancels_its_own_call_fails_its_own_request_alone() -> None:
    """As clients do that lose their connection in an unlucky way: asyncio would take the whole batch for cancelled."""

    class Leaky(Writer):
        async def generate(self, path: Path, request: StepRequest) -> Generation:
            if path.prompt[-1].content == "question 1":
                raise asyncio.CancelledError
            return await super().generate(path, request)

    books = Books()
    decoder = TargetOnly(target=Leaky(books, "large"), settings=SETTINGS)
    with pytest.raises(BatchError, match="<Leaky 'large'> cancelled its own call") as caught:
        await decoder.arun_many([f"question {i}" for i in range(3)])
    assert [result.finish_reason for result in caught.value.results] == ["stop", "error", "stop"]


ENDS = """
import asyncio, sys
from collections.abc import Sequence
from rsd_core import *
from rsd_core.blocking import in_thread
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier

END = None

class EndingDrafter(ScriptedDrafter):
    async def generate(self, path, request):
        {drafter}

class EndingVerifier(ScriptedVerifier):
    async def score(self, path, steps):
        {verifier}

class EndingTarget(ScriptedTarget):
    async def generate(self, path, request):
        {target}
    async def log_likelihoods(self, path, steps): raise END
    def checked_speculation(self, speculation): return speculation

class EndingPolicy(WeightingPolicy):
    def weight(self, reward): {weight}
    def route(self, request): {route}
    def learn(self, reward, request): {learn}

class Likely(ScriptedDrafter):
    async def log_likelihoods(self, path, steps): raise END

steps = ["one\\n\\n", "two\\n\\n", "three"]
drafter, verifier, target = EndingDrafter(steps), EndingVerifier([0.9]), EndingTarget(steps)
rsd = dict(drafter=drafter, verifier=verifier, target=target, policy=EndingPolicy())
warm = Settings(temperature=1.0, target_retries=0)
decoder = {decoder}
for END in (SystemExit(3), KeyboardInterrupt()):
    for run in (lambda: [decoder.run("q")], lambda: [list(decoder.stream("q"))[-1].result],
                lambda: decoder.run_many(["q", "r", "s"])):
        try:
            results = run()
        except RunError as error:
            print(error)
        else:
            print(*{{item.message for result in results for item in result.degradations}})
"""
FINE = {
    "drafter": "return await super().generate(path, request)",
    "verifier": "return await super().score(path, steps)",
    "target": "return await super().generate(path, request)",
    "weight": "return float(reward >= 0.7)",
    "route": "return 'draft'",
    "learn": "pass",
    "decoder": "RewardGuidedDecoder(**rsd)",
}
EARLY = "RewardGuidedDecoder(**rsd, settings=Settings(lookahead=3, hedge=0.1))"
LATER = "if path.depth: raise END\n        return await super()"


@pytest.mark.parametrize(
    ("changes", "owner"),
    [
        ({"drafter": "raise END"}, "EndingDrafter"),
        ({"verifier": "raise END"}, "EndingVerifier"),
        ({"drafter": "await in_thread(lambda: sys.exit(3))"}, "EndingDrafter"),
        ({"target": "raise END", "verifier": "return Scores((0.1,), Usage())"}, "EndingTarget"),
        ({"weight": "raise END"}, "EndingPolicy"),
        ({"route": "raise END"}, "EndingPolicy"),
        ({"learn": "raise END", "route": "return 'target'"}, "EndingPolicy"),
        ({"drafter": LATER + ".generate(path, request)", "decoder": EARLY}, "EndingDrafter"),
        ({"verifier": LATER + ".score(path, steps)", "decoder": EARLY}, "EndingVerifier"),
        ({"target": "raise END", "verifier": "return Scores((0.1,), Usage())", "decoder": EARLY}, "EndingTarget"),
        ({"drafter": "raise END", "decoder": "MajorityVote(drafter=drafter, n=3, settings=warm)"}, "EndingDrafter"),
        (
            {"verifier": "raise END", "decoder": "BestOfN(drafter=drafter, verifier=verifier, n=3, settings=warm)"},
            "EndingVerifier",
        ),
        (
            {
                "drafter": LATER + ".generate(path, request)",
                "decoder": "StepBeam(drafter=drafter, verifier=verifier, width=2, expand=2, settings=warm)",
            },
            "EndingDrafter",
        ),
        (
            {"target": "raise END", "decoder": "SpecReason(drafter=drafter, target=target, settings=warm)"},
            "EndingTarget",
        ),
        ({"target": "raise END", "decoder": "SpeculativeDecoding(drafter=drafter, target=target)"}, "EndingTarget"),
        ({"decoder": "TiltedDecoder(drafter=Likely(steps), verifier=verifier, target=target)"}, "EndingTarget"),
    ],
)
def test_a_plugin_that_would_end_the_process_is_named_and_nobody_hangs(changes: dict[str, str], owner: str) -> None:
    code = ENDS.format(**{**FINE, **changes})
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    lines = done.stdout.splitlines()
    assert (done.returncode, len(lines)) == (0, 6), done.stderr
    for i, line in enumerate(lines):
        assert owner in line
        assert ("sys.exit(3)" if i < 3 or "sys.exit" in str(changes) else "KeyboardInterrupt") in line
