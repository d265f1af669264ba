"""The baselines on scripted models: the choices of each, and complete ledgers."""

import random
from collections.abc import Iterator, Sequence

import pytest

from rsd_core import (
    Backtracking,
    BestOfN,
    ConfigurationError,
    Decoder,
    DrafterError,
    Generation,
    Likelihoods,
    Limits,
    MajorityVote,
    Path,
    RoleWarning,
    Settings,
    SpecReason,
    SpeculativeDecoding,
    Step,
    StepBeam,
    StepRequest,
    Target,
    TargetChoice,
    TargetJudge,
    TiltedDecoder,
    UnrecoverableError,
    Usage,
    as_prompt,
)
from rsd_core.blocking import wait_for
from rsd_core.model import usage_of
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier

SAMPLED = Settings(temperature=1)


def numbers(path: Path, rng: random.Random) -> str:
    """Two steps with a number each; the second one is the answer."""
    number = rng.randrange(100)
    return f"{number}\n\n" if path.depth == 0 else f"{number} \\boxed{{{number % 3}}}"


def value(path: Path, step: Step) -> float:
    return int(step.text.split()[0]) / 100


def all_tokens(decoder: Decoder, prompt: str = "question") -> tuple[int, int, int]:
    result = decoder.run(prompt)
    return result.ledger.drafter.generated, result.ledger.drafter.discarded, sum(step.size for step in result.steps)


def test_the_majority_wins_and_every_sample_is_charged() -> None:
    made = MajorityVote(drafter=ScriptedDrafter(numbers), n=9, settings=SAMPLED)
    generated, discarded, kept = all_tokens(made)
    assert (generated, discarded + kept) == (9 * 4, 9 * 4)
    again, other = made.run("question"), made.run("question", seed=1)
    assert again.ledger.drafter.calls == 18
    assert again.text == made.run("question").text != other.text


@pytest.mark.parametrize("answers", [["1", "2", "2", "3"], ["4", "4", "5", "5"], ["7"]])
def test_votes_are_counted(answers: list[str]) -> None:
    left = iter(answers)
    made = MajorityVote(
        drafter=ScriptedDrafter(lambda path, rng: f"\\boxed{{{next(left)}}}"), n=len(answers), settings=SAMPLED
    )
    best = max(answers, key=lambda answer: (answers.count(answer), -answers.index(answer)))
    assert made.run("question").answer == best


def test_answers_without_a_box_do_not_vote() -> None:
    left = iter(["none", "none", "\\boxed{5}"])
    made = MajorityVote(drafter=ScriptedDrafter(lambda path, rng: next(left)), n=3, settings=SAMPLED)
    assert made.run("question").answer == "5"


@pytest.mark.parametrize(
    ("aggregate", "best"), [("last", "20 90"), ("min", "50 60"), ("mean", "95 40"), ("product", "95 40")]
)
def test_best_of_n_by_outcome_and_by_process(aggregate: str, best: str) -> None:
    solutions = iter([("50", "60"), ("95", "40"), ("20", "90")])
    second: dict[str, str] = {}

    def write(path: Path, rng: random.Random) -> str:
        if path.depth:
            return second[path.text.strip()]
        first, then = next(solutions)
        second[first] = then
        return f"{first}\n\n"

    made = BestOfN(
        drafter=ScriptedDrafter(write),
        verifier=ScriptedVerifier(value),
        n=3,
        aggregate=aggregate,  # type: ignore[arg-type]
        settings=SAMPLED,
    )
    result = made.run("question")
    assert result.text.split() == best.split()
    assert result.ledger.verifier.calls == (3 if aggregate == "last" else 6)
    assert result.ledger.drafter.discarded == 6  # two solutions of two words and an end
    assert result.ledger.verifier.discarded == (4 if aggregate == "last" else 6)  # only what it had scored


def test_a_failed_sample_is_left_out_and_all_failed_is_an_error() -> None:
    left: Iterator[str | Exception] = iter([RuntimeError("gone"), "\\boxed{1}", "\\boxed{1}"])
    made = MajorityVote(drafter=ScriptedDrafter(lambda path, rng: next(left)), n=3, settings=SAMPLED)
    result = made.run("question")
    assert result.answer == "1"
    assert [item.kind for item in result.degradations] == ["drafter_error"]
    broken = MajorityVote(drafter=ScriptedDrafter([RuntimeError("gone")]), n=3, settings=SAMPLED)
    with pytest.raises(DrafterError, match="gone"):
        broken.run("question")


