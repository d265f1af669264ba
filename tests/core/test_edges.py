"""Edge cases in which one more or one less changes the answer."""

import math
import random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rsd_core import (
    Account,
    BestOfN,
    BudgetAware,
    Degraded,
    Drafter,
    DraftOnly,
    Finished,
    FirstSteps,
    Generation,
    Ledger,
    Limits,
    Message,
    Model,
    Path,
    Price,
    Request,
    Retry,
    RewardGuidedDecoder,
    Settings,
    Step,
    StepBeam,
    StepFinished,
    StepRequest,
    Takeover,
    TargetOnly,
    TextStream,
    Usage,
    boxed,
)
from rsd_core.policies.decisions import choose
from rsd_core.policies.online_quantile import Budget, Recent
from rsd_core.randomness import Randomness
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier


def endless(path: Path, rng: random.Random) -> str:
    return f"step {path.depth}\n\n"


class Sized(Drafter):
    """Writes texts with the sizes that they are given."""

    flops_per_token = 2.0

    def __init__(self, *steps: tuple[str, int]) -> None:
        self.steps = steps

    async def generate(self, path: Path, request: StepRequest) -> Generation:
        made = []
        for i in range(len(request.seeds)):
            text, size = self.steps[min(path.depth + i, len(self.steps) - 1)]
            made.append(Step(text, "delimiter" if text.endswith("\n\n") else "end", size=size))
        size = sum(step.size for step in made)
        return Generation(tuple(made), Usage(prefix=1, computed=1 + size, generated=size))


