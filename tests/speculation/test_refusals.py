"""Who cannot speculate is told so, by the role and with what can, before any weights are loaded."""

from __future__ import annotations

from pathlib import Path as File
from typing import Any

import pytest

from rsd_core import (
    ConfigurationError,
    RewardGuidedDecoder,
    RSDConfig,
    Settings,
    Speculation,
    SpeculativeBeams,
    SpeculativeDecoding,
    load,
)
from rsd_core.methods import Setup, parse_method
from rsd_core.testing import ScriptedTarget, ScriptedVerifier
from rsd_integrations.evaluation import evaluate
from rsd_integrations.huggingface import HuggingFaceGenerator, load_generator
from rsd_integrations.langchain import ChatRSD
from rsd_integrations.speculation.parsing import parsed
from tests.cli.test_cli import rsd
from tests.huggingface.tiny import make_causal_lm

GGUF, SERVER, HF = "gguf:./no-such.gguf", "openai:model@http://127.0.0.1:9/v1", "hf:./no-such"
LOOKUP, DRAFTER, DRAFTS = {"speculate": "lookup"}, {"speculate": "drafter"}, {"speculate_drafts": "lookup"}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"target": GGUF, "settings": LOOKUP}, f"the target '{GGUF}' cannot verify proposed tokens.*hf: or embedded:"),
    ({"target": GGUF, "drafter": HF, "settings": DRAFTER}, "the target 'gguf:.*A GGUF model can only draft for others"),
    ({"target": SERVER, "settings": DRAFTER}, "the target 'openai:.*a server speculates by its own settings"),
    ({"target": "langchain:openai:gpt-5-nano", "settings": LOOKUP}, "the target 'langchain:.*cannot verify proposed"),
    ({"target": HF, "drafter": SERVER, "settings": DRAFTER}, "the drafter 'openai:.*cannot propose tokens.*'lookup'"),
    ({"target": HF, "drafter": GGUF, "settings": DRAFTS}, "the drafter 'gguf:.*cannot verify proposed tokens"),
    ({"target": HF, "thoughts": {"target": GGUF}, "settings": LOOKUP}, "the target 'gguf:.*cannot verify proposed"),
    ({"target": GGUF, "method": "speculative"}, "the target 'gguf:.*cannot verify proposed tokens"),
    ({"target": SERVER, "method": "speculative:lookup"}, "the target 'openai:.*those of 'lookup'"),
    ({"target": HF, "drafter": SERVER, "method": "speculative"}, "the drafter 'openai:.*cannot propose tokens"),
    ({"target": GGUF, "method": "speculative_beams:4", "settings": {"temperature": 0.7}}, "the target 'gguf:"),
]


@pytest.mark.parametrize(("data", "said"), REFUSED)
def test_specs_are_refused_before_a_model_is_loaded(data: dict[str, Any], said: str) -> None:
    def load(model: Any) -> Any:
        raise AssertionError(f"{model} is loaded")

    config = RSDConfig.parse(data)
    with pytest.raises(ConfigurationError, match=f"(?s){said}"):
        config.method.build(config.setup(load))


@pytest.mark.parametrize("method", ["speculative", "speculative:lookup", "rsd"])
def test_names_that_a_setup_loads_itself_are_not_refused(
    method: str, draft: HuggingFaceGenerator, target: HuggingFaceGenerator
) -> None:
    models = {"small": draft, "large": target, "judge": ScriptedVerifier([1.0])}
    setup = Setup("small", "judge", "large", settings=Settings(speculate="lookup"), load=models.__getitem__)
    assert target in parse_method(method).build(setup).models


def test_a_gguf_model_may_draft() -> None:
    config = RSDConfig.parse({"target": HF, "drafter": GGUF, "settings": DRAFTER})
    with pytest.raises(ConfigurationError, match="no-such"):  # when it is loaded
        config.build()


def test_frameworks_and_commands_say_the_same() -> None:
    chat = ChatRSD(draft="embedded:draft", verifier="embedded:verifier", target=GGUF, settings=Settings(**LOOKUP))
    with pytest.raises(ConfigurationError, match=r"the target 'gguf:.*cannot verify proposed tokens"):
        chat.invoke("How many?")
    for words in (
        ("run", "How many?", "--target", GGUF, "--method", "speculative:lookup"),
        ("eval", "--n", "1", "--target", GGUF, "--methods", "speculative:lookup"),
        ("run", "How many?", "--draft", "embedded:draft", "--target", SERVER, "--method", "speculative"),
    ):
        with pytest.raises(ConfigurationError, match=r"the target '(gguf|openai):.*cannot verify proposed tokens"):
            rsd(*words)


def test_objects_are_refused_by_their_role(draft: HuggingFaceGenerator) -> None:
    target = ScriptedTarget(["x"])
    with pytest.raises(ConfigurationError, match=r"the target .*cannot verify proposed tokens"):
        SpeculativeDecoding(drafter=draft, target=target)
    with pytest.raises(ConfigurationError, match=r"the target .*those of 'lookup'"):
        RewardGuidedDecoder(
            drafter=draft, verifier=ScriptedVerifier([1.0]), target=target, settings=Settings(speculate="lookup")
        )


def test_a_rule_that_compares_what_is_drawn_needs_a_drafter_that_draws(
    draft: HuggingFaceGenerator, target: HuggingFaceGenerator
) -> None:
    with pytest.raises(ConfigurationError, match=r"compares distributions, but Lookup.* has none"):
        parsed(Speculation("lookup", "easd"))
    with pytest.raises(ConfigurationError, match=r"give settings with a temperature above 0 \(got 0\)"):
        SpeculativeDecoding(drafter=draft, target=target, rule="easd")
    other = load("embedded:thinking-draft", role="drafter")
    with pytest.raises(ConfigurationError, match="distributions over one vocabulary"):
        SpeculativeDecoding(drafter=other, target=target, rule="easd", settings=Settings(temperature=1.0))
    SpeculativeDecoding(drafter=draft, target=target, rule="easd", settings=Settings(temperature=1.0))


def test_beams_end_where_the_drafter_reads_no_further(tmp_path: File, caplog: pytest.LogCaptureFixture) -> None:
    target, drafter = (
        load_generator(str(make_causal_lm(tmp_path / str(context), max_position_embeddings=context)))
        for context in (256, 64)
    )
    settings = Settings(temperature=0.7, max_step_tokens=16, limits={"max_steps": 12})
    result = SpeculativeBeams(drafter=drafter, target=target, settings=settings).run("1 2 3")
    assert "writes a step without beams" in caplog.text
    assert "reads at most 64" in caplog.text
    assert result.ledger.target.generated > 64


@pytest.mark.parametrize("method", ["speculative", "speculative_beams:2"])
def test_an_evaluation_refuses_before_its_other_methods_run(method: str) -> None:
    config = RSDConfig(drafter="hf:no/such", target="gguf:no/such.gguf")
    with pytest.raises(ConfigurationError, match=r"the target 'gguf:no/such\.gguf' cannot verify proposed tokens"):
        evaluate(config, "embedded", ["draft", method], 1, 1)
