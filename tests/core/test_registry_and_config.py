"""Spec strings, plugins and configuration as data."""

from pathlib import Path
from typing import Any, assert_type

import pytest

from rsd_core import (
    BinaryStep,
    Clipping,
    ConfigurationError,
    Drafter,
    Limits,
    RewardGuidedDecoder,
    RSDConfig,
    Settings,
    SpecError,
    Target,
    Verifier,
    backends,
    load,
    parse_policy,
)
from rsd_core.testing import ScriptedDrafter
from tests.core.plugin_packages import install, python

MODULE = """
from rsd_core.testing import ScriptedDrafter

def load(rest, *, delay=0.0):
    return ScriptedDrafter([rest], delay=delay)

def needy(rest):
    import nothing_like_this

def useless(rest):
    return None
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with models."""
    kinds = {name: f"rsd_mine:{name}" for name in ("load", "needy", "useless")}
    install(tmp_path, "rsd-mine", MODULE, backends={"mine": "rsd_mine:load", **kinds})
    install(tmp_path, "rsd-gone", "", backends={"gone": "rsd_gone:load"})
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_plugin_adds_a_kind(mine: Path) -> None:
    made = load("mine:hello world", delay=0.5)
    assert isinstance(made, ScriptedDrafter)
    assert (made.script, made.delay) == (["hello world"], 0.5)
    assert backends()["mine"].summary == "a model by the plugin package rsd-mine"
    assert RSDConfig.parse({"drafter": "mine:x"}).drafter == "mine:x"


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("gone:x", "'gone' of the package 'rsd-gone': rsd_gone:load cannot be imported (ModuleNotFoundError"),
        ("needy:x", "'needy:x' needs the module 'nothing_like_this' (a model by the plugin package rsd-mine)"),
        (
            "useless:x",
            "'useless:x' created None, not a drafter, verifier or target (a model by the plugin package rsd-mine)",
        ),
        ("mine,delai=1:x", "'mine,delai=1:x': unknown option of mine 'delai', did you mean 'delay'? known are delay"),
    ],
)
def test_a_plugin_that_cannot_work_is_reported_in_one_line_with_its_package(spec: str, told: str, mine: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(spec)
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)


def test_a_plugin_cannot_take_a_built_in_kind_over(mine: Path) -> None:
    install(mine, "rsd-rival", MODULE, backends={"scripted": "rsd_rival:load"})
    with pytest.warns(UserWarning, match="built-in kind of model 'scripted' is used, not the one .*'rsd-rival'"):
        assert isinstance(load("scripted:draft"), ScriptedDrafter)
    # To a user it is one warning, and the command works.
    words = "run q --draft scripted:draft --target scripted:target --verifier scripted:verifier"
    code = f"from rsd_integrations.cli import app; import sys; sys.argv = ['rsd', *{words.split()}]; app.main()"
    shown = python(mine, code)
    assert "Answer: 10" in shown
    assert shown.count("rsd-rival") == 1


def test_the_callers_options_take_precedence_over_those_of_the_spec(mine: Path) -> None:
    assert load("mine,delay=0.25:x").delay == 0.25
    assert load("mine,delay=0.25:x", delay=0.5).delay == 0.5