class TestTarget:
    """What the target may still do."""

    def test_a_draft_is_retried_also_when_the_target_is_spent(self) -> None:
        drafter = ScriptedDrafter(endless)
        made = RewardGuidedDecoder(
            drafter=drafter,
            verifier=ScriptedVerifier([0.1]),
            target=ScriptedTarget(endless),
            policy=Retry(n=2),
            settings=Settings(limits=Limits(max_target_calls=0, max_steps=2)),
        )
        result = made.run("question")
        assert [step.author for step in result.steps] == ["draft"] * 2
        assert len(drafter.calls) == 6
        assert [item.kind for item in result.degradations] == ["target_limit"] * 2

    @pytest.mark.parametrize("tokens", [1, 2, 3, 4])
    def test_the_last_token_of_a_limit_is_written(self, tokens: int) -> None:
        made = TargetOnly(
            target=ScriptedTarget(["a b\n\n"]), settings=Settings(limits=Limits(max_target_tokens=tokens))
        )
        result = made.run("question")
        assert (result.finish_reason, result.ledger.target.generated) == ("max_target_tokens", tokens)

    @pytest.mark.parametrize(("cached", "room"), [(None, 60), (1.0, 60), (5.0, 60), (9.0, 12), (10.0, 0)])
    def test_room_for_money_is_at_the_higher_price_of_a_prompt(self, cached: float | None, room: float) -> None:
        target = ScriptedTarget(["x"])
        target.price = Price(prompt=5, generated=1, cached=cached)
        limits = Limits(max_target_cost=120e-6)
        assert limits.target_room(target, Account(), 12) == (room, "max_target_cost")

    def test_spent_amounts_leave_no_room(self) -> None:
        target = ScriptedTarget(["x"])
        target.price = Price(prompt=1, generated=2)
        spent = Account(calls=1, generated=6, flops=40.0, cost=20e-6)
        for limits, room in (
            (Limits(max_target_calls=1), (0, "max_target_calls")),
            (Limits(max_target_calls=2), (math.inf, None)),
            (Limits(max_target_tokens=10), (4, "max_target_tokens")),
            (Limits(max_target_flops=61), (10 - 3, "max_target_flops")),
            (Limits(max_target_cost=30e-6), ((10 - 3) // 2, "max_target_cost")),
            (Limits(max_target_tokens=10, max_target_flops=61), (4, "max_target_tokens")),
        ):
            assert limits.target_room(target, spent, 3) == room, limits

    def test_a_target_that_writes_for_nothing_has_room_while_its_prompt_is_paid_for(self) -> None:
        target = ScriptedTarget(["x"])
        target.price = Price(prompt=1, generated=0)
        limits = Limits(max_target_cost=10e-6)
        assert limits.target_room(target, Account(), 9)[0] == math.inf
        assert limits.target_room(target, Account(), 11)[0] == 0

    def test_the_last_token_of_a_limit_replaces_a_draft(self) -> None:
        made = RewardGuidedDecoder(
            drafter=ScriptedDrafter(endless),
            verifier=ScriptedVerifier([0.1]),
            target=ScriptedTarget(endless),
            settings=Settings(limits=Limits(max_target_tokens=3, max_steps=3)),
        )
        result = made.run("question")
        assert [(step.author, step.size) for step in result.steps] == [("target", 2), ("target", 1), ("draft", 2)]

    def test_a_prompt_nobody_counted_is_taken_for_as_many_tokens_as_bytes(self) -> None:
        """'é' is two bytes: ten tokens of two FLOPs leave room for two."""
        made = TargetOnly(target=ScriptedTarget(["a b c d"]), settings=Settings(limits=Limits(max_target_flops=24)))
        assert made.run("ééééé").steps[0].size == 2

    def test_the_tighter_limit_holds(self) -> None:
        one, other = Limits(max_steps=5, max_seconds=3.0), Limits(max_steps=7, max_cost=1.0, max_seconds=2.0)
        both = one.tightened(other)
        assert (both.max_steps, both.max_seconds, both.max_cost, both.max_tokens) == (5, 2.0, 1.0, 32_768)
        assert one.tightened(None) is one

    def test_which_limits_forbid_waste(self) -> None:
        assert Limits(max_steps=1, max_tokens=1, max_seconds=1).allow_waste(of_target=True)
        assert not Limits(max_flops=1).allow_waste()
        assert not Limits(max_cost=1).allow_waste()
        for name in ("calls", "tokens", "flops", "cost"):
            limits = Limits.model_validate({f"max_target_{name}": 1})
            assert limits.allow_waste()
            assert not limits.allow_waste(of_target=True)


@pytest.mark.parametrize(("temperature", "retried"), [(0.2, 0.7), (1.0, 1.0)])
def test_a_retried_draft_is_another_one_and_at_least_as_warm(temperature: float, retried: float) -> None:
    asked: list[StepRequest] = []

    class Noting(ScriptedDrafter):
        async def generate(self, path: Path, request: StepRequest) -> Generation:
            asked.append(request)
            return await super().generate(path, request)

    made = RewardGuidedDecoder(
        drafter=Noting(["draft"]),
        verifier=ScriptedVerifier([0.1]),
        target=ScriptedTarget(["target"]),
        policy=Retry(n=2),
        settings=Settings(candidates=2, temperature=temperature),
    )
    made.run("question")
    seeds = [seed for request in asked for seed in request.seeds]
    assert len(seeds) == len(set(seeds)) == 6
    assert [request.sampling.temperature for request in asked] == [temperature, retried, retried]


def test_a_draft_that_a_target_failed_over_is_not_shown_to_it_again() -> None:
    shown: list[str | None] = []

    class Fails(ScriptedTarget):
        async def generate(self, path: Path, request: StepRequest) -> Generation:
            shown.append(None if request.guess is None else request.guess.text)
            if len(shown) == 1:
                raise RuntimeError("cannot read this")
            return await super().generate(path, request)

    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter(["draft"]), verifier=ScriptedVerifier([0.1]), target=Fails(["target"])
    )
    assert made.run("question").text == "target"
    assert shown == ["draft", None]


@pytest.mark.parametrize(("hedge", "begun"), [(0.49, 2), (0.5, 1)])
def test_a_step_that_was_never_drafted_tells_nothing_of_drafts(hedge: float, begun: int) -> None:
    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter(["", "draft"], delay=0.01),
        verifier=ScriptedVerifier([0.9]),
        target=ScriptedTarget(["first\n\n", "target"]),
        policy=FirstSteps(n=1),
        settings=Settings(hedge=hedge),
    )
    result = made.run("question")
    assert (result.text, result.ledger.target.calls) == ("first\n\ndraft", begun)


