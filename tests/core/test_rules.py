"""Rules in front of a policy, and what a policy may see: routing, takeover, retries, candidates."""

import asyncio
import random
from collections import Counter

import pytest
from scipy import stats

from rsd_core import (
    BinaryStep,
    BudgetAware,
    ConfigurationError,
    Constant,
    Degraded,
    FirstSteps,
    Limits,
    Path,
    Retry,
    RewardGuidedDecoder,
    Settings,
    Step,
    StepRejected,
    StepReplaced,
    Takeover,
    WeightingPolicy,
    parse_policy,
)
from rsd_core.policies import Decision, RequestView
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier

DRAFTS = ["a\n\n", "wait, b\n\n", "c\n\n", "d\n\n", "e"]
TARGETS = ["A\n\n", "B\n\n", "C\n\n", "D\n\n", "E"]


def authors(policy: WeightingPolicy, rewards: list[float], **settings: object) -> str:
    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter(DRAFTS),
        verifier=ScriptedVerifier(rewards),
        target=ScriptedTarget(TARGETS),
        policy=policy,
        settings=Settings.model_validate(settings),
    )
    return "".join(step.author[0] for step in made.run("question").steps)


@pytest.mark.parametrize(
    ("policy", "rewards", "expected"),
    [
        (FirstSteps(n=2), [0.9] * 5, "ttddd"),
        (FirstSteps(n=2), [0.9, 0.9, 0.1, 0.9, 0.9], "tttdd"),
        (FirstSteps(n=0), [0.9] * 5, "ddddd"),
        (Takeover(), [0.9] * 5, "dtddd"),
        (Takeover(steps=3), [0.9] * 5, "dtttd"),
        (Takeover(cues=("D",)), [0.9] * 5, "dddtd"),
        (FirstSteps(n=1, then=Takeover(steps=2, then=BinaryStep(delta=0.5))), [0.9, 0.9, 0.9, 0.9, 0.4], "tttdt"),
    ],
)
def test_who_writes_which_step(policy: WeightingPolicy, rewards: list[float], expected: str) -> None:
    assert authors(policy, rewards) == expected


def test_a_routed_step_is_neither_drafted_nor_scored() -> None:
    drafter, verifier = ScriptedDrafter(DRAFTS), ScriptedVerifier([0.9])
    made = RewardGuidedDecoder(
        drafter=drafter, verifier=verifier, target=ScriptedTarget(TARGETS), policy=FirstSteps(n=3)
    )
    result = made.run("question")
    assert (len(drafter.calls), len(verifier.calls)) == (2, 2)
    assert result.steps[0].reward is None
    assert result.acceptance_rate == 1


def test_routing_respects_a_hard_limit() -> None:
    assert authors(FirstSteps(n=3), [0.9] * 5, limits=Limits(max_target_calls=1)) == "tdddd"


def test_a_budget_pays_for_routed_steps_too() -> None:
    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter(lambda path, rng: f"{rng.random()}\n\n"),
        verifier=ScriptedVerifier(lambda path, step: random.Random(step.text).random()),
        target=ScriptedTarget(lambda path, rng: f"{rng.random()}\n\n"),
        policy=FirstSteps(n=1, then=BudgetAware(target_rate=0.3)),
        settings=Settings(temperature=1, limits=Limits(max_steps=10)),
    )
    results = made.run_many([f"question {i}" for i in range(200)])
    assert sum(result.target_share for result in results) / 200 == pytest.approx(0.3, abs=0.06)


def retrying(n: int, rewards: dict[int, float]) -> RewardGuidedDecoder:
    """Each new draft of a step is numbered, and has the reward of its number."""
    seen = Counter[int]()

    def draft(path: Path, rng: random.Random) -> str:
        seen[path.depth] += 1
        return f"draft {seen[path.depth]}"

    return RewardGuidedDecoder(
        drafter=ScriptedDrafter(draft),
        verifier=ScriptedVerifier(lambda path, step: rewards[int(step.text.split()[1])]),
        target=ScriptedTarget(["target"]),
        policy=Retry(n=n, then=BinaryStep(delta=0.5)),
    )


