"""Published weights on a small task: its grading, its data, and the recipe that `make run-real` runs."""

from __future__ import annotations

import json
from itertools import product

import pytest
import yaml

from rsd_core import RSDConfig
from rsd_core.testing import ScriptedDrafter, ScriptedTarget
from rsd_integrations.evaluation import evaluate
from tests.benchmarks import nouns, real
from tests.cookbook.build import FOLDER

RECIPE, DATA = FOLDER / "recipes" / "real-models.yaml", FOLDER / "recipes" / "nouns.jsonl"


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        *[("dog", "dogs"), ("day", "days"), ("city", "cities"), ("box", "boxes"), ("church", "churches")],
        *[("human", "humans"), ("woman", "women"), ("old man", "old men"), ("wife", "wives"), ("roof", "roofs")],
        *[("stairs", "stairs"), ("mice", "mice"), ("glass", "glasses"), ("tomato", "tomatoes"), ("quay", "quays")],
    ],
)
def test_plurals_are_spelled_as_usual(noun: str, expected: str) -> None:
    assert nouns.plural(noun) == expected


def test_a_step_is_right_where_it_stands() -> None:
    forest = nouns.Noun("German", "Wald", ("forest", "woods"))
    assert nouns.steps_right(forest, " Woods\nPlural: woods\n\n") == (True, True)
    assert nouns.steps_right(forest, " tree\nPlural: trees\n") == (False, True)
    assert nouns.steps_right(forest, " forest\nPlural: forest\n") == (True, False)
    assert nouns.steps_right(forest, " forest\nGerman: Baum\n") == (True, False)
    assert nouns.steps_right(forest, "") == (False, False)
    assert forest.solved(" forest\nPlural: forests")
    assert not forest.solved(" forest\nPlural: forests\n\nGerman: Baum")


def test_thresholds_are_chosen_on_nouns_that_nobody_is_asked_for_later() -> None:
    dev, test = nouns.split("dev"), nouns.split("test")
    assert len(test) >= real.SIZES["n"].full >= 500
    assert len(dev) >= real.SIZES["dev"].full
    assert not {(noun.language, noun.word) for noun in dev} & {(noun.language, noun.word) for noun in test}
    shown = {(language, word) for language, words in nouns.SHOWN.items() for word in words}
    assert not shown & {(noun.language, noun.word) for noun in (*dev, *test)}
    assert {noun.language for noun in test[:6]} == set(nouns.SHOWN)  # a sample has all languages


def test_the_figures_of_a_run_compare_with_the_target() -> None:
    asked = [nouns.Noun("German", word, meanings) for word, meanings in (("Hund", ("dog",)), ("Wald", ("forest",)))]
    models = real.Models(ScriptedDrafter([" dog\n", "Plural: dog\n"]), ScriptedTarget([" dog\n", "Plural: dogs\n"]), {})
    runs = {name: real.run(decoder, asked, name) for name, decoder in models.alone().items()}
    found = real.figures(runs, asked)
    assert found["target"]["accuracy"] == 0.5
    assert found["target"]["target_share"] == 1.0
    assert found["target"]["ci95"] == pytest.approx([0.09, 0.91], abs=0.01)
    assert (found["draft"]["translations_right"], found["draft"]["plurals_right"]) == (0.5, 0.0)
    assert found["draft"]["difference"] == -0.5


def test_the_area_under_the_curve_counts_pairs() -> None:
    scored = [[(0.9, True), (0.4, False)], [(0.4, True)], [], [(0.7, False), (0.2, True)]]
    right, wrong = [0.9, 0.4, 0.2], [0.4, 0.7]
    pairs = [(a > b) + (a == b) / 2 for a, b in product(right, wrong)]
    found = real.separation(scored)
    assert found["auc"] == pytest.approx(sum(pairs) / len(pairs))
    assert (found["steps"], found["right"], found["median_if_right"]) == (5, 3, 0.4)
    assert real.separation([[(0.5, True)]])["auc"] is None


def test_the_data_of_the_recipe_are_the_first_nouns() -> None:
    assert [json.loads(line) for line in DATA.read_text().splitlines()] == nouns.rows(30)


def test_the_recipe_runs_on_published_weights() -> None:
    """A draft and a step of the target, each begun where the prompt's last message ends."""
    config = RSDConfig.parse(yaml.safe_load(RECIPE.read_text()))
    task = f"dataset:{DATA},system="
    report = evaluate(config, task, ["rsd", "target"], n=3, seed=0)
    for method, outcomes in report.outcomes.items():
        for outcome in outcomes.values():
            first, second = outcome.text.strip().split("\n")
            assert first.isalpha(), outcome.text
            assert second.startswith(nouns.LABEL), (method, outcome.text)
            assert outcome.finish_reason in ("max_steps", "stop")  # SmolLM2 may end by itself
    rsd = report.methods["rsd"]
    assert 0 < rsd.by_target < rsd.steps == 6
