"""Methods: which decoder a configuration makes, as data."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rsd_core import (
    BestOfN,
    BudgetAware,
    ConfigurationError,
    Constant,
    DraftOnly,
    MajorityVote,
    Method,
    RewardGuidedDecoder,
    RSDConfig,
    Settings,
    Setup,
    StepBeam,
    TargetOnly,
    parse_method,
)
from rsd_core.methods import METHODS, RSDMethod
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_integrations.evaluation import evaluate
from tests.core.plugin_packages import install

SCRIPTED = {"drafter": "scripted:draft", "verifier": "scripted:verifier", "target": "scripted:target"}
MODULE = """
from typing import ClassVar, Literal
from rsd_core import Decoder, DraftOnly, Method, Setup, TargetOnly

class Coin(Method):
    '''Lets the target answer everything, or nothing.'''
    kind: Literal["coin"] = "coin"
    target: bool = False

    def build(self, setup):
        if self.target:
            return TargetOnly(target=setup.target, settings=setup.settings)
        return DraftOnly(drafter=setup.drafter, settings=setup.settings)
"""


@pytest.mark.parametrize(("method", "shape"), [("beam", (4, 4)), ("beam:8,width=2", (2, 4)), ("beam:1", (4, 1))])
def test_each_of_the_beams_drafts_its_part_of_the_steps_one_at_least(method: str, shape: tuple[int, int]) -> None:
    with RSDConfig.parse(SCRIPTED | {"method": method}).build() as made:
        assert isinstance(made, StepBeam)
        assert (made.width, made.expand) == shape


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        (None, RewardGuidedDecoder),
        ("rsd", RewardGuidedDecoder),
        ("target", TargetOnly),
        ("draft", DraftOnly),
        ("majority:8", MajorityVote),
        ({"kind": "best_of_n", "n": 4, "aggregate": "min"}, BestOfN),
    ],
)
def test_a_configuration_says_which_decoder_it_makes(method: Any, kind: type) -> None:
    config = RSDConfig.parse(SCRIPTED | ({"method": method} if method else {}))
    assert type(config.build()) is kind
    for again in (RSDConfig.model_validate_json(config.model_dump_json()), RSDConfig.parse(config.model_dump())):
        assert again == config
        assert type(again.build()) is kind


def test_the_parameters_of_a_method_reach_the_decoder() -> None:
    vote = RSDConfig.parse(SCRIPTED | {"method": "majority:8,temperature=0.3", "settings": {"seed": 3}}).build()
    assert isinstance(vote, MajorityVote)
    assert (vote.n, vote.settings.temperature, vote.settings.seed) == (8, 0.3, 3)
    rsd = RSDConfig.parse(SCRIPTED | {"method": "rsd:candidates=4,temperature=0.7@constant:0.5", "policy": "sigmoid"})
    decoder = rsd.build()
    assert isinstance(decoder, RewardGuidedDecoder)
    assert (decoder.policy, decoder.settings.candidates) == (Constant(p=0.5), 4)
    plain = RSDConfig.parse(SCRIPTED | {"method": "rsd:candidates=4,temperature=0.7", "policy": "constant:0.1"}).build()
    assert isinstance(plain, RewardGuidedDecoder)
    assert plain.policy == Constant(p=0.1)
    gsi = RSDConfig.parse(SCRIPTED | {"method": "gsi:4", "settings": {"lookahead": 2}}).method
    assert gsi.settings(Settings(lookahead=2)).candidates == 4


@pytest.mark.parametrize(
    ("settings", "method", "expected"),
    [
        ({}, "majority:2", (0.7, 0.8, 0)),
        ({"top_p": 0.5}, "majority:2", (0.7, 0.8, 0)),
        ({"temperature": 1.1}, "majority:2", (1.1, 1.0, 0)),
        ({"temperature": 1.1, "top_p": 0.5}, "majority:2", (1.1, 0.5, 0)),
        ({"temperature": 1.1}, "majority:2,temperature=0.2,top_p=0.9", (0.2, 0.9, 0)),
        ({}, "gsi:2,temperature=0.2", (0.2, 0.8, 0)),
        ({"top_k": 20}, "majority:2", (0.7, 0.8, 20)),
        ({"temperature": 1, "top_k": 20}, "majority:2,top_k=5", (1.0, 1.0, 5)),
    ],
)
def test_methods_that_sample_do_so_as_the_settings_say(
    settings: dict[str, float], method: str, expected: tuple[float, float, int]
) -> None:
    told = parse_method(method).settings(Settings.model_validate(settings))
    sampling = told.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == expected


@pytest.mark.parametrize(
    ("method", "loaded"),
    [
        ("target", {"scripted:target"}),
        ("draft", {"scripted:draft"}),
        ("majority:2", {"scripted:draft"}),
        ("best_of_n:2", {"scripted:draft", "scripted:verifier"}),
        ("best_of_n:2,verifier=rule:arithmetic", {"scripted:draft", "rule:arithmetic"}),
        ("beam:4", {"scripted:draft", "scripted:verifier"}),
        ("backtracking", {"scripted:draft", "scripted:verifier"}),
        ("rsd", {"scripted:draft", "scripted:verifier", "scripted:target"}),
        ("rsd:verifier=rule:arithmetic", {"scripted:draft", "rule:arithmetic", "scripted:target"}),
    ],
)
def test_only_the_models_of_the_method_are_loaded(
    method: str, loaded: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rsd_core import registry

    seen = []

    def load(spec: str) -> Any:
        seen.append(spec)
        return registry.load(spec)

    monkeypatch.setattr("rsd_core.methods.load", load)
    config = RSDConfig.parse(SCRIPTED | {"method": method})
    assert seen == []
    config.build()
    assert set(seen) == loaded
    assert len(seen) == len(loaded)
    assert set(config.method.models(config.setup())) == loaded


def test_every_built_in_method_says_which_models_it_needs() -> None:
    setup = Setup("drafter", "verifier", "target")
    needs = {kind: set(METHODS[kind]().models(setup)) for kind in METHODS}
    assert needs == {
        "rsd": {"drafter", "verifier", "target"},
        "target": {"target"},
        "draft": {"drafter"},
        "majority": {"drafter"},
        "best_of_n": {"drafter", "verifier"},
        "beam": {"drafter", "verifier"},
        "backtracking": {"drafter", "verifier"},
        "hgs": {"drafter", "verifier"},
        "specreason": {"drafter", "target"},
        "first_steps": {"drafter", "target"},
        "drafter_thinks": {"drafter", "target"},
        "target_thinks": {"drafter", "target"},
        "glimprouter": {"drafter", "target"},
        "speccot": {"drafter", "target"},
        "gsi": {"drafter", "verifier", "target"},
        "speculative": {"drafter", "target"},
        "speculative_beams": {"drafter", "target"},
    }
    assert parse_method("speculative:proposer=lookup").models(setup) == ["target"]


def test_a_setup_takes_objects_and_loads_a_spec_once_for_all_methods() -> None:
    drafter = ScriptedDrafter(["\\boxed{1}"])
    setup = Setup(drafter, "scripted:verifier", "scripted:target", Constant(p=1), Settings(seed=5))
    first, second = RSDMethod().build(setup), RSDMethod().build(setup)
    assert first.drafter is second.drafter is drafter
    assert isinstance(first.verifier, ScriptedVerifier)
    assert isinstance(first.target, ScriptedTarget)
    assert (first.verifier, first.target) == (second.verifier, second.target)
    assert (first.policy, first.settings.seed, first.run("q").answer) == (Constant(p=1), 5, "1")


def test_a_fresh_setup_shares_models_and_nothing_that_is_learned() -> None:
    policy = BudgetAware(target_rate=0.5)
    setup = Setup("scripted:draft", "scripted:verifier", "scripted:target", policy)
    shared, fresh = RSDMethod().build(setup), RSDMethod().build(setup.afresh())
    assert shared.policy is policy
    assert fresh.policy is not policy
    assert fresh.target is shared.target


def test_a_method_of_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "rsd-coin", MODULE, methods={"coin": "rsd_coin:Coin", "gone": "rsd_gone:Method"})
    monkeypatch.syspath_prepend(tmp_path)
    for text, kind in (("coin", DraftOnly), ("coin:true", TargetOnly), ("coin:target=true", TargetOnly)):
        config = RSDConfig.parse(SCRIPTED | {"method": text})
        assert type(config.build()) is kind
        assert RSDConfig.model_validate_json(config.model_dump_json()) == config
    with pytest.raises(ConfigurationError, match=r"^'gone' of the package 'rsd-coin'"):
        parse_method("gone")
    with pytest.raises(ConfigurationError, match="unknown method 'coil', did you mean 'coin'"):
        parse_method("coil:3")

    from rsd_integrations.evaluation import evaluate

    report = evaluate(RSDConfig.parse(SCRIPTED), "embedded", ["coin", "coin:true"], 2, 1)
    assert [report.methods[name].by_target for name in ("coin", "coin:true")] == [0, 6]


def test_a_custom_method_as_an_object() -> None:
    class Alone(Method):
        """The target alone, by another name."""

        def build(self, setup: Setup) -> TargetOnly:
            return TargetOnly(target=setup.target, settings=setup.settings)

    assert type(RSDConfig(**SCRIPTED, method=Alone()).build()) is TargetOnly


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"target": "hf:/no/such"}, "there is no folder '/no/such'"),
        ({"target": "hf:./no-such", "method": "target"}, "there is no folder './no-such'"),
        ({"target": "hf:./no-such", "method": "speculative"}, "there is no folder './no-such'"),
        ({"drafter": "gguf:~/no-such.gguf"}, "there is no file '~/no-such.gguf'"),
        ({"verifier": "judge:hf:./no-such"}, "there is no folder './no-such'"),
        ({"verifier": "prm:gguf=./no-such.gguf"}, "there is no file './no-such.gguf'"),
        ({"thoughts": {"target": "hf:../no-such"}}, "there is no folder '../no-such'"),
        ({"target": "hf,dtyp=int8:./no-such"}, "dtyp"),
    ],
)
def test_what_is_wrong_with_any_model_is_said_before_one_is_loaded(
    data: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(spec: str) -> None:
        raise AssertionError(f"{spec} is loaded")

    monkeypatch.setattr("rsd_core.methods.load", load)
    config = RSDConfig.parse(data)
    for run in (config.build, partial(evaluate, config, "embedded", ["draft", data.get("method", "rsd")], 1, 1)):
        with pytest.raises(ConfigurationError, match=re.escape(said)):
            run()


def test_methods_need_no_models_of_other_roles() -> None:
    absent = {"target": "hf:/no/such", "thoughts": {"target": "hf:/no/such"}}
    assert RSDConfig.parse({**absent, "method": "draft"}).build().models
