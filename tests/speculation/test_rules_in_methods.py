"""Rules and proposers by their names: in methods, configurations and adapters, refused before a model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rsd_core import ConfigurationError, RSDConfig, Settings, SpeculativeDecoding, TargetOnly, load
from rsd_core.methods import parse_method
from rsd_integrations.evaluation.tasks import find_task
from rsd_integrations.langchain import ChatRSD
from rsd_integrations.speculation.corrections import Corrections
from rsd_integrations.speculation.ngram_table import count
from rsd_integrations.speculation.parsing import parse_rule
from rsd_integrations.speculation.relaxed import Relaxed
from rsd_integrations.speculation.rules import Exact

QUESTION = "Ben has 20 cards. Then he buys 12 more. How many cards does Ben have now?"


def test_a_method_has_rule_and_proposer_as_text_and_as_data() -> None:
    text = parse_method("speculative:proposer=lookup,rule=(typical:epsilon=0.1,delta=0.2),draft_length=8")
    data = {
        "kind": "speculative",
        "proposer": {"kind": "lookup", "n": 3},
        "rule": {"kind": "typical", "epsilon": 0.1, "delta": 0.2},
        "draft_length": 8,
    }
    target = {"target": "embedded:target", "settings": {"limits": {"max_tokens": 60}}}
    results = [RSDConfig.parse({**target, "method": method}).build().run(QUESTION) for method in (text, data)]
    assert results[0].text == results[1].text
    assert results[0].ledger.drafter.calls == 0
    assert parse_method(text.model_dump()) == text


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("speculative:rule=typicl", "did you mean 'typical'"),
        ("speculative:rule=(typical:epsilon=0.1,delta=-1)", "delta: Input should be greater than or equal to 0"),
        ("speculative:rule=typical:0.1,0.2", "gives rule twice; put a value with commas in parentheses"),
        ("speculative:proposer=ngram:/no/such", "rsd ngrams"),
        ("speculative:draft_length=0", "draft_length"),
        ("speculative:rule=fly:9,draft_length=3", "draft_length=3 is too short for FLy"),
        ("speculative:rule=fly:9,draft_length=3", "give at least draft_length=10, or a smaller window"),
        ("speculative:looking", "did you mean 'lookup'? known are drafter, lookup, ngram"),
        ("speculative_beams:65", "less than or equal to 64"),
        ("speculative_beams:confidence=0", "greater than 0"),
    ],
)
def test_errors_are_reported_before_a_model_is_loaded(method: str, said: str) -> None:
    config = {"drafter": "hf:/no/such/model", "target": "hf:/no/such/model", "method": method}
    with pytest.raises(ConfigurationError) as caught:
        RSDConfig.parse(config)
    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["speculate", "speculate_drafts"])
def test_settings_refuse_what_proposes_nothing(name: str) -> None:
    """Before a model is loaded, wherever settings come from."""
    config = {"drafter": "hf:/no/such/model", "target": "hf:/no/such/model", "settings": {name: "lookups"}}
    with pytest.raises(ConfigurationError, match=rf"{name}: unknown proposer 'lookups', did you mean 'lookup'\?"):
        RSDConfig.parse(config)
    with pytest.raises(ConfigurationError, match=rf"{name}: 'lookup:n=99' is not a valid proposer: n: .* equal to 16"):
        Settings().updated(**{name: "lookup:n=99"})
    with pytest.raises(ConfigurationError, match=f"{name}: .* there is no n-gram table '/no/such'; `rsd ngrams`"):
        Settings().updated(**{name: "ngram:/no/such"})
    assert getattr(Settings().updated(**{name: "lookup:n=2"}), name) == "lookup:n=2"


def test_an_adapter_takes_them() -> None:
    models: dict[str, Any] = {"draft": "embedded:draft", "target": "embedded:target"}
    chat = ChatRSD(**models, decoder="speculative:rule=relaxed")
    assert "32" in chat.invoke(QUESTION).text


def test_files_of_another_vocabulary_are_refused(tmp_path: Path) -> None:
    table, memory = tmp_path / "table.safetensors", tmp_path / "corrections.json"
    count([[1, 2, 3]], "another", 10).save(table)
    Corrections("another", {(1, 2): 9}).save(memory)
    drafter, target = load("embedded:draft"), load("embedded:target")
    for proposer, rule in ((f"ngram:{table}", "exact"), ("drafter", f"csd:{memory}")):
        with pytest.raises(ConfigurationError, match="made with a vocabulary other than that of"):
            SpeculativeDecoding(drafter=drafter, target=target, proposer=proposer, rule=rule)


def test_drafts_are_long_enough_for_their_rule() -> None:
    models: dict[str, Any] = {"drafter": load("embedded:draft"), "target": load("embedded:target")}
    with pytest.raises(ConfigurationError, match=r"draft_length=6 is too short for FLy.* needs 7 tokens in a row"):
        SpeculativeDecoding(**models, rule="fly", draft_length=6)
    lengths = {"exact": 5, "fly": 7, "fly:window=3": 5, "fly:12": 13}
    for rule, length in lengths.items():
        assert SpeculativeDecoding(**models, rule=rule).speculation.draft_length == length
    never = parse_method("speculative:rule=(fly:entropy=1.1)").build(RSDConfig().setup())
    assert never.run(QUESTION).text == TargetOnly(target=models["target"]).run(QUESTION).text


def test_a_rule_for_thoughts_leaves_answers_alone() -> None:
    rule = parse_rule("relaxed:thoughts_only=true")
    assert rule.within(thought=True) is rule
    assert rule.within(thought=False) == Exact()
    assert Relaxed().within(thought=False) == Relaxed()
    drafter, target = load("embedded:thinking-draft"), load("embedded:thinking-target")
    loose = parse_rule("relaxed:k=40,ratio=0,thoughts_only=true")
    result = SpeculativeDecoding(drafter=drafter, target=target, rule=loose).run(QUESTION)
    both = SpeculativeDecoding(drafter=drafter, target=target, rule="relaxed:k=40,ratio=0").run(QUESTION)
    assert result.thought  # whatever the drafter proposed stands there
    assert result.ledger.target.overridden <= both.ledger.target.overridden


@pytest.mark.parametrize("proposer", ["lookup", "ngram", "ngram:tree=true"])
def test_proposers_without_a_model_change_nothing(proposer: str) -> None:
    target, settings = load("embedded:target"), Settings(temperature=0.8, seed=3)
    items = find_task("embedded").draw(2, 2)
    own = TargetOnly(target=target, settings=settings).run_many([item.prompt for item in items])
    sped = SpeculativeDecoding(target=target, settings=settings, proposer=proposer).run_many(
        [item.prompt for item in items]
    )
    assert [result.text for result in sped] == [result.text for result in own]
    assert sum(result.ledger.target.discarded for result in sped) > 0
