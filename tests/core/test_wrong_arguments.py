"""Wrong arguments for a prompt, a policy, settings or a seed are refused in one line that says what to pass."""

from typing import Any, Literal

import pytest

from rsd_core import (
    BinaryStep,
    ConfigurationError,
    PromptError,
    RewardGuidedDecoder,
    RunError,
    SpecError,
    WeightingPolicy,
    load,
)
from rsd_core.registry import check_types
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier


def decoder(**options: Any) -> RewardGuidedDecoder:
    return RewardGuidedDecoder(
        drafter=ScriptedDrafter(["one"]), verifier=ScriptedVerifier([0.9]), target=ScriptedTarget(["ONE"]), **options
    )


@pytest.mark.parametrize("policy", ["binary_step:0.4", 0.7, BinaryStep, lambda reward: 1.0])
def test_an_invalid_policy_is_refused_at_once(policy: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"is not a policy\. Give an object such as BinaryStep\(delta=0\.7\)"):
        decoder(policy=policy)


def test_invalid_settings_are_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match=r"\{'temperature': 0\.5\} is not a Settings"):
        decoder(settings={"temperature": 0.5})


@pytest.mark.parametrize("prompt", [5, None, 0.5])
def test_an_invalid_prompt_is_refused(prompt: Any) -> None:
    with pytest.raises(PromptError, match=f"{prompt} is not a prompt. Pass a question, or a list of messages"):
        decoder().run(prompt)


@pytest.mark.parametrize("seed", [-1, 2**63, "x", 0.5, None])
def test_an_invalid_seed_is_refused(seed: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"seed takes a whole number in \[0, 2\*\*63\)"):
        decoder().run("question", seed=seed)


def test_an_invalid_cancellation_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="cancel takes a Cancellation"):
        decoder().run("question", cancel=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (None, "None is not a spec"),
        ("cascade,low=x:rule:arithmetic|rule:format", "low takes a number (got 'x')"),
        ("rule,max_chars=many:format", "max_chars takes a whole number (got 'many')"),
        ("rule,max_chars=1.5:format", "max_chars takes a whole number (got 1.5)"),
        ("rule,max_chars=true:format", "max_chars takes a whole number (got True)"),
        ("gguf,batch_invariant=no:F.gguf", "batch_invariant takes true or false (got 'no')"),
        ("gguf,lora=5:F.gguf", "lora takes a text (got 5); quote it to make it a text"),
        ("prm,head=2024:gguf=F.gguf", "head takes a text (got 2024)"),
    ],
)
def test_an_option_of_another_type_is_reported_by_its_name(spec: Any, told: str) -> None:
    with pytest.raises(SpecError) as caught:
        load(spec)
    assert told in str(caught.value)


def test_a_secret_of_another_type_is_not_shown() -> None:
    def make(rest: str, *, api_key: str | None = None) -> Any: ...

    with pytest.raises(SpecError, match="api_key takes a text; quote it to make it a text") as caught:
        check_types(make, {"api_key": 48151623}, "mine,api_key=48151623:model")
    assert "48151623" not in str(caught.value)


def test_whole_numbers_are_numbers() -> None:
    assert load("cascade,low=0,high=1:rule:arithmetic|rule:format").name.startswith("cascade")


class Broken(WeightingPolicy):
    kind: Literal["broken"] = "broken"

    def weight(self, reward: float) -> float:
        raise KeyError(reward)


def test_a_policy_that_fails_is_named() -> None:
    with pytest.raises(RunError, match=r"decide\(\) of the policy Broken\(kind='broken'\) failed: KeyError: 0\.9"):
        decoder(policy=Broken()).run("question")
