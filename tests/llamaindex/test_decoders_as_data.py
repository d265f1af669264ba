"""Policies and decoders as text in LlamaIndex."""

import asyncio
import pickle
from typing import Any, Literal

import pytest

from rsd_core import (
    ConfigurationError,
    DraftOnly,
    FirstSteps,
    MajorityVote,
    RewardGuidedDecoder,
    Settings,
    TargetOnly,
    WeightingPolicy,
)
from rsd_core.testing import ScriptedDrafter, ScriptedTarget
from rsd_integrations.llamaindex import RSDLLM, result_of

SPECS: dict[str, Any] = {"draft": "scripted:draft", "target": "scripted:target", "verifier": "scripted:verifier"}


class Lenient(WeightingPolicy):
    """A custom policy."""

    kind: Literal["lenient"] = "lenient"

    def weight(self, reward: float) -> float:
        return float(reward >= 0.05)


def test_a_custom_policy() -> None:
    model = RSDLLM(**SPECS, policy=FirstSteps(n=1, then=Lenient()))
    assert [step.author for step in result_of(model.complete("q")).steps] == ["target", "draft", "draft"]
    assert model.to_dict()["policy"] == {"kind": "first_steps", "n": 1, "then": {"kind": "lenient"}}


@pytest.mark.parametrize(
    ("decoder", "kind", "loaded"),
    [
        ("target", TargetOnly, {"scripted:target"}),
        ("majority:3", MajorityVote, {"scripted:draft"}),
        ({"kind": "draft"}, DraftOnly, {"scripted:draft"}),
        ("rsd@constant:0.5", RewardGuidedDecoder, set(SPECS.values())),
    ],
)
def test_a_decoder_as_text_is_made_of_the_models_next_to_it(decoder: Any, kind: type, loaded: set[str]) -> None:
    model = RSDLLM(**SPECS, decoder=decoder, settings=Settings(seed=3))
    made, _ = model._decoder(model._call({"max_tokens": 70}))
    assert type(made) is kind
    assert (made.settings.seed, made.settings.limits.max_tokens) == (3, 70)
    assert all(model._loaded.has(spec) == (spec in loaded) for spec in SPECS.values())
    assert asyncio.run(model.acomplete("q")).text == model.complete("q").text
    for other in (RSDLLM.from_dict(model.to_dict()), pickle.loads(pickle.dumps(model)), model.model_copy(deep=True)):
        assert other.decoder == model.decoder
        assert type(other._decoder(other._call({}))[0]) is kind
    copied = model.model_copy(update={"decoder": "target"})
    assert type(copied._decoder(copied._call({}))[0]) is TargetOnly


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"decoder": "majorty:3"}, "unknown method 'majorty', did you mean 'majority'"),
        ({"decoder": "majority:0"}, "n: Input should be greater than or equal to 1"),
        ({"decoder": "rsd:candidates=4"}, "candidates=4 with temperature=0"),
        ({"draft": "prm:no/such"}, "'prm:no/such' cannot be the drafter: it makes a verifier"),
        ({"decoder": DraftOnly(drafter=ScriptedDrafter(["x"])), **SPECS}, "remove draft, target, verifier"),
    ],
)
def test_a_wrong_decoder_is_refused_before_anything_is_loaded(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        RSDLLM(**fields)


def test_a_ready_decoder_checks_the_fields_next_to_it_at_once() -> None:
    class Sampling(TargetOnly):
        def with_settings(self, settings: Settings) -> "Sampling":
            if settings.temperature == 0:
                raise ConfigurationError("it samples")
            return super().with_settings(settings)

    decoder = Sampling(target=ScriptedTarget(["x"]), settings=Settings(temperature=1))
    assert RSDLLM(decoder=decoder).complete("q").text == "x"
    with pytest.raises(ValueError, match="it samples"):
        RSDLLM(decoder=decoder, temperature=0)
    with pytest.raises(ValueError, match="it samples"):
        RSDLLM(decoder=decoder).complete("q", temperature=0)


def test_drafter_and_draft_are_one() -> None:
    options: Any = {"drafter": "scripted:draft", "thoughts": {"drafter": "scripted:target"}}
    llm = RSDLLM(**options)
    assert (llm.draft, llm.thoughts) == ("scripted:draft", {"draft": "scripted:target"})
    for both in ({"draft": "scripted:draft"}, {"thoughts": {"draft": "scripted:draft", "drafter": "scripted:draft"}}):
        with pytest.raises(ValueError, match="draft and drafter are two names for one model"):
            RSDLLM(**options | both)