def test_limits_hold_for_all_samples_together_and_keep_what_was_written() -> None:
    settings = Settings(temperature=1, limits=Limits(max_flops=3.0))
    result = MajorityVote(drafter=ScriptedDrafter(numbers), n=9, settings=settings).run("question")
    assert result.text
    assert result.finish_reason == "max_flops"
    assert result.ledger.drafter.calls < 18


def test_a_beam_of_one_is_greedy_and_a_wider_one_finds_no_less() -> None:
    def run(width: int, expand: int) -> float:
        made = StepBeam(
            drafter=ScriptedDrafter(numbers),
            verifier=ScriptedVerifier(value),
            width=width,
            expand=expand,
            settings=SAMPLED,
        )
        result = made.run("question")
        generated = result.ledger.drafter.generated
        assert generated == result.ledger.drafter.discarded + sum(step.size for step in result.steps)
        assert len(result.steps) == 2
        return result.steps[-1].reward or 0.0

    assert run(1, 8) > 0.7  # the best of eight
    assert run(4, 4) > 0.85  # of sixteen


def test_backtracking_takes_a_step_back_when_nothing_good_follows_it() -> None:
    """After `trap` every step is bad; the way out is the other first step."""

    def write(path: Path, rng: random.Random) -> str:
        if path.depth == 0:
            return "trap\n\n" if not made_calls else "exit\n\n"
        made_calls.append(path.text)
        return f"{path.text.strip()} end"

    made_calls: list[str] = []
    made = Backtracking(
        drafter=ScriptedDrafter(write),
        verifier=ScriptedVerifier(lambda path, step: 0.1 if step.text == "trap end" else 0.9),
        tries=2,
        backtracks=1,
    )
    result = made.run("question")
    assert result.text == "exit\n\nexit end"
    assert made_calls == ["trap\n\n", "trap\n\n", "exit\n\n"]
    ledger = result.ledger.drafter
    assert ledger.generated == ledger.discarded + sum(step.size for step in result.steps)


def test_without_backtracks_left_the_best_draft_is_kept() -> None:
    left = iter(["10", "40", "30"])
    made = Backtracking(
        drafter=ScriptedDrafter(lambda path, rng: next(left)), verifier=ScriptedVerifier(value), tries=3
    )
    assert made.run("question").text == "40"


def test_specreason_asks_the_target_for_a_digit() -> None:
    asked = []

    def target(path: Path, rng: random.Random) -> str:
        asked.append(path.prompt[-1].content)
        if "Score:" not in asked[-1]:
            return "by the target"
        return "I give it a 3." if "bad" in asked[-1] else "8"

    made = SpecReason(drafter=ScriptedDrafter(["good\n\n", "bad\n\n"]), target=ScriptedTarget(target))
    result = made.run("What is it?")
    assert result.text == "good\n\nby the target"
    assert [step.reward for step in result.steps] == [8 / 9, 3 / 9]
    assert "What is it?" in asked[0]
    assert result.ledger.verifier.calls == 2
    with pytest.warns(RoleWarning, match="gave no score in any of its first 8 replies"):
        silent = SpecReason(
            drafter=ScriptedDrafter(["x"] * 9),
            target=ScriptedTarget(
                lambda path, _: "no number" if "Score:" in path.prompt[-1].content else f"step {path.depth}\n\n"
            ),
            settings=Settings(on_verifier_error="raise", delimiter="\n\n", limits=Limits(max_steps=9)),
        ).run("question")
    assert [step.reward for step in silent.steps] == [None] * 9
    account = silent.ledger.verifier
    assert (account.calls, account.failed, account.abstained) == (9, 0, 9)
    assert account.generated > 0
    assert isinstance(made.verifier, TargetJudge)


class ThinkingChat(Target):
    """A chat behind a server that does not say it thinks: a thought of so many tokens, then the answer."""

    name, flops_per_token = "chat", 2.0

    def __init__(self, answer: str, thought: int, *, shown: bool) -> None:
        self.answer, self.thought, self.shown, self.caps = answer, thought, shown, list[int]()

    async def generate(self, path: Path, request: StepRequest) -> Generation:
        self.caps.append(request.max_tokens)
        size = self.thought + 1
        whole = request.max_tokens > size
        thought = "<think>\n" + "8 " * min(self.thought, request.max_tokens) + "\n</think>\n\n" * whole
        text = thought * self.shown + self.answer * whole
        written = size if whole else request.max_tokens
        usage = Usage(computed=written, generated=written)
        return Generation((Step(text, "end" if whole else "length", size=written),), usage)


