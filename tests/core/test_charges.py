"""All paid work is on the ledger and counts for limits, whichever role failed."""

import asyncio
import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from rsd_core import (
    BestOfN,
    ConfigurationError,
    Constant,
    Generation,
    Interrupted,
    Ledger,
    Likelihoods,
    Limits,
    MajorityVote,
    Model,
    Path,
    Price,
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
    TargetError,
    TargetOnly,
    TiltedDecoder,
    Usage,
    Verifier,
    VerifierError,
    WeightingPolicy,
    add_usage,
    as_prompt,
)
from rsd_core.lookahead import Lookahead
from rsd_core.queueing import Caller
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier

WARM = Settings(temperature=1.0)


def together(request: StepRequest, target: Target, work: Usage, drafting: Usage) -> Usage:
    """The work of a target and of the drafter that proposed its tokens."""
    assert request.speculation is not None
    assert request.speculation.drafter is not None
    return replace(work + drafting, parts=((target, work), (request.speculation.drafter, drafting)))


class Speculates(ScriptedTarget):
    """Writes the whole answer in one call, as far as it may."""

    def __init__(self) -> None:
        super().__init__([""])
        self.asked: list[StepRequest] = []

    def checked_speculation(self, speculation: Speculation) -> Speculation:
        return speculation

    async def generate(self, path: Path, request: StepRequest) -> Generation:
        assert request.speculation is not None
        self.asked.append(request)
        size = min(request.max_tokens, 50)
        step = Step("w " * size, "length" if size < 50 else "end", size=size)
        read = 1 + sum(one.size for one in path.steps)
        return Generation((step,), together(request, self, Usage(read, read + size, generated=size), Usage(1, 3)))


@pytest.mark.parametrize(
    ("limits", "reason", "tokens"),
    [
        (Limits(max_target_calls=0), "max_target_calls", 0),
        (Limits(max_target_tokens=0), "max_target_tokens", 0),
        (Limits(max_target_tokens=7), "max_target_tokens", 7),
        (Limits(max_target_cost=1e-5), "max_target_cost", 6),  # two, and four when the prompt was counted
        (Limits(max_tokens=9), "max_tokens", 9),
        (Limits(), "stop", 50),
        (Limits(max_tokens=None), "stop", 50),
    ],
)
def test_speculation_keeps_every_limit_on_the_target(limits: Limits, reason: str, tokens: int) -> None:
    target, drafter = Speculates(), ScriptedDrafter(["x"])
    target.price = drafter.price = Price(prompt=1, generated=1)
    result = SpeculativeDecoding(drafter=drafter, target=target, settings=Settings(limits=limits)).run("question")
    assert (result.finish_reason, result.ledger.target.generated) == (reason, tokens)
    assert result.ledger.drafter.computed == 3 * len(target.asked)
    cost = result.ledger.target.cost
    assert cost is not None
    assert cost <= (limits.max_target_cost or 1)


async def test_the_best_of_those_scored_is_kept_when_time_is_up() -> None:
    """Two of four solutions are scored, then the verifier hangs."""

    class Slow(ScriptedVerifier):
        async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
            if len(self.calls) >= 2:
                await asyncio.sleep(30)
            return await super().score(path, steps)

    numbers = iter(range(4))
    made = BestOfN(
        drafter=ScriptedDrafter(lambda path, rng: f"solution {next(numbers)}"),
        verifier=Slow(lambda path, step: {"0": 0.2, "1": 0.6}[step.text[-1]]),
        n=4,
        settings=WARM.updated(max_seconds=0.5),
    )
    result = await made.arun("question")
    assert (result.text, result.finish_reason) == ("solution 1", "max_seconds")
    assert (result.ledger.drafter.generated, result.ledger.drafter.discarded) == (12, 9)
    assert (result.ledger.verifier.calls, result.ledger.verifier.failed) == (4, 2)


@pytest.mark.parametrize("make", [BestOfN, StepBeam])
def test_an_error_of_the_verifier_keeps_an_answer_of_those_paid_for(make: Callable[..., Any]) -> None:
    made = make(
        drafter=ScriptedDrafter(lambda path, rng: "end" if path.depth else "one\n\n"),
        verifier=ScriptedVerifier(lambda path, step: RuntimeError("gone") if path.depth else 0.5),
        settings=WARM.updated(on_verifier_error="raise"),
    )
    with pytest.raises(VerifierError, match="gone") as caught:
        made.run("question")
    partial = caught.value.partial
    assert partial is not None
    assert partial.text.startswith("one\n\n")
    assert partial.finish_reason == "error"
    account = partial.ledger.drafter
    assert account.generated == account.discarded + sum(step.size for step in partial.steps)