@pytest.mark.parametrize(("hedge", "begun"), [(0.49, 1), (0.5, 0)])
def test_a_hedge_begins_above_its_threshold(hedge: float, begun: int) -> None:
    """Before anything is known, a draft is as likely to be rejected as not."""
    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter(["draft"], delay=0.01),
        verifier=ScriptedVerifier([0.9]),
        target=ScriptedTarget(["target"]),
        settings=Settings(hedge=hedge),
    )
    result = made.run("question")
    assert (result.text, result.ledger.target.calls) == ("draft", begun)


class TestStopStrings:
    """A stop string across the edge of steps."""

    @pytest.mark.parametrize("stop", ["c\n\nd", "b c\n\nde", "\n\nd"])
    def test_one_that_the_next_step_completes_is_seen(self, stop: str) -> None:
        made = TargetOnly(target=ScriptedTarget(["a b c\n\n", "def"]))
        result = made.run("question", stop=[stop])
        assert (result.text, result.finish_reason) == ("a b c\n\ndef".partition(stop)[0], "stop")

    def test_one_across_three_steps_is_seen(self) -> None:
        made = TargetOnly(target=ScriptedTarget(["x a\n\n", "b\n\n", "c end"]))
        result = made.run("question", stop=["a\n\nb\n\nc"])
        assert (result.text, [step.text for step in result.steps]) == ("x ", ["x ", "", ""])

    @pytest.mark.parametrize(("stop", "held"), [("\n\nb", "\n\n"), ("a\n\nb", "a\n\n"), ("\n\n\n", "\n\n"), ("b", "")])
    def test_what_may_begin_one_waits_in_a_stream(self, stop: str, held: str) -> None:
        stream = TextStream([stop])
        given = [
            stream.feed(event)
            for event in TargetOnly(target=ScriptedTarget(["x a\n\n", "c"])).stream("question")
            if isinstance(event, StepFinished | Finished)
        ]
        whole = "x a\n\n"
        assert given[0] == whole[: len(whole) - len(held)]
        assert "".join(given) == "x a\n\nc"

    @pytest.mark.parametrize("stop", [["b", "a"], ["a", "b"], ["a b", "b"]])
    def test_the_first_one_in_the_text_ends_it(self, stop: list[str]) -> None:
        assert TargetOnly(target=ScriptedTarget(["x a b a"])).run("question", stop=stop).text == "x "

    def test_a_single_mark_needs_nothing_of_the_step_before(self) -> None:
        made = TargetOnly(target=ScriptedTarget(["a\n\n", "b!c"]))
        assert made.run("question", stop=["!"]).text == "a\n\nb"


class TestBudget:
    """The controller of a rate."""

    def test_what_was_left_unspent_is_not_hoarded(self) -> None:
        budget = Budget(0.5, 5, 100)
        for _ in range(200):
            assert budget.decide(0.9, 0.5, surely=True)
        rejected = sum(not budget.decide(0.9, 0.5) for _ in range(100))
        assert rejected <= 50 + 5 + 1

    def test_what_was_overspent_is_made_good_in_full(self) -> None:
        budget = Budget(0.5, 5, 100)
        for _ in range(20):
            budget.force()
        assert [budget.decide(0.1, 0.0) for _ in range(15)] == [True] * 15

    def test_the_oldest_value_is_forgotten(self) -> None:
        recent = Recent(3, [0.9, 0.1, 0.2, 0.3])
        assert recent.weight(0.5, 0.0) == 1.0
        recent.add(0.4)  # now 0.2, 0.3, 0.4
        assert recent.weight(0.15, 0.25) == 0.0
        assert recent.weight(0.25, 0.25) == 1.0


class Fixed:
    """A request with a random number of one's own."""

    def __init__(self, number: float, beta: float | None, on_abstain: str = "target") -> None:
        self.settings = SimpleNamespace(softmax_beta=beta, on_abstain=on_abstain)
        self.number = number

    def uniform(self, purpose: str) -> float:
        assert purpose == "choice"
        return self.number