@pytest.mark.parametrize("shown", [True, False])
def test_a_judge_that_thinks_is_seen_and_has_room_for_its_thought(shown: bool) -> None:
    target = ThinkingChat("Score: 3", 100, shown=shown)
    judge, path = TargetJudge(target), Path(as_prompt("question"))
    first, second = (wait_for(judge.score(path, [Step("So.", "end", size=1)])) for _ in range(2))
    assert first.rewards == second.rewards == (3 / 9,)
    assert first.usage.generated == 8 + 101
    assert second.usage.generated == 101
    assert target.caps[0] == 8
    assert min(target.caps[1:]) > 8000
    choice = TargetChoice(ThinkingChat("1", 100, shown=shown))
    assert wait_for(choice.score(path, [Step("So.", "end", size=1)])).rewards == (1.0,)
    endless = wait_for(TargetJudge(ThinkingChat("Score: 3", 10**6, shown=shown)).score(path, [Step("So.", "end")]))
    assert endless.rewards == (None,)


def test_what_a_judge_thought_in_vain_is_charged() -> None:
    class Gone(ThinkingChat):
        async def generate(self, path: Path, request: StepRequest) -> Generation:
            if self.caps:
                raise ConnectionError("gone")
            return await super().generate(path, request)

    with pytest.raises(ConnectionError) as gone:
        wait_for(TargetJudge(Gone("3", 100, shown=True)).score(Path(as_prompt("q")), [Step("So.", "end")]))
    usage = usage_of(gone.value)
    assert usage is not None
    assert usage.generated == 8


class Likely(ScriptedDrafter, ScriptedTarget):
    """Tells a log-likelihood for each text."""

    def __init__(self, script: Sequence[str], likelihoods: dict[str, float]) -> None:
        super().__init__(script)
        self.likelihoods = likelihoods

    async def log_likelihoods(self, path: Path, steps: Sequence[Step]) -> Likelihoods:
        return Likelihoods(tuple(self.likelihoods[step.text] for step in steps), Usage(computed=1))


@pytest.mark.parametrize(("target_likes", "text"), [(0.0, "draft"), (-20.0, "target")])
def test_gsi_tilts_the_reward_by_the_ratio_of_likelihoods(target_likes: float, text: str) -> None:
    made = TiltedDecoder(
        drafter=Likely(["draft"], {"draft": -1.0}),
        verifier=ScriptedVerifier([0.9]),
        target=Likely(["target"], {"draft": -1.0 + target_likes}),
        threshold=0.5,
    )
    result = made.run("question")
    assert result.text == text
    assert result.ledger.target.computed > 0  # it was asked for likelihoods in any case


@pytest.mark.parametrize(("rule", "text"), [("accept", "draft"), ("target", "target")])
def test_gsi_without_its_verifier_does_what_the_settings_say(rule: str, text: str) -> None:
    made = TiltedDecoder(
        drafter=Likely(["draft"], {"draft": -1.0}),
        verifier=ScriptedVerifier([RuntimeError("gone")]),
        target=Likely(["target"], {"draft": -1.0}),
        settings=Settings.model_validate({"on_verifier_error": rule}),
    )
    result = made.run("question")
    assert result.text == text
    assert result.ledger.drafter.generated == result.ledger.drafter.discarded + 2 * (text == "draft")


def test_a_draft_that_both_models_are_certain_of_has_a_likelihood() -> None:
    made = TiltedDecoder(
        drafter=Likely(["draft"], {"draft": 0.0}),
        verifier=ScriptedVerifier([0.9]),
        target=Likely(["target"], {"draft": 0.0}),
    )
    assert made.run("question").text == "draft"


def test_candidates_that_a_limit_leaves_no_token_each_are_not_asked_for() -> None:
    target = Likely(["target"], {"draft": -9.0})
    made = TiltedDecoder(
        drafter=Likely(["draft"], {"draft": -1.0}),
        verifier=ScriptedVerifier([0.1]),
        target=target,
        settings=Settings(candidates=4, temperature=1, limits=Limits(max_target_tokens=3)),
    )
    result = made.run("question")
    assert (result.finish_reason, result.text, len(target.calls)) == ("max_target_tokens", "", 0)