def wordy(path: Path, rng: random.Random) -> str:
    return "I cannot tell" if "Score:" in path.prompt[-1].content else f"step {path.depth}\n\n"


def test_a_judge_without_a_digit_is_paid_and_max_cost_sees_it() -> None:
    target = ScriptedTarget(wordy)
    drafter = ScriptedDrafter(["draft\n\n"])
    target.price = drafter.price = Price(prompt=0, generated=1e6)
    made = SpecReason(drafter=drafter, target=target, settings=Settings(limits=Limits(max_cost=13.0, max_steps=9)))
    result = made.run("question")
    verifier = result.ledger.verifier
    # A step: a draft of one token, a reply of four, and the target's of two.
    assert (result.finish_reason, len(result.steps)) == ("max_cost", 2)
    assert (verifier.calls, verifier.failed, verifier.abstained) == (2, 0, 2)
    assert (verifier.generated, verifier.cost) == (8, 8.0)
    assert result.ledger.total.cost == 14.0


class Likely(ScriptedDrafter, ScriptedTarget):
    """Gives every step the same likelihood."""

    async def log_likelihoods(self, path: Path, steps: Sequence[Step]) -> Likelihoods:
        return Likelihoods((-1.0,) * len(steps), Usage(computed=1))


def tilted(verifier: Verifier, **settings: Any) -> TiltedDecoder:
    return TiltedDecoder(
        drafter=Likely(["a draft"]),
        verifier=verifier,
        target=Likely(lambda path, rng: "by the target"),
        settings=Settings(temperature=1.0, candidates=3, **settings),
    )


def test_candidates_of_the_target_that_are_thrown_away_are_discarded() -> None:
    result = tilted(ScriptedVerifier([0.1])).run("question")
    assert result.text == "by the target"
    assert (result.ledger.target.generated, result.ledger.target.discarded) == (12, 8)
    assert (result.ledger.drafter.generated, result.ledger.drafter.discarded) == (9, 9)


def test_candidates_of_the_target_share_what_it_may_write() -> None:
    result = tilted(ScriptedVerifier([0.1]), limits=Limits(max_target_tokens=7, max_steps=1)).run("question")
    assert (result.text, result.ledger.target.generated) == ("by the", 6)


def test_unchosen_candidates_of_the_target_are_discarded() -> None:
    def by_the_drafter_alone(path: Path, step: Step) -> float | Exception:
        return 0.1 if step.text == "a draft" else RuntimeError("gone")

    with pytest.raises(VerifierError) as caught:
        tilted(ScriptedVerifier(by_the_drafter_alone), on_verifier_error="raise").run("question")
    assert caught.value.partial is not None
    ledger = caught.value.partial.ledger
    assert (ledger.target.generated, ledger.target.discarded) == (12, 12)


def test_drafts_that_could_not_be_scored_are_discarded() -> None:
    result = tilted(ScriptedVerifier([RuntimeError("gone")])).run("question")
    assert (result.ledger.drafter.generated, result.ledger.drafter.discarded) == (9, 9)
    assert result.ledger.verifier.discarded == 0


async def test_a_hedge_is_not_restarted_when_a_draft_is_retried() -> None:
    """One call of the target for each of its steps, however many drafts of the step were tried."""
    target = ScriptedTarget(lambda path, rng: f"target {path.depth}\n\n", delay=0.01)
    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter(lambda path, rng: f"draft {rng.random()}\n\n", delay=0.001),
        verifier=ScriptedVerifier([0.1], delay=0.001),
        target=target,
        policy=Retry(n=4),
        settings=Settings(hedge=0.1, limits=Limits(max_steps=6)),
    )
    result = await made.arun("question")
    assert [step.author for step in result.steps] == ["target"] * 6
    assert len(target.calls) == result.ledger.target.calls == 6
    assert result.ledger.target.discarded == 0


class Cut(Verifier):
    """Scores a first step at once, a later one never, and tells what it read until it was cut."""

    flops_per_token = 2.0

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        if path.depth:
            await self.stand_still()
        return Scores((0.9,), Usage(computed=1, scored=1))

    async def score_run(self, path: Path, steps: Sequence[Step]) -> Sequence[Scores]:
        await self.stand_still()
        raise AssertionError

    async def stand_still(self) -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            raise Interrupted(Usage(computed=50, scored=40)) from None