@pytest.mark.parametrize(
    ("rewards", "number", "beta", "chosen"),
    [
        ((0.2, 0.9, 0.9), 0.5, None, 1),  # a tie goes to the first
        ((None, 0.0), 0.5, None, 1),
        ((None, None), 0.5, 20.0, 0),
        ((None, 0.5), 0.0, 20.0, 1),  # no mass, no choice, however small the number
        ((0.5, None), 1 - 2**-53, 20.0, 0),
        ((0.5, 0.5), 0.0, 20.0, 0),
        ((0.5, 0.5), 0.5, 20.0, 1),
        ((0.5, 0.5), 1 - 2**-53, 20.0, 1),
        ((0.5, 0.5, 0.5), 1 - 2**-53, 0.0, 2),
        ((0.0, 1.0), 0.1, 1.0, 0),  # e to one
        ((0.0, 1.0), 0.3, 1.0, 1),
        ((0.7,), 0.9, 20.0, 0),
        ((), 0.9, 20.0, 0),
    ],
)
def test_the_choice_among_candidates(
    rewards: tuple[float | None, ...], number: float, beta: float | None, chosen: int
) -> None:
    assert choose(cast("Request", Fixed(number, beta)), rewards) == chosen


def test_an_unknown_candidate_is_a_middling_one_where_such_are_kept() -> None:
    for rewards, chosen in (((0.4, None), 1), ((0.6, None), 0), ((None, 0.5), 0)):
        assert choose(cast("Request", Fixed(0.5, None, "accept")), rewards) == chosen


def test_a_blank_draft_was_never_scored() -> None:
    made = RewardGuidedDecoder(
        drafter=Sized((" \n\n", 3), ("more", 2)), verifier=ScriptedVerifier([0.9]), target=ScriptedTarget(["one\n\n"])
    )
    ledger = made.run("question").ledger
    assert (ledger.drafter.discarded, ledger.verifier.discarded) == (3, 0)
    candidates = RewardGuidedDecoder(
        drafter=Sized(("worse\n\n", 5), (" \n\n", 3), ("good", 2)),
        verifier=ScriptedVerifier(lambda path, step: 0.9 if step.text == "good" else 0.2),
        target=ScriptedTarget(["x"]),
        settings=Settings(candidates=3, temperature=1),
    )
    ledger = candidates.run("question").ledger
    assert (ledger.drafter.discarded, ledger.verifier.discarded) == (8, 5)


