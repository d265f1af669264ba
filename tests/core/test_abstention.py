"""A verifier that abstains gives no reward; the settings say what becomes of the step."""

import pytest

from rsd_core import BinaryStep, RewardGuidedDecoder, Settings, VerifierError
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
    assert not result.degradations  # abstaining is no fault


def test_such_a_step_may_be_kept() -> None:
    result = decoder([None, 0.1], on_abstain="accept").run("q")
    assert [(step.author, step.reward) for step in result.steps] == [("draft", None), ("target", 0.1)]


def test_abstaining_and_failing_are_told_apart() -> None:
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