def test_a_step_is_drafted_again_before_the_target_is_asked() -> None:
    result = retrying(2, {1: 0.1, 2: 0.2, 3: 0.8}).run("question")
    assert result.text == "draft 3"
    assert (result.ledger.drafter.calls, result.ledger.target.calls) == (3, 0)
    assert result.ledger.drafter.discarded == 2 * 3
    events = list(retrying(2, {1: 0.1, 2: 0.2, 3: 0.3}).stream("question"))
    assert sum(isinstance(event, StepRejected) for event in events) == 3
    assert sum(isinstance(event, StepReplaced) for event in events) == 1


def test_retries_are_sampled_where_the_decoder_is_greedy() -> None:
    temperatures = []

    class Watched(ScriptedDrafter):
        async def generate(self, path, request):  # type: ignore[no-untyped-def]
            temperatures.append((request.sampling.temperature, request.seeds))
            return await super().generate(path, request)

    made = RewardGuidedDecoder(
        drafter=Watched(["draft"]),
        verifier=ScriptedVerifier([0.1]),
        target=ScriptedTarget(["target"]),
        policy=Retry(n=2, then=BinaryStep()),
    )
    made.run("question")
    assert [temperature for temperature, _ in temperatures] == [0, 0.7, 0.7]
    assert len({seeds for _, seeds in temperatures}) == 3


def test_the_law_of_a_candidate_drawn_by_softmax() -> None:
    rewards = {"a": 0.2, "b": 0.5, "c": 0.6}
    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter(lambda path, rng: "a"),
        verifier=ScriptedVerifier(lambda path, step: rewards[step.text]),
        target=ScriptedTarget(["t"]),
        policy=Constant(p=1),
        settings=Settings(temperature=1, candidates=3, softmax_beta=4.0),
    )

    class Three(ScriptedDrafter):
        async def generate(self, path, request):  # type: ignore[no-untyped-def]
            made = await super().generate(path, request)
            return type(made)(tuple(Step(text, "end", size=1) for text in rewards), made.usage)

    made.drafter = Three(["a"])

    async def sample() -> Counter[str]:
        return Counter([(await made.arun("question", repeat=i)).text for i in range(5000)])

    seen = asyncio.run(sample())
    mass = {text: 2.718281828459045 ** (4 * reward) for text, reward in rewards.items()}
    expected = [5000 * m / sum(mass.values()) for m in mass.values()]
    assert stats.chisquare([seen[text] for text in rewards], expected).pvalue > 1e-3


def test_a_custom_policy_sees_the_whole_request() -> None:
    seen = []

    class Patient(WeightingPolicy):
        """Calls the target once the drafter has written three steps in a row."""

        def weight(self, reward: float) -> float:
            return 1.0

        def decide(self, step: Step, reward: float, request: RequestView) -> Decision:
            seen.append((request.index, request.path.text, request.ledger.drafter.calls, step.text))
            latest = [record.author for record in request.records[-3:]]
            return "target" if latest == ["draft"] * 3 else "accept"

    assert authors(Patient(), [0.9] * 5) == "dddtd"
    assert seen[1] == (1, "a\n\n", 2, "wait, b\n\n")


def test_a_weight_that_is_not_a_probability_fails_the_request() -> None:
    class Wrong(WeightingPolicy):
        def weight(self, reward: float) -> float:
            return 1.5

    with pytest.raises(Exception, match=r"1\.5 for the reward 0\.9"):
        authors(Wrong(), [0.9])


@pytest.mark.parametrize(
    "text", ["takeover/always_draft", "first_steps:1/takeover/first_token", "takeover/retry/always_draft"]
)
def test_a_takeover_that_would_see_no_draft_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"takeover searches scored drafts, and .* has none"):
        parse_policy(text)


def test_a_kept_draft_is_reported_when_the_target_is_spent() -> None:
    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter(DRAFTS),
        verifier=ScriptedVerifier([0.1]),
        target=ScriptedTarget(TARGETS),
        policy=FirstSteps(n=1),
        settings=Settings(limits=Limits(max_target_tokens=0)),
    )
    events = list(made.stream("question"))
    told = [event.index for event in events if isinstance(event, Degraded)]
    assert told == list(range(len(DRAFTS)))  # once a step, although the first was due to the target twice
