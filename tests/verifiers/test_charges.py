"""Paid work is charged to the model that did it, however the scoring ends."""

import asyncio
import math
from collections.abc import Callable, Sequence

import pytest

from rsd_core import (
    Generation,
    Interrupted,
    Limits,
    Message,
    NextWord,
    Path,
    Price,
    RewardGuidedDecoder,
    RunError,
    Scores,
    Settings,
    Step,
    StepRequest,
    Target,
    Usage,
    Verifier,
    VerifierError,
    as_prompt,
)
from rsd_core.model import usage_of
from rsd_core.testing import ScriptedDrafter, ScriptedTarget
from rsd_integrations.prm_formats import CRITICS
from rsd_integrations.verifiers import Cached, Cascade, CriticJudge, Ensemble, WordJudge
from rsd_integrations.verifiers.judges import DIGIT, YES_NO

START = Path(as_prompt("q"))
STEPS = [Step("a b\n\n", "delimiter", size=2), Step("c d\n\n", "delimiter", size=2)]
PAID = Usage(prefix=5, computed=9, generated=4)
WORD = Usage(prefix=3, computed=3)


class Writer(Target):
    """A generator that is paid for each call, the failed and the cancelled ones too."""

    name = "writer"

    def __init__(self, *, fails: Callable[[str], bool] = lambda _: False, hangs_for: str | None = None) -> None:
        self.fails, self.hangs_for = fails, hangs_for

    async def generate(self, path: Path, request: StepRequest) -> Generation:
        await self._work(path, PAID)
        return Generation((Step("Fine.</think> Score: 5", "end", size=4),) * len(request.seeds), PAID)

    async def next_word(self, path: Path, words: Sequence[str], after: Sequence[Message] = ()) -> NextWord:
        await self._work(path, WORD)
        return NextWord((-1.0,) * len(words), WORD)

    async def _work(self, path: Path, usage: Usage) -> None:
        asked = f"{path.prompt[-1].content} {path.text}"
        if self.fails(asked):
            try:
                await asyncio.sleep(0.01)  # the others are done by then, or fail as well
            except asyncio.CancelledError:
                raise Interrupted(usage) from None
            raise RunError("the reply was cut off", usage=usage)
        if self.hangs_for is not None and self.hangs_for in asked:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                raise Interrupted(usage) from None


class OnlyWriter(Target):
    """The same without probabilities of words."""

    name = "only writer"

    def __init__(self, **options: object) -> None:
        self.inner = Writer(**options)  # type: ignore[arg-type]

    async def generate(self, path: Path, request: StepRequest) -> Generation:
        return await self.inner.generate(path, request)


class Paid(Verifier):
    """A verifier of a fixed reward whose calls cost one token, or which fails or hangs after that."""

    def __init__(self, reward: float | None = 0.5, then: str = "", rewards: int | None = None) -> None:
        self.name = f"paid {then}".strip()
        self.reward, self.then, self.rewards = reward, then, rewards

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        usage = Usage(computed=1, scored=1)
        if self.then == "fails":
            await asyncio.sleep(0.01)
            raise VerifierError("no score in the reply", usage=usage)
        if self.then == "hangs":
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                raise Interrupted(usage) from None
        return Scores((self.reward,) * (self.rewards or len(steps)), usage)


def spent(error: BaseException) -> Usage:
    usage = usage_of(error)
    assert usage is not None
    return usage


def workers(usage: Usage) -> list[tuple[str, int]]:
    return [(model.name, part.computed) for model, part in usage.parts]


async def cut_short(verifier: Verifier) -> BaseException:
    """What scoring two steps ends with when it is cancelled."""
    task = asyncio.ensure_future(verifier.score(START, STEPS))
    await asyncio.sleep(0.05)
    task.cancel()
    try:
        await task
    except BaseException as error:
        return error
    raise AssertionError("it ended before it was cancelled")


def second(asked: str) -> bool:
    return "c d" in asked


def verdict(asked: str) -> bool:
    return "Is the solution correct?" in asked