async def test_a_run_that_is_cut_short_is_charged_once() -> None:
    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter(lambda path, rng: f"draft {path.depth}\n\n"),
        verifier=Cut(),
        target=ScriptedTarget(["target"]),
        settings=Settings(lookahead=3, limits=Limits(max_seconds=0.5)),
    )
    result = await made.arun("question")
    verifier = result.ledger.verifier
    assert result.finish_reason == "max_seconds"
    assert verifier.failed >= 1
    assert verifier.computed == 50 * verifier.failed + (verifier.calls - verifier.failed)


def failing(error: Callable[[], BaseException]) -> ScriptedTarget:
    class Fails(ScriptedTarget):
        async def generate(self, path: Path, request: StepRequest) -> Generation:
            raise error()

    return Fails(["x"])


def foreign() -> Exception:
    error = OSError("cut off")
    add_usage(error, Usage(prefix=9, computed=11, generated=2))
    return error


@pytest.mark.parametrize("error", [lambda: RunError("no", usage=Usage(prefix=9, computed=11, generated=2)), foreign])
def test_a_call_that_failed_and_was_paid_is_charged_at_every_try(error: Callable[[], Exception]) -> None:
    with pytest.raises(TargetError) as caught:
        TargetOnly(target=failing(error), settings=Settings(target_retries=2)).run("question")
    partial = caught.value.partial
    assert partial is not None
    account = partial.ledger.target
    assert (account.calls, account.failed, account.computed, account.generated) == (3, 3, 33, 6)


def test_an_error_that_tells_nothing_is_a_call_all_the_same() -> None:
    with pytest.raises(TargetError) as caught:
        TargetOnly(target=failing(lambda: OSError("no")), settings=Settings(target_retries=2)).run("question")
    partial = caught.value.partial
    assert partial is not None
    account = partial.ledger.target
    assert (account.calls, account.failed, account.computed) == (3, 3, 0)


async def test_a_call_that_is_cut_short_is_a_failed_call() -> None:
    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter(["one\n\n"]),
        verifier=ScriptedVerifier([0.9], delay=30),
        target=ScriptedTarget(["x"]),
        settings=Settings(limits=Limits(max_seconds=0.3)),
    )
    result = await made.arun("question")
    assert (result.ledger.verifier.calls, result.ledger.verifier.failed) == (1, 1)
    # The draft was written when time was up: paid, and not in the answer.
    assert (result.text, result.ledger.drafter.generated, result.ledger.drafter.discarded) == ("", 1, 1)
    assert result.ledger.verifier.discarded == 0


def test_failed_calls_are_failed_calls_of_their_role() -> None:
    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter([RuntimeError("no"), "fine\n\n", "fine"]),
        verifier=ScriptedVerifier([0.9, RuntimeError("no"), 0.9]),
        target=ScriptedTarget(["target\n\n"]),
    )
    ledger = made.run("question").ledger
    assert [(a.calls, a.failed) for a in (ledger.drafter, ledger.verifier, ledger.target)] == [(3, 1), (2, 1), (2, 0)]
    assert ledger.total.failed == 2


class Ownlimits(WeightingPolicy):
    """A policy with its own limits."""

    own: Limits = Limits()

    def weight(self, reward: float) -> float:
        return 1.0

    @property
    def limits(self) -> Limits:
        return self.own


@pytest.mark.parametrize(
    ("own", "settings", "steps"),
    [
        (Limits(max_steps=100), Limits(max_steps=None, max_tokens=None), 100),  # equal to the default, and given
        (Limits(max_steps=3), Limits(), 3),
        (Limits(), Limits(max_steps=120, max_tokens=None), 120),  # not given: the default tightens nothing
        (Limits(max_steps=90), Limits(max_steps=5), 5),
        (Limits(max_steps=None), Limits(max_steps=6), 6),
        (Limits(max_tokens=4096), Limits(max_steps=None, max_tokens=8192), 1366),  # of three tokens each
    ],
)
def test_a_policys_own_limits_hold_and_those_it_does_not_give_do_not(own: Limits, settings: Limits, steps: int) -> None:
    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter(lambda path, rng: f"step {path.depth} .\n\n"),
        verifier=ScriptedVerifier([0.9]),
        target=ScriptedTarget(["x"]),
        policy=Ownlimits(own=own),
        settings=Settings(limits=settings),
    )
    assert len(made.run("question").steps) == steps


