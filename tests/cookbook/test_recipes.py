"""The recipes: those for thinking models run; configurations with real servers are only parsed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rsd_core import Result, RewardGuidedDecoder, RSDConfig
from rsd_integrations.embedded.task import problems
from tests.cookbook.build import FOLDER

RECIPES = FOLDER / "recipes"
CONFIGURATIONS = sorted(file for file in RECIPES.glob("*.yaml") if "\ndrafter:" in f"\n{file.read_text()}")
THINKING = sorted(file for file in CONFIGURATIONS if "embedded:thinking-" in file.read_text())
SERVING = sorted(set(RECIPES.glob("*.yaml")) - set(CONFIGURATIONS))


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reward models behind servers need the tokenizer of their model; the family's stands in for it."""
    from transformers import AutoTokenizer

    from rsd_integrations.embedded.models import FOLDER as FAMILY

    original: Any = AutoTokenizer.from_pretrained
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *_, **options: original(FAMILY / "prm"))


@pytest.mark.parametrize("file", CONFIGURATIONS, ids=lambda file: file.stem)
@pytest.mark.usefixtures("no_hub")
def test_a_configuration_makes_a_decoder(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PROVIDER_KEY", "OPENAI_API_KEY", "GATEWAY_KEY"):
        monkeypatch.setenv(name, "not-a-key")
    with RSDConfig.parse(yaml.safe_load(file.read_text())).build() as decoder:
        assert isinstance(decoder, RewardGuidedDecoder)
        assert "not-a-key" not in repr(decoder.models)


def authors(result: Result, kind: str) -> set[str]:
    """Who wrote the steps of a part of the response."""
    return {step.author for step in result.steps if step.kind == kind}


@pytest.mark.parametrize("file", THINKING, ids=lambda file: file.stem)
def test_a_recipe_for_thinking_models_runs(file: Path) -> None:
    """Both parts are there, markers are not in the answer, and the correct model wrote each part."""
    asked = [problem for _, problem in zip(range(4), problems("test", 2), strict=False)]
    with RSDConfig.parse(yaml.safe_load(file.read_text())).build() as decoder:
        results = decoder.run_many([problem.question for problem in asked])
    for result in results:
        assert result.finish_reason == "stop"
        assert [step.kind for step in result.steps] == sorted([step.kind for step in result.steps], reverse=True)
        assert result.thought
        unanswered = [item.kind for item in result.degradations if item.kind == "no_answer"]
        assert bool(result.text) != bool(unanswered)
        if unanswered:  # models this small forget to close a thought now and then
            continue
        assert "think>" not in result.thought + result.text
        thought, answer = authors(result, "thought"), authors(result, "answer")
        by_target = [step.author == "target" for step in result.steps]
        scored = result.ledger.verifier.calls
        match file.stem:
            case "drafter-thinks":
                assert (thought, answer, scored) == ({"draft"}, {"target"}, 0)
            case "target-thinks":
                assert (thought, answer, scored) == ({"target"}, {"draft"}, 0)
            case "first-steps":
                assert (by_target[:2], any(by_target[2:]), scored) == ([True, True], False, 0)
            case "glimprouter":
                assert (scored, result.ledger.drafter.discarded) == (0, 0)
            case "speccot":
                assert result.ledger.drafter.discarded > 0 < scored
                assert {item.kind for item in result.degradations} <= {"verifier_error", "no_answer"}
            case "specreason" | "thinking":
                assert scored >= len(result.steps)
            case _:
                raise AssertionError(f"{file.stem}: say here what it should do")
    assert sum(result.answer == str(problem.answer) for problem, result in zip(asked, results, strict=True)) >= 2


def test_the_recipes_are_those_of_the_concept_page() -> None:
    kinds = {RSDConfig.parse(yaml.safe_load(file.read_text())).method.model_dump()["kind"] for file in THINKING}
    assert kinds == {"rsd", "specreason", "first_steps", "drafter_thinks", "target_thinks", "glimprouter", "speccot"}
    page = (FOLDER.parent / "docs" / "concepts" / "thinking.md").read_text()
    assert all(f"| `{kind}" in page for kind in kinds - {"rsd"})


def test_every_file_is_mentioned_and_serving_files_name_the_models_of_the_configuration() -> None:
    page = (RECIPES / "README.md").read_text()
    assert all(f"]({file.name})" in page for file in (*CONFIGURATIONS, *SERVING, RECIPES / "Containerfile"))
    replicas = RSDConfig.parse(yaml.safe_load((RECIPES / "replicas.yaml").read_text()))
    ray = yaml.safe_load((RECIPES / "ray-serve.yaml").read_text())
    models, rsd = ray["applications"]
    own = RSDConfig.parse(rsd["args"])
    served = [one["model_loading_config"] for one in models["args"]["llm_configs"]]
    assert all(one["model_id"] == one["model_source"] for one in served)
    url = f"http://127.0.0.1:{ray['http_options']['port']}{models['route_prefix']}/v1"
    assert [f"{one['model_id']}@{url}" for one in served] == [
        spec.partition(":")[2] for spec in (own.drafter, own.target)
    ]
    assert own.verifier.partition(":")[2] == replicas.verifier.partition(":")[2].partition("@")[0]
    assert own.policy == replicas.policy