@pytest.mark.parametrize(
    ("judge", "computed"),
    [
        (WordJudge(Writer(fails=second), DIGIT), 3 + 3),
        (CriticJudge(OnlyWriter(fails=second), CRITICS["rubric"]), 9 + 9),
        (CriticJudge(Writer(fails=second), CRITICS["thinkprm"]), 9 + 3 + 9),
        (CriticJudge(Writer(fails=verdict), CRITICS["thinkprm"]), 2 * (9 + 3)),
        (CriticJudge(Writer(fails=verdict), CRITICS["thinkprm"], samples=3), 2 * (9 + 3 * 3)),
    ],
)
def test_a_judge_that_fails_at_one_call_is_charged_for_all(judge: WordJudge | CriticJudge, computed: int) -> None:
    with pytest.raises(RunError, match="cut off") as caught:
        asyncio.run(judge.score(START, STEPS))
    assert spent(caught.value).computed == computed
    assert {model for model, _ in spent(caught.value).parts} == {judge.model}
    assert sum(part.computed for _, part in spent(caught.value).parts) == computed


@pytest.mark.parametrize(
    ("judge", "computed"),
    [
        (WordJudge(Writer(hangs_for="c d"), DIGIT), 3 + 3),
        (CriticJudge(Writer(hangs_for="c d"), CRITICS["thinkprm"]), 9 + 3 + 9),
        (CriticJudge(Writer(hangs_for="Is the solution correct?"), CRITICS["thinkprm"]), 2 * (9 + 3)),
    ],
)
def test_a_judge_that_is_cancelled_is_charged_for_what_it_had_done(
    judge: WordJudge | CriticJudge, computed: int
) -> None:
    error = asyncio.run(cut_short(judge))
    assert isinstance(error, Interrupted)
    assert error.usage.computed == computed == sum(part.computed for _, part in error.usage.parts)


@pytest.mark.parametrize("logprobs", [(-1.0,), (math.nan,) * 2, (-1.0,) * 3])
def test_a_judge_whose_model_gives_no_probabilities_fails_and_is_charged(logprobs: tuple[float, ...]) -> None:
    class Odd(Writer):
        async def next_word(self, path: Path, words: Sequence[str], after: Sequence[Message] = ()) -> NextWord:
            return NextWord(logprobs, WORD)

    for judge, computed in ((WordJudge(Odd(), YES_NO), 3), (CriticJudge(Odd(), CRITICS["thinkprm"]), 9 + 3)):
        with pytest.raises(VerifierError, match="not log-probabilities of 2 words") as caught:
            asyncio.run(judge.score(START, STEPS[:1]))
        assert spent(caught.value).computed == computed


def test_a_reply_without_a_score_is_charged_as_an_abstention() -> None:
    class Mute(OnlyWriter):
        async def generate(self, path: Path, request: StepRequest) -> Generation:
            return Generation((Step("I cannot say.", "end", size=4),), PAID)

    judge = CriticJudge(Mute(), CRITICS["rubric"])
    scores = asyncio.run(judge.score(START, STEPS))
    assert scores.rewards == (None, None)
    assert scores.usage.computed == 18
    assert [model for model, _ in scores.usage.parts] == [judge.model] * 2


@pytest.mark.parametrize(
    ("verifier", "expected"),
    [
        (Cascade([Paid(None), Paid(then="fails")]), [("paid", 1), ("paid fails", 1)]),
        (Cascade([Paid(), Paid(), Paid(then="fails")]), [("paid", 1), ("paid", 1), ("paid fails", 1)]),
        (Ensemble([Paid(), Paid(then="fails")]), [("paid", 1), ("paid fails", 1)]),
        (Ensemble([Paid(then="fails"), Paid(then="hangs")]), [("paid fails", 1), ("paid hangs", 1)]),
        (Cached(Paid(then="fails")), [("paid fails", 1)]),
        (
            Cached(Cascade([Paid(), Ensemble([Paid(), Paid(then="fails")])])),
            [("paid", 1), ("paid", 1), ("paid fails", 1)],
        ),
        (
            Cascade([Paid(), CriticJudge(Writer(fails=second), CRITICS["thinkprm"])]),
            [("paid", 1), ("writer", 9), ("writer", 3), ("writer", 9)],
        ),
    ],
)
def test_a_member_that_fails_is_charged_with_those_before_and_alongside_it(
    verifier: Verifier, expected: list[tuple[str, int]]
) -> None:
    with pytest.raises(RunError) as caught:
        asyncio.run(verifier.score(START, STEPS))
    assert sorted(workers(spent(caught.value))) == sorted(expected)
    assert spent(caught.value).computed == sum(computed for _, computed in expected)