class TestLedger:
    """Sums to the token and to the cent."""

    def charged(self, usage: Usage, price: Price | None, flops: float | None = 2.0) -> Account:
        model = ScriptedTarget(["x"], flops_per_token=flops)
        model.price = price
        account = Account()
        account.charge(model, usage)
        return account

    def test_a_call_is_charged_by_kind_of_token(self) -> None:
        usage = Usage(prefix=100, computed=70, reused=40, generated=10, scored=3, seconds=0.5)
        account = self.charged(usage, Price(prompt=1.0, generated=10.0, cached=0.25))
        assert account.cost == pytest.approx((60 * 1.0 + 40 * 0.25 + 10 * 10.0) / 1e6)
        assert (account.calls, account.failed, account.flops, account.flops_paper) == (1, 0, 140.0, 26.0)
        assert (account.computed, account.reused, account.generated, account.scored) == (70, 40, 10, 3)
        assert (account.read, account.seconds) == (100, 0.5)
        assert self.charged(usage, Price(prompt=1.0, generated=10.0)).cost == pytest.approx(200 / 1e6)
        assert self.charged(usage, Price(prompt=1.0, generated=10.0, cached=0.0)).cost == pytest.approx(160 / 1e6)
        assert self.charged(usage, None).cost is None

    def test_more_reused_than_read_gives_no_money_back(self) -> None:
        usage = Usage(prefix=5, reused=40, generated=1)
        assert self.charged(usage, Price(prompt=1.0, generated=0.0, cached=0.5)).cost == pytest.approx(20 / 1e6)

    def test_what_is_unknown_once_stays_unknown(self) -> None:
        known, unknown = ScriptedTarget(["x"]), ScriptedTarget(["x"], flops_per_token=None)
        account = Account()
        for model in (known, unknown, known):
            account.charge(cast("Model", model), Usage(computed=1))
        assert (account.flops, account.flops_paper, account.cost, account.calls) == (None, None, None, 3)

    def test_work_of_several_models_is_charged_at_the_rate_of_each(self) -> None:
        one, other = ScriptedTarget(["x"], flops_per_token=2.0), ScriptedTarget(["x"], flops_per_token=30.0)
        one.price, other.price = Price(prompt=1, generated=1), Price(prompt=100, generated=100)
        parts = ((one, Usage(prefix=5, computed=5)), (other, Usage(prefix=7, computed=7)))
        account = Account()
        account.charge(one, Usage(prefix=12, computed=12, parts=parts))
        assert (account.calls, account.computed, account.flops) == (1, 12, 220.0)
        assert account.cost == pytest.approx(705 / 1e6)

    def test_the_total_is_that_of_all_roles(self) -> None:
        ledger = Ledger(Account(calls=1, failed=1, flops=2.0), Account(calls=2, flops=3.0), Account(calls=4, flops=5.0))
        assert (ledger.total.calls, ledger.total.failed, ledger.total.flops, ledger.sum_of("flops")) == (
            7,
            1,
            10.0,
            10.0,
        )
        ledger.verifier.flops = None
        assert ledger.total.flops is ledger.sum_of("flops") is None


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(max_flops=12), "max_flops"),  # each step computes two tokens and reads one or more
        (Limits(max_steps=2, max_tokens=4), "max_steps"),
        (Limits(max_tokens=4), "max_tokens"),
    ],
)
def test_a_limit_that_is_met_exactly_is_reached(limits: Limits, reason: str) -> None:
    made = DraftOnly(drafter=Sized(*[(f"{i} x\n\n", 2) for i in range(9)]), settings=Settings(limits=limits))
    result = made.run("question")
    assert (result.finish_reason, len(result.steps)) == (reason, 2)


def test_a_step_is_cut_where_the_answer_ends() -> None:
    made = DraftOnly(drafter=ScriptedDrafter(["a b c\n\n"]), settings=Settings(limits=Limits(max_tokens=5)))
    assert [step.size for step in made.run("question").steps] == [3, 2]


@pytest.mark.parametrize("repeats", [2, 3])
def test_repetition_is_of_the_same_words_in_a_row(repeats: int) -> None:
    settings = Settings(limits=Limits(max_repeats=repeats, max_steps=9))
    same = DraftOnly(drafter=ScriptedDrafter(["a\n\n", "b\n\n", " b\n\n\n\n", "b\n\n", "b\n\n"]), settings=settings)
    result = same.run("question")
    assert (result.finish_reason, len(result.steps)) == ("repetition", 1 + repeats)
    other = DraftOnly(drafter=ScriptedDrafter(["a\n\n", "b\n\n"] * 5), settings=settings)
    assert other.run("question").finish_reason == "max_steps"


@pytest.mark.parametrize(
    ("ending", "size", "reason"), [("end", 1, "stop"), ("length", 0, "context"), ("length", 1, "max_tokens")]
)
def test_a_step_without_text_says_why_nothing_follows(ending: Any, size: int, reason: str) -> None:
    class Empty(Sized):
        async def generate(self, path: Path, request: StepRequest) -> Generation:
            if not path.depth:
                return await super().generate(path, request)
            return Generation((Step("", ending, size=size),), Usage(generated=size))

    result = DraftOnly(drafter=Empty(("one\n\n", 1))).run("question")
    assert (result.text, result.finish_reason, len(result.steps)) == ("one\n\n", reason, 1)


def test_a_batch_counts_its_repeats_on_from_the_one_given() -> None:
    made = TargetOnly(target=ScriptedTarget(lambda path, rng: f"{rng.random()}"))
    batch = made.run_many(["question", "another", "question"], repeat=3)
    alone = [made.run("question", repeat=3), made.run("another", repeat=3), made.run("question", repeat=4)]
    assert [result.text for result in batch] == [result.text for result in alone]


