"""Policies and decoders as text, in all LangChain interfaces of RSD."""

import asyncio
import pickle
from typing import Any, Literal

import pytest
from langchain_core.language_models import FakeListChatModel

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
from rsd_integrations.langchain import RSDLLM, ChatRSD, RSDRunnable, result_of

SPECS = {"draft": "scripted:draft", "target": "scripted:target", "verifier": "scripted:verifier"}
FACES = (ChatRSD, RSDRunnable)


class Lenient(WeightingPolicy):
    """A custom policy."""

    kind: Literal["lenient"] = "lenient"

    def weight(self, reward: float) -> float:
        return float(reward >= 0.05)


@pytest.mark.parametrize("face", FACES)
def test_a_custom_policy_behind_every_interface(face: type[Any]) -> None:
    for policy, authors in ((Lenient(), "ddd"), (FirstSteps(n=1, then=Lenient()), "tdd")):
        model = face(**SPECS, policy=policy)
        assert model.policy is policy
        assert "".join(step.author[0] for step in result_of(model.invoke("q")).steps) == authors
    model = face(**SPECS)
    assert len(result_of(model.invoke("q", policy=Lenient())).steps) == 3
    assert model.identity() != face(**SPECS, policy=Lenient()).identity()
    assert face(**SPECS, policy=Lenient()).identity()["policy"] == {"kind": "lenient"}


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize(
    ("decoder", "kind", "loaded"),
    [
        ("target", TargetOnly, {"scripted:target"}),
        ("draft", DraftOnly, {"scripted:draft"}),
        ("majority:3", MajorityVote, {"scripted:draft"}),
        ({"kind": "majority", "n": 3}, MajorityVote, {"scripted:draft"}),
        ("rsd@constant:0.5", RewardGuidedDecoder, set(SPECS.values())),
        (None, RewardGuidedDecoder, set(SPECS.values())),
    ],
)
def test_a_decoder_as_text_is_made_of_the_models_next_to_it(
    face: type[Any], decoder: Any, kind: type[Any], loaded: set[str]
) -> None:
    model = face(**SPECS, decoder=decoder, seed=3, max_tokens=70, settings={"limits": {"max_steps": 9}})
    made: Any = model.make_decoder()
    assert type(made) is kind
    assert {f"scripted:{inner.name.partition(' ')[2].replace('drafter', 'draft')}" for inner in made.models} == loaded
    assert (made.settings.seed, made.settings.limits.max_tokens, made.settings.limits.max_steps) == (3, 70, 9)
    assert asyncio.run(model.ainvoke("q")).text == model.invoke("q").text
    assert all(model.loaded.has(spec) == (spec in loaded) for spec in SPECS.values())
    assert type(pickle.loads(pickle.dumps(model)).make_decoder()) is kind
    assert type(model.model_copy(update={"decoder": "target"}).make_decoder()) is TargetOnly


def test_the_completing_face_takes_text_too() -> None:
    answers = {decoder: RSDLLM(**SPECS, decoder=decoder).invoke("q") for decoder in ("target", "draft")}
    assert "12-2=10" in answers["target"]
    assert "12-2=9" in answers["draft"]


def test_two_decoders_are_two_in_caches() -> None:
    models = [ChatRSD(**SPECS, decoder=decoder) for decoder in (None, "target", "majority:3", "majority:4")]
    assert len({str(model.identity()) for model in models}) == 4
    assert ChatRSD(**SPECS, decoder="rsd").identity() == models[0].identity()


def test_a_budget_goes_on_from_call_to_call() -> None:
    model = ChatRSD(**SPECS, decoder="rsd@budget_aware:0.3")
    assert model.make_decoder().policy is model.make_decoder().policy  # type: ignore[attr-defined]


def test_only_models_that_the_decoder_uses_decide_about_turns() -> None:
    chat = FakeListChatModel(responses=["x"])
    assert ChatRSD(draft="scripted:draft", target=chat, verifier="scripted:verifier").resolved().granularity == "turn"
    alone = ChatRSD(draft="scripted:draft", target=chat, decoder="target")
    assert (alone.resolved().granularity, alone.invoke("q").text) == ("turn", "x")
    assert ChatRSD(draft="scripted:draft", target=chat, decoder="draft").resolved().granularity == "step"


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"decoder": "majorty:3"}, "decoder.*unknown method 'majorty', did you mean 'majority'"),
        ({"decoder": "majority:0"}, "decoder.*n: Input should be greater than or equal to 1"),
        ({"decoder": 3}, "3 is not a decoder: give a Decoder, or a method as .*'majority:8'"),
        ({"decoder": "rsd:candidates=4"}, "candidates=4 with temperature=0"),
        ({"draft": "prm:no/such"}, "'prm:no/such' cannot be the drafter: it makes a verifier"),
        ({"policy": "binry_step"}, "policy.*unknown policy 'binry_step', did you mean 'binary_step'"),
        ({"decoder": DraftOnly(drafter=ScriptedDrafter(["x"])), **SPECS}, "remove draft, target, verifier"),
    ],
)
def test_a_wrong_decoder_is_refused_before_anything_is_loaded(
    face: type[Any], fields: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rsd_integrations.loaded_models.load", lambda spec: pytest.fail(f"{spec} was loaded"))
    with pytest.raises(ValueError, match=f"(?s){told}"):
        face(**fields)


def test_a_ready_decoder_checks_the_fields_next_to_it_at_once() -> None:
    class Sampling(TargetOnly):
        def with_settings(self, settings: Settings) -> "Sampling":
            if settings.temperature == 0:
                raise ConfigurationError("it samples")
            return super().with_settings(settings)

    decoder = Sampling(target=ScriptedTarget(["x"]), settings=Settings(temperature=1))
    assert ChatRSD(decoder=decoder).invoke("q").text == "x"
    with pytest.raises(ValueError, match="it samples"):
        ChatRSD(decoder=decoder, temperature=0)


@pytest.mark.parametrize("face", [*FACES, RSDLLM])
def test_settings_beside_a_decoder_object_are_refused(face: type[Any]) -> None:
    decoder = TargetOnly(target=ScriptedTarget(["x"]))
    with pytest.raises(ValueError, match="a decoder has its own models, policy and settings; remove settings"):
        face(decoder=decoder, settings=Settings(max_step_tokens=5))
    assert face(decoder=decoder, max_tokens=7).resolved().limits.max_tokens == 7