def test_values_may_be_json_and_names_with_dots_nest(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def factory(rest: str, **options: Any) -> Drafter:
        given.update(rest=rest, **options)
        return ScriptedDrafter([rest])

    monkeypatch.setattr("rsd_core.registry._factory", lambda backend, spec: factory)
    words = 'template.enable_thinking=false,body.provider={"order":["a:b","c,d"],"only":null},body.top.k=3,plain={x'
    load(f"hf,{words}:M@http://127.0.0.1:1/v1")
    assert given == {
        "rest": "M@http://127.0.0.1:1/v1",
        "template": {"enable_thinking": False},
        "body": {"provider": {"order": ["a:b", "c,d"], "only": None}, "top": {"k": 3}},
        "plain": "{x",
    }


@pytest.mark.parametrize(
    ("role", "spec", "kind"),
    [("drafter", "draft", Drafter), ("verifier", "verifier", Verifier), ("target", "target", Target)],
)
def test_a_model_is_loaded_for_a_role(role: Any, spec: str, kind: type) -> None:
    assert isinstance(load(f"scripted:{spec}", role=role), kind)


def test_type_checkers_know_what_a_role_is() -> None:
    # mypy reads these lines too.
    assert_type(load("scripted:draft", role="drafter"), Drafter)
    assert_type(load("scripted:verifier", role="verifier"), Verifier)
    assert_type(load("scripted:target", role="target"), Target)
    assert_type(load("scripted:target"), Any)


@pytest.mark.parametrize(
    ("role", "spec", "told"),
    [
        ("drafter", "scripted:verifier", "'scripted:verifier' cannot be the drafter: it makes a verifier; kinds"),
        (
            "verifier",
            "scripted:draft",
            "cannot be the verifier: it makes a drafter; to use a generator as a judge, write judge:scripted",
        ),
        ("target", "scripted:draft", "'scripted:draft' cannot be the target: it makes a drafter; kinds that can"),
        ("target", "rule:arithmetic", "'rule:arithmetic' cannot be the target: it makes a verifier; kinds that can"),
        (
            "drafer",
            "scripted:draft",
            "unknown role 'drafer', did you mean 'drafter'? known are drafter, verifier, target",
        ),
    ],
)
def test_a_model_that_cannot_play_the_role_is_refused(role: Any, spec: str, told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(spec, role=role)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "data", [{"drafter": "prm:no/such"}, {"verifier": "hf:no/such"}, {"verifier": "cached:hf:no/such"}]
)
def test_a_configuration_refuses_a_kind_that_never_plays_its_role(data: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=rf"{next(iter(data))}: '.*no/such' cannot be the {next(iter(data))}"):
        RSDConfig.parse(data)


@pytest.mark.parametrize("spec", ["", "draft", "gpt", "hf", "hf:", "HF:x", "scripted:drafter"])
def test_a_spec_that_names_nothing_says_what_there_is(spec: str) -> None:
    with pytest.raises(SpecError) as caught:
        load(spec)
    assert repr(spec) in str(caught.value) or spec in str(caught.value)
    assert "embedded" in str(caught.value) or "scripted:draft" in str(caught.value) or "hub id" in str(caught.value)


def test_a_configuration_builds_a_decoder() -> None:
    config = RSDConfig.parse(
        {
            "drafter": "scripted:draft",
            "verifier": "scripted:verifier",
            "target": "scripted:target",
            "policy": "clipping",
            "settings": {"temperature": 0.7, "candidates": 2, "limits": {"max_steps": 5}},
        }
    )
    assert config.policy == Clipping()
    decoder = config.build()
    assert isinstance(decoder, RewardGuidedDecoder)
    assert decoder.settings.limits.max_steps == 5
    assert RSDConfig.model_validate_json(config.model_dump_json()) == config


def test_the_default_configuration_is_the_embedded_family() -> None:
    config = RSDConfig()
    assert config.drafter == "embedded:draft"
    assert config.target == "embedded:target"
    assert config.policy == BinaryStep(delta=0.7)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"drafter": "nowhere:x"}, "drafter: 'nowhere:x' names no model: unknown kind 'nowhere'; known are cached"),
        (
            {"target": "embeded:x"},
            "target: 'embeded:x' names no model: unknown kind 'embeded', did you mean 'embedded'?",
        ),
        ({"drafter": "hf,dtype=a,dtype=b:x"}, "drafter: 'hf,dtype=a,dtype=b:x' gives dtype twice"),
        (
            {"drafter": "hf,template.a=1,template.a.b=2:x"},
            "drafter: 'hf,template.a=1,template.a.b=2:x' sets both template.a.b and something inside or around it",
        ),
        ({"policy": "binary_step:2"}, "policy.delta: Input should be less than or equal to 1 (got '2')"),
        (
            {"policy": "binry_step"},
            "policy: unknown policy 'binry_step', did you mean 'binary_step'? known are constant",
        ),
        ({"policy": "binary_step:0.5,delta=0.7"}, "policy: 'binary_step:0.5,delta=0.7' gives delta twice"),
        ({"policy": {"delta": 1}}, "policy: a policy needs a kind (got {'delta': 1}); known are constant"),
        ({"policy": 3}, "policy: 3 is not a policy: write KIND:VALUE; kinds are constant, binary_step"),
        (
            {"policy": {"kind": "retry", "then": {"kind": "binary_step", "dleta": 1}}},
            "policy.then.dleta: unknown name, did you mean 'delta'? known are kind, delta (got 1)",
        ),
        ({"setings": {}}, "setings: unknown name, did you mean 'settings'? known are drafter, verifier"),
        ({"temperature": 1}, "temperature: unknown name, did you mean 'settings.temperature'? known are"),
        ({"max_tokens": 9}, "max_tokens: unknown name, did you mean 'settings.limits.max_tokens'? known are"),
        ({"settings": {"temprature": 1}}, "settings.temprature: unknown name, did you mean 'temperature'? known are"),
        ({"settings": {"max_tokens": 9}}, "settings.max_tokens: unknown name, did you mean 'limits.max_tokens'? known"),
        (
            {"settings": {"limits": {"max_step": 9}}},
            "settings.limits.max_step: unknown name, did you mean 'max_steps'? known are max_steps, max_tokens",
        ),
        ({"settings": {"top_p": 0}}, "settings.top_p: Input should be greater than 0 (got 0)"),
        ({"settings": {"top_k": -1}}, "settings.top_k: Input should be greater than or equal to 0 (got -1)"),
        ({"settings": {"candidates": 4}}, "settings: candidates=4 with temperature=0"),
        ({"settings": {"granularity": "trun"}}, "settings.granularity: Input should be 'step' or 'turn', did you mean"),
        (
            {"settings": {"on_verifier_error": "ignore"}},
            "settings.on_verifier_error: Input should be 'target', 'accept'",
        ),
        ({"method": "majorty:8"}, "method: unknown method 'majorty', did you mean 'majority'? known are rsd, target"),
        ({"method": "majority:8,tempreature=1"}, "method.tempreature: unknown name, did you mean 'temperature'? known"),
        ({"method": "majority:0"}, "method.n: Input should be greater than or equal to 1 (got '0')"),
        ({"method": "rsd@clippin"}, "method.policy: unknown policy 'clippin', did you mean 'clipping'?"),
        ({"method": "best_of_n:4,verifier=hf:x"}, "method.verifier: 'hf:x' cannot be the verifier"),
        ({"method": "rsd:candidates=4"}, "method: invalid settings: candidates=4 with temperature=0"),
    ],
)
def test_a_bad_configuration_names_place_value_and_remedy(data: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RSDConfig.parse(data)
    assert str(caught.value).removeprefix("invalid configuration: ").startswith(told)
    assert "\n" not in str(caught.value)


def test_everything_that_is_wrong_is_reported_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        RSDConfig.parse({"drafter": "x:y", "settings": {"top_p": 0, "limits": {"max_steps": 0}}, "tree": 1})
    places = [finding.partition(":")[0] for finding in str(caught.value).partition(": ")[2].split("; ")]
    assert {"drafter", "settings.top_p", "settings.limits.max_steps", "tree"} <= set(places)


NEWER = "written for rsd-decoding 9.1, and this is 0.1.0: pip install --upgrade rsd-decoding"


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"version": "9.1", "tree": 3}, f"{NEWER} (tree: unknown name"),
        ({"version": "9.1", "policy": "neural:3"}, f"{NEWER} (policy: unknown policy 'neural'"),
        ({"policy": {"version": "9.1", "kind": "neural"}}, f"policy: {NEWER} (unknown policy 'neural'"),
        ({"policy": {"version": "9.1", "kind": "clipping", "mid": 1}}, f"policy: {NEWER} (mid: unknown name"),
        ({"version": 9, "tree": 3}, "written for rsd-decoding 9, and this is"),
        ({"version": "0.1.0", "tree": 3}, "tree: unknown name"),
        ({"version": "next", "tree": 3}, "version: 'next' is not a version such as '0.1.0'"),
    ],
)
def test_what_a_newer_version_wrote_asks_for_an_upgrade(data: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RSDConfig.parse(data)
    assert str(caught.value).startswith(f"invalid configuration: {told}")


def test_what_a_newer_version_wrote_is_read_where_it_can_be(tmp_path: Path) -> None:
    assert RSDConfig.parse({"version": "9.1", "policy": "clipping"}) == RSDConfig(policy=Clipping())
    (tmp_path / "policy.json").write_text('{"version": "9.1", "kind": "neural"}')
    with pytest.raises(ConfigurationError, match=r"^written for rsd-decoding 9\.1, and this is"):
        parse_policy(str(tmp_path / "policy.json"))


def test_a_configuration_of_before_is_read() -> None:
    data = RSDConfig(settings=Settings(seed=3), policy=BinaryStep(delta=0.4)).model_dump(mode="json")
    assert list(data) == ["drafter", "verifier", "target", "policy", "settings"]  # as files of results have it
    assert data["policy"] == {"kind": "binary_step", "delta": 0.4}
    assert RSDConfig.parse(data) == RSDConfig(settings=Settings(seed=3), policy=BinaryStep(delta=0.4))


def test_settings_are_updated_by_name_limits_included() -> None:
    settings = Settings(seed=3, limits=Limits(max_steps=7))
    other = settings.updated(temperature=0.5, max_tokens=9, seed=None, top_p=None)
    assert other == Settings(seed=3, temperature=0.5, limits=Limits(max_steps=7, max_tokens=9))
    assert settings == Settings(seed=3, limits=Limits(max_steps=7))
    with pytest.raises(ConfigurationError, match="unknown setting 'temprature', did you mean 'temperature'"):
        settings.updated(temprature=1)
    with pytest.raises(ConfigurationError, match="unknown setting 'max_token', did you mean 'max_tokens'"):
        settings.updated(max_token=1)
    assert settings.updated(limits=Limits(max_steps=2), max_tokens=5).limits == Limits(max_steps=2, max_tokens=5)
    with pytest.raises(ConfigurationError, match=r"limits.max_tokens: .*greater than or equal to 1 \(got 0\)"):
        settings.updated(max_tokens=0)


@pytest.mark.parametrize(
    "spec",
    [
        "openai,api_key=SECRET,profil=vllm:m@http://127.0.0.1:1/v1",
        "openai,api_key=SECRET:",
        "opnai,api_key=SECRET:m@http://127.0.0.1:1/v1",
        "openai,API_KEY=SECRET,temperature:m@http://127.0.0.1:1/v1",
        "judge:openai,api_key=SECRET,profil=vllm:m@http://127.0.0.1:1/v1",
    ],
)
def test_no_error_about_a_spec_holds_its_key(spec: str) -> None:
    with pytest.raises(ConfigurationError) as loading:
        load(spec, role="drafter")
    with pytest.raises(ConfigurationError) as configuring:
        RSDConfig.parse({"drafter": spec, "settings": {"sed": 1}})
    for caught in (loading, configuring):
        assert "SECRET" not in f"{caught.value} {caught.value!r}"
    assert "…" in str(loading.value)


@pytest.mark.parametrize(
    "value", ['{"Authorization": "Bearer SECRET"}', '{"X-Api-Key":"a,SECRET"}', '{"api_key": "a\\"SECRET"}']
)
def test_no_error_about_a_spec_holds_the_end_of_a_secret_text(value: str) -> None:
    for spec in (f"openai,body.extra={value},profil=vllm:m@http://127.0.0.1:1/v1", f"opnai,headers={value}:m"):
        with pytest.raises(SpecError) as caught:
            load(spec)
        assert "SECRET" not in str(caught.value)
        assert "…" in str(caught.value)


def test_options_after_the_colon_are_refused_with_their_place() -> None:
    line = r"options go before the colon: hf,dtype=float32,template\.enable_thinking=false:ORG/MODEL"
    with pytest.raises(SpecError, match=line):
        load("hf,dtype=float32:ORG/MODEL,template.enable_thinking=false")