class TestRandomness:
    """Numbers that depend on the request alone."""

    PROMPT = (Message("user", "question"),)

    def test_every_part_of_the_key_matters(self) -> None:
        base = Randomness(1, self.PROMPT)
        others = [
            Randomness(2, self.PROMPT),
            Randomness(1, self.PROMPT, repeat=1),
            Randomness(1, (Message("user", "another"),)),
            Randomness(1, (Message("system", "question"),)),
            base.branch(0),
            base.branch(1),
            base.branch(0).branch(1),
        ]
        numbers = [base.seed("coin", 0, 0), *(other.seed("coin", 0, 0) for other in others)]
        numbers += [base.seed("choice", 0, 0), base.seed("coin", 1, 0), base.seed("coin", 0, 1)]
        assert len(set(numbers)) == len(numbers)
        assert base.seed("coin", 0, 0) == Randomness(1, self.PROMPT).seed("coin", 0, 0) == numbers[0]

    def test_numbers_fill_their_ranges(self) -> None:
        base = Randomness(0, self.PROMPT)
        seeds = [base.seed("coin", i, 0) for i in range(2000)]
        assert 2**62 < max(seeds) < 2**63
        assert min(seeds) >= 0
        numbers = [base.uniform("coin", i, 0) for i in range(2000)]
        assert 0 <= min(numbers) < 0.01
        assert 0.99 < max(numbers) < 1
        assert sum(numbers) / 2000 == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{ \frac{1}{2} }", r"\frac{1}{2}"),
        (r"\boxed{1} then \boxed{2", "1"),  # the last one that is complete
        (r"\boxed{}", ""),
        (r"\boxed{\boxed{3}}", "3"),
        ("boxed{1}", None),
        (r"\boxed{1", None),
        (r"\boxed{a}b}", "a"),
    ],
)
def test_the_answer_in_a_box(text: str, answer: str | None) -> None:
    assert boxed(text) == answer


def test_a_rule_takes_over_for_a_number_of_steps() -> None:
    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter(lambda path, rng: "Wait, no\n\n" if path.depth == 1 else f"draft {path.depth}\n\n"),
        verifier=ScriptedVerifier([0.9]),
        target=ScriptedTarget(lambda path, rng: f"target {path.depth}\n\n"),
        policy=Takeover(steps=3),
        settings=Settings(limits=Limits(max_steps=6)),
    )
    authors = [step.author[0] for step in made.run("question").steps]
    assert "".join(authors) == "dtttdd"


def test_a_budget_pays_for_what_a_rule_takes_over() -> None:
    """Every second draft has a cue: the budget of one half is used up by these."""
    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter(lambda path, rng: f"{'wait' if path.depth % 2 else 'go on'} {path.depth}\n\n"),
        verifier=ScriptedVerifier([0.5]),
        target=ScriptedTarget(endless),
        policy=Takeover(then=BudgetAware(target_rate=0.5, horizon=5)),
        settings=Settings(limits=Limits(max_steps=200)),
    )
    assert made.run("question").target_share == pytest.approx(0.5, abs=0.06)


def test_a_handled_fault_is_an_event_before_its_step() -> None:
    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter([OSError("no"), "b"]),
        verifier=ScriptedVerifier([0.9]),
        target=ScriptedTarget(["a\n\n"]),
    )
    kinds = [type(event) for event in made.stream("question") if isinstance(event, Degraded | StepFinished)]
    assert kinds[0] is Degraded
    assert len(kinds) == 3


def test_searches_keep_their_best() -> None:
    def reward(path: Path, step: Step) -> float:
        return int(step.text) / 100

    for make in (
        lambda script: BestOfN(
            drafter=ScriptedDrafter(script), verifier=ScriptedVerifier(reward), n=4, settings=Settings(temperature=1)
        ),
        lambda script: StepBeam(
            drafter=ScriptedDrafter(script),
            verifier=ScriptedVerifier(reward),
            width=1,
            expand=4,
            settings=Settings(temperature=1),
        ),
    ):
        numbers = iter(["20", "90", "10", "90"])
        assert make(lambda path, rng, numbers=numbers: next(numbers)).run("question").text == "90"