@pytest.mark.parametrize(
    ("limits", "calls"),
    [
        (Limits(max_target_calls=0), 0),
        (Limits(max_target_calls=1), 1),
        (Limits(max_target_flops=10), 0),  # 2 FLOPs a token: the prompt and three drafts of two words, and one to write
        (Limits(max_target_flops=20), 1),
        (Limits(max_target_flops=100), 2),
    ],
)
def test_likelihoods_are_within_the_limits_on_the_target(limits: Limits, calls: int) -> None:
    class Reads(Likely):
        async def log_likelihoods(self, path: Path, steps: Sequence[Step]) -> Likelihoods:
            read = sum(1 + sum(one.size for one in (*path.steps, step)) for step in steps)
            return Likelihoods((-1.0,) * len(steps), Usage(prefix=read, computed=read))

    made = TiltedDecoder(
        drafter=Reads(["a\n\n", "b"], {}),
        verifier=ScriptedVerifier([0.9]),
        target=Reads(["target"], {}),
        settings=Settings(candidates=3, temperature=1, limits=limits),
    )
    result = made.run("q")
    assert result.text == "a\n\nb"
    assert result.ledger.target.calls == calls
    assert [item.kind for item in result.degradations] == ["target_limit"] * (2 - calls)
    assert (result.ledger.target.flops or 0) <= (limits.max_target_flops or 100)


@pytest.mark.parametrize("role", ["drafter", "target"])
@pytest.mark.parametrize(("limits", "text"), [(Limits(), "target"), (Limits(max_target_calls=1), "draft")])
def test_where_a_likelihood_is_missing_the_target_writes_the_step(role: str, limits: Limits, text: str) -> None:
    drafter, target = Likely(["draft"], {"draft": -1.0}), Likely(["target"], {"draft": -1.0})
    (drafter if role == "drafter" else target).likelihoods = {}  # a KeyError
    made = TiltedDecoder(
        drafter=drafter, verifier=ScriptedVerifier([0.9]), target=target, settings=Settings(limits=limits)
    )
    result = made.run("question")
    assert result.text == text
    assert [item.kind for item in result.degradations] == [f"{role}_error"] + ["target_limit"] * (text == "draft")
    kept = sum(step.size for step in result.steps if step.author == "draft")
    assert result.ledger.drafter.generated == result.ledger.drafter.discarded + kept


def test_votes_keep_the_longest_solution_if_a_fault_ends_them_all() -> None:
    drafter = ScriptedDrafter(["one\n\n", "two\n\n", UnrecoverableError("gone")])
    with pytest.raises(UnrecoverableError) as caught:
        MajorityVote(drafter=drafter, n=3, settings=SAMPLED).run("question")
    assert caught.value.partial is not None
    assert caught.value.partial.text == "one\n\ntwo\n\n"


@pytest.mark.parametrize(("temperature", "drafts"), [(0.0, 1), (1.0, 4)])
def test_beams_of_one_step_each_start_apart(temperature: float, drafts: int) -> None:
    drafter = ScriptedDrafter(numbers)
    made = StepBeam(
        drafter=drafter, verifier=ScriptedVerifier(value), width=4, expand=1, settings=Settings(temperature=temperature)
    )
    generated = made.run("question").ledger.drafter.generated
    assert generated == drafts * (1 + 3)  # a number; a number, a box, and the end


def test_what_a_baseline_needs_is_reported_at_once() -> None:
    drafter, verifier, target = ScriptedDrafter(["x"]), ScriptedVerifier([1.0]), ScriptedTarget(["x"])
    for make, words in (
        (lambda: MajorityVote(drafter=drafter, n=4), "temperature"),
        (lambda: BestOfN(drafter=drafter, verifier=verifier, n=4), "temperature"),
        (lambda: BestOfN(drafter=drafter, verifier=verifier, n=1, aggregate="best"), "last, min"),  # type: ignore[arg-type]
        (lambda: StepBeam(drafter=drafter, verifier=verifier, expand=2), "temperature"),
        (lambda: Backtracking(drafter=drafter, verifier=verifier, delta=2), "delta in"),
        (lambda: TiltedDecoder(drafter=drafter, verifier=verifier, target=target), "log-likelihoods"),
        (lambda: SpeculativeDecoding(drafter=drafter, target=target), "cannot verify proposed tokens"),
        (lambda: SpecReason(drafter=drafter, target=verifier), "cannot be the target"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigurationError, match=words):
            make()
