"""Spec strings, plugins and configuration as data."""

from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import pytest

from rsd_core import (
    BinaryStep,
    Clipping,
    ConfigurationError,
    Limits,
    RewardGuidedDecoder,
    RSDConfig,
    Settings,
    SpecError,
    backends,
    load,
)
from rsd_core.testing import ScriptedDrafter


def plugin(rest: str, **options: Any) -> ScriptedDrafter:
    """What a plugin package would point its entry at."""
    return ScriptedDrafter([rest], **options)


def test_a_plugin_adds_a_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("mine", "tests.core.test_registry_and_config:plugin", "rsd.backends")
    monkeypatch.setattr("rsd_core.registry.entry_points", lambda group: EntryPoints([point]))
    made = load("mine:hello world", delay=0.5)
    assert isinstance(made, ScriptedDrafter)
    assert (made.script, made.delay) == (["hello world"], 0.5)
    assert "mine" in backends()
    assert RSDConfig.parse({"drafter": "mine:x"}).drafter == "mine:x"


def test_a_plugin_cannot_take_a_built_in_kind_over(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("scripted", "tests.core.test_registry_and_config:plugin", "rsd.backends")
    monkeypatch.setattr("rsd_core.registry.entry_points", lambda group: EntryPoints([point]))
    assert backends()["scripted"].module == "rsd_core.testing:load"


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
    ("data", "words"),
    [
        ({"drafter": "nowhere:x"}, ["drafter", "nowhere:x"]),
        ({"policy": "binary_step:2"}, ["policy", "2"]),
        ({"setings": {}}, ["setings"]),
        ({"settings": {"temprature": 1}}, ["temprature"]),
        ({"settings": {"top_p": 0}}, ["top_p", "greater than 0"]),
        ({"settings": {"candidates": 4}}, ["candidates=4", "temperature"]),
        ({"settings": {"limits": {"max_steps": 0}}}, ["max_steps", "greater than or equal to 1"]),
        ({"settings": {"granularity": "token"}}, ["granularity", "'step' or 'turn'"]),
        ({"settings": {"on_verifier_error": "ignore"}}, ["on_verifier_error", "accept"]),
    ],
)
def test_a_bad_configuration_names_field_value_and_remedy(data: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RSDConfig.parse(data)
    assert all(word in str(caught.value) for word in words)


def test_settings_are_updated_by_name_limits_included() -> None:
    settings = Settings(seed=3, limits=Limits(max_steps=7))
    other = settings.updated(temperature=0.5, max_tokens=9, seed=None, top_p=None)
    assert other == Settings(seed=3, temperature=0.5, limits=Limits(max_steps=7, max_tokens=9))
    assert settings == Settings(seed=3, limits=Limits(max_steps=7))
    with pytest.raises(ConfigurationError, match="temprature"):
        settings.updated(temprature=1)
    with pytest.raises(ConfigurationError, match=r"limits.max_tokens: .*greater than or equal to 1 \(got 0\)"):
        settings.updated(max_tokens=0)