def test_other_settings_go_through_the_checks_of_the_constructor() -> None:
    drafter, verifier = ScriptedDrafter(["x"]), ScriptedVerifier([0.5])
    likely = Likely(["x"])
    gsi = TiltedDecoder(drafter=likely, verifier=verifier, target=likely, beta=3.0, settings=WARM)
    assert gsi.with_settings(Settings(temperature=0.5, candidates=2)).settings.softmax_beta == 3.0
    assert gsi.settings.softmax_beta == 3.0
    made: list[MajorityVote | StepBeam] = [
        MajorityVote(drafter=drafter, n=3, settings=WARM),
        BestOfN(drafter=drafter, verifier=verifier, n=3, settings=WARM),
        StepBeam(drafter=drafter, verifier=verifier, expand=2, settings=WARM),
    ]
    for decoder in made:
        with pytest.raises(ConfigurationError, match="temperature above 0"):
            decoder.with_settings(Settings(temperature=0))
        assert decoder.with_settings(Settings(temperature=0.4)).settings.temperature == 0.4
        assert decoder.settings.temperature == 1.0


def test_settings_of_another_decoder_change_nothing_of_the_first() -> None:
    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter(["d"]), verifier=ScriptedVerifier([0.9]), target=ScriptedTarget(["t"])
    )
    other = made.with_settings(Settings(seed=5))
    assert (made.settings.seed, other.settings.seed, other.models) == (0, 5, made.models)


def test_a_ledger_of_a_result_is_its_own() -> None:
    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter(["d"]),
        verifier=ScriptedVerifier([0.9]),
        target=ScriptedTarget(["t"]),
        policy=Constant(p=1),
    )
    first = made.run("question")
    before = copy.deepcopy(first.ledger)
    made.run("question")
    assert first.ledger == before
    assert all(isinstance(model, Model) for model in made.models)


async def test_an_early_call_that_never_reached_its_model_costs_nothing() -> None:
    ledger, target = Ledger(), ScriptedTarget(["x"])
    early = Lookahead(ledger, 0, Caller())
    early.hedge(Path(as_prompt("question")), target, StepRequest((1,)))
    await early.aclose()
    assert (ledger.target.calls, target.calls) == (0, [])


async def test_an_early_call_is_claimed_by_the_very_same_request_only() -> None:
    ledger, target, path = Ledger(), ScriptedTarget(["x"]), Path(as_prompt("question"))
    early = Lookahead(ledger, 0, Caller())
    early.hedge(path, target, StepRequest((1,)))
    assert early.claim("target", target, path, StepRequest((2,))) is None
    assert early.claim("target", target, Path(path.prompt), StepRequest((1,))) is None
    claimed = early.claim("target", target, path, StepRequest((1,)))
    assert claimed is not None
    assert (await claimed).steps[0].text == "x"
    await early.aclose()
    assert ledger.target.calls == 0  # the request that claimed it charges it


def test_speculation_that_fails_charges_each_model_with_its_own_work_and_is_tried_without() -> None:
    class Breaks(Speculates):
        async def generate(self, path: Path, request: StepRequest) -> Generation:
            if request.speculation is None:
                return Generation((Step("alone", "end", size=1),), Usage(5, 1, generated=1))
            raise RunError("out of memory", usage=together(request, self, Usage(5, 20), Usage(5, 7)))

    result = SpeculativeDecoding(drafter=ScriptedDrafter(["x"]), target=Breaks()).run("question")
    assert (result.text, [item.kind for item in result.degradations]) == ("alone", ["target_error"])
    ledger = result.ledger
    assert (ledger.target.computed, ledger.drafter.computed) == (21, 7)
    assert (ledger.target.failed, ledger.drafter.failed) == (1, 1)


def test_the_text_of_a_failed_judge_is_not_a_discarded_draft() -> None:
    judge = ScriptedVerifier([VerifierError("no verdict", usage=Usage(prefix=5, computed=12, generated=7))])
    made = RewardGuidedDecoder(drafter=ScriptedDrafter(["draft"]), verifier=judge, target=ScriptedTarget(["target"]))
    account = made.run("question").ledger.verifier
    assert (account.calls, account.failed, account.generated, account.discarded) == (1, 1, 7, 0)
