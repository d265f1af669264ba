"""A verifier that abstains gives no reward; the settings decide about the step."""

import warnings
from collections.abc import Sequence
from typing import Any

import pytest

from rsd_core import (
    Backtracking,
    BestOfN,
    BinaryStep,
    Likelihoods,
    Path,
    RequestView,
    RewardGuidedDecoder,
    RoleWarning,
    Settings,
    Step,
    StepBeam,
    TiltedDecoder,
    Usage,
    VerifierError,
    as_prompt,
)
from rsd_core.policies.decisions import choose
from rsd_core.request import Request
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier


def decoder(rewards: list[float | Exception | None], **settings: object) -> RewardGuidedDecoder:
    return RewardGuidedDecoder(
        drafter=ScriptedDrafter(["draft one\n\n", "draft two"]),
        verifier=ScriptedVerifier(rewards),
        target=ScriptedTarget(["target one\n\n", "target two"]),
        policy=BinaryStep(delta=0.5),
        settings=Settings.model_validate(settings),
    )


def test_the_target_writes_a_step_about_which_nothing_is_known() -> None:
    result = decoder([None, 0.9]).run("q")
    assert [(step.author, step.reward) for step in result.steps] == [("target", None), ("draft", 0.9)]
    assert result.steps[0].discarded_draft == "draft one\n\n"
    assert not result.degradations  # abstaining is not a fault


def test_a_verifier_that_always_abstains_is_told_once() -> None:
    made = decoder([None, None])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            made.run("q")
    with pytest.warns(RoleWarning) as caught:
        made.run_many(["q"] * 9)
    assert [str(one.message) for one in caught] == [
        "the verifier scripted verifier gave no reward at any of its first 8 calls: it abstains, so that rewards "
        "decide nothing"
    ]


@pytest.mark.parametrize("own", [False, True])
def test_a_verifier_that_gave_a_reward_or_may_abstain_is_not_told_of(own: bool) -> None:
    made = decoder([None, None] if own else [None, 0.2])
    made.verifier.may_abstain = own
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made.run_many(["q"] * 9)


def test_such_a_step_may_be_kept() -> None:
    result = decoder([None, 0.1], on_abstain="accept").run("q")
    assert [(step.author, step.reward) for step in result.steps] == [("draft", None), ("target", 0.1)]


def test_abstaining_and_failing_are_distinguished() -> None:
    kept = decoder([VerifierError("down"), None], on_abstain="target", on_verifier_error="accept").run("q")
    assert [step.author for step in kept.steps] == ["draft", "target"]
    assert [item.kind for item in kept.degradations] == ["verifier_error"]


@pytest.mark.parametrize(
    ("on_abstain", "rewards", "author", "reward"),
    [
        ("target", {"a": None, "b": 0.6}, "draft", 0.6),
        ("target", {"a": 0.2, "b": None}, "target", 0.2),
        ("target", {"a": None, "b": None}, "target", None),
        ("accept", {"a": 0.2, "b": None}, "draft", None),
        ("accept", {"a": None, "b": 0.9}, "draft", 0.9),
    ],
)
def test_among_candidates_a_known_reward_goes_first(
    on_abstain: str, rewards: dict[str, float | None], author: str, reward: float | None
) -> None:
    names = iter("ab")
    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter(lambda _path, _random: next(names)),
        verifier=ScriptedVerifier(lambda _path, step: rewards[step.text]),
        target=ScriptedTarget(["t"]),
        policy=BinaryStep(delta=0.5),
        settings=Settings.model_validate({"on_abstain": on_abstain, "candidates": 2, "temperature": 1.0}),
    )
    (step,) = made.run("q").steps
    assert (step.author, step.reward) == (author, reward)


@pytest.mark.parametrize(
    ("on_abstain", "rewards", "chosen"),
    [
        ("target", {"a": None, "b": 0.2}, {"b"}),  # the softmax never draws what is not known
        ("target", {"a": None, "b": None}, {"a"}),
        ("accept", {"a": None, "b": 0.5}, {"a", "b"}),  # as likely as each other
    ],
)
def test_the_softmax_draws_among_known_rewards(
    on_abstain: str, rewards: dict[str, float | None], chosen: set[str]
) -> None:
    settings = Settings.model_validate({"on_abstain": on_abstain, "softmax_beta": 1.0})
    requests = [Request(as_prompt("q"), settings, seed) for seed in range(40)]
    assert {"ab"[choose(request, [rewards["a"], rewards["b"]])] for request in requests} == chosen


def test_a_policy_that_scores_the_target_learns_of_no_reward() -> None:
    learned: list[float | None] = []

    class Curious(BinaryStep):
        @property
        def scores_target(self) -> bool:
            return True

        def learn(self, reward: float | None, request: RequestView) -> None:
            learned.append(reward)

    made = RewardGuidedDecoder(
        drafter=ScriptedDrafter(["draft"]),
        verifier=ScriptedVerifier(lambda _path, step: 0.1 if step.text == "draft" else None),
        target=ScriptedTarget(lambda _path, _random: "target"),
        policy=Curious(delta=0.5),
    )
    (step,) = made.run("q").steps
    assert (step.author, step.reward, step.target_reward) == ("target", 0.1, None)
    assert learned == [None]


def rewarded(_path: Path, step: Step) -> float | None:
    return {"good": 0.9, "bad": 0.1}.get(step.text)


@pytest.mark.parametrize("baseline", [BestOfN, StepBeam, Backtracking])
def test_baselines_choose_by_the_rewards_they_have(baseline: type[BestOfN | StepBeam | Backtracking]) -> None:
    texts = iter(["unknown", "bad", "good", "unknown"])
    options: dict[Any, dict[str, Any]] = {
        BestOfN: {"n": 4},
        StepBeam: {"width": 1, "expand": 4},
        Backtracking: {"tries": 4},
    }
    made = baseline(
        drafter=ScriptedDrafter(lambda _path, _random: next(texts)),
        verifier=ScriptedVerifier(rewarded),
        settings=Settings(temperature=1),
        **options[baseline],
    )
    result = made.run("q")
    assert result.text == "good"
    assert not result.degradations


class Likely(ScriptedDrafter, ScriptedTarget):
    """Gives every step the same likelihood."""

    async def log_likelihoods(self, path: Path, steps: Sequence[Step]) -> Likelihoods:
        return Likelihoods((0.0,) * len(steps), Usage())


@pytest.mark.parametrize(("on_abstain", "author"), [("target", "target"), ("accept", "draft")])
def test_gsi_tilts_no_reward_that_is_not_there(on_abstain: str, author: str) -> None:
    made = TiltedDecoder(
        drafter=Likely(["draft"]),
        verifier=ScriptedVerifier([None, None]),
        target=Likely(["target"]),
        settings=Settings.model_validate({"on_abstain": on_abstain}),
    )
    (step,) = made.run("q").steps
    assert (step.author, step.reward) == (author, None)