@pytest.mark.parametrize(
    ("verifier", "expected"),
    [
        (Cascade([Paid(), Paid(then="hangs")]), [("paid", 1), ("paid hangs", 1)]),
        (Ensemble([Paid(), Paid(then="hangs")]), [("paid", 1), ("paid hangs", 1)]),
        (Cached(Paid(then="hangs")), [("paid hangs", 1)]),
        (
            Cached(Cascade([Paid(), Ensemble([Paid(), Paid(then="hangs")])])),
            [("paid", 1), ("paid", 1), ("paid hangs", 1)],
        ),
    ],
)
def test_a_member_that_is_cancelled_is_charged_with_those_before_and_alongside_it(
    verifier: Verifier, expected: list[tuple[str, int]]
) -> None:
    error = asyncio.run(cut_short(verifier))
    assert isinstance(error, Interrupted)
    assert sorted(workers(error.usage)) == sorted(expected)


@pytest.mark.parametrize("combined", [Cached, lambda m: Cascade([m, Paid()]), lambda m: Ensemble([Paid(), m])])
def test_a_member_with_too_few_rewards_is_named_and_charged(combined: Callable[[Verifier], Verifier]) -> None:
    with pytest.raises(VerifierError, match="'paid' returned 1 rewards for 2 steps") as caught:
        asyncio.run(combined(Paid(rewards=1)).score(START, STEPS))
    assert ("paid", 1) in workers(spent(caught.value))


def test_a_failed_scoring_is_not_remembered() -> None:
    member = Paid(then="fails")
    cached = Cached(member)
    with pytest.raises(VerifierError):
        asyncio.run(cached.score(START, STEPS))
    member.then = ""
    assert asyncio.run(cached.score(START, STEPS)).rewards == (0.5, 0.5)


def failing_verifiers() -> list[tuple[Verifier, int]]:
    """Verifiers that fail at every scoring, and the tokens of one scoring."""
    writer, verdicts = Writer(fails=lambda _: True), Writer(fails=verdict)
    pair: list[Paid] = [Paid(), Paid(then="fails")]
    for model in (writer, verdicts, *pair):
        model.flops_per_token, model.price = 2.0, Price(1e6, 1e6)
    return [
        (WordJudge(writer, DIGIT), 3),
        (CriticJudge(verdicts, CRITICS["thinkprm"]), 9 + 3),
        (Ensemble(pair), 2),
        (Cached(Cascade(pair)), 2),
    ]


@pytest.mark.parametrize("which", range(4))
def test_failed_scorings_are_on_the_ledger_and_under_the_limits(which: int) -> None:
    verifier, computed = failing_verifiers()[which]
    decoder = RewardGuidedDecoder(
        drafter=ScriptedDrafter(["a b\n\n"], flops_per_token=0.0),
        verifier=verifier,
        target=ScriptedTarget(["c d\n\n"], flops_per_token=0.0),
        settings=Settings(limits=Limits(max_repeats=None, max_flops=3 * 2.0 * computed)),
    )
    result = decoder.run("q")
    assert result.finish_reason == "max_flops"
    assert [degradation.kind for degradation in result.degradations] == ["verifier_error"] * 3
    account = result.ledger.verifier
    assert (account.calls, account.computed, account.flops) == (3, 3 * computed, 3 * 2.0 * computed)


def test_a_cache_holds_as_many_rewards_as_it_says() -> None:
    member = Paid()
    cached = Cached(member, size=2)
    for text in ("a", "b"):
        asyncio.run(cached.score(START, [Step(text, "delimiter")]))
    assert asyncio.run(cached.score(START, [Step("a", "delimiter"), Step("b", "delimiter")])).usage == Usage()
    asyncio.run(cached.score(START, [Step("c", "delimiter")]))
    assert asyncio.run(cached.score(START, [Step("a", "delimiter")])).usage.computed == 1
