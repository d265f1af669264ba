"""The shipped checkpoints: standard, small, and as good as stated on their card."""

import asyncio
import hashlib
import itertools
import json
from dataclasses import replace
from pathlib import Path as Folder
from typing import Any

import pytest
from scipy import stats

from rsd_core import BinaryStep, Path, RewardGuidedDecoder, Settings, SpecError, Step, TargetOnly, as_prompt, load
from rsd_integrations.embedded.checker import is_right, judge
from rsd_integrations.embedded.models import FOLDER, NAMES
from rsd_integrations.embedded.rollouts import roll_out
from rsd_integrations.embedded.task import problems
from rsd_integrations.huggingface import HuggingFaceGenerator, HuggingFaceLikelihood, HuggingFaceVerifier
from tests.conftest import Counter

RECORDED = {
    "draft": "546bc7a2c2020c008745d5982794244357c0a4f3cac98f5580f80de39c30ad5f",
    "target": "1b2be6dc0cec64490d93eed72357b11ac486a8597f4495f3af18818796a1193f",
    "verifier": "de133e21384f493bf7f2237f6aa4e1669c48cace15c2b55f891bfaf8d19eec9f",
    "prm": "c02a93330fd41e1cbc8487b8d19102c12892862ae9577a3c50c70382f57f6cf5",
}
"""SHA-256 of the models that figures were recorded with."""


@pytest.mark.parametrize("name", RECORDED)
def test_models_behind_recorded_figures_stay_as_they_are(name: str) -> None:
    files = sorted((FOLDER / name).iterdir())
    assert hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest() == RECORDED[name]


def test_the_family_is_small_and_safe() -> None:
    files = [file for file in FOLDER.rglob("*") if file.is_file()]
    assert {file.parent.name for file in files if file.parent != FOLDER} == set(NAMES)
    assert [file.name for file in files if file.parent == FOLDER] == ["prm-exits.safetensors"]
    assert sum(file.stat().st_size for file in files) <= 25e6
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".jinja"}


@pytest.mark.parametrize("name", NAMES)
def test_architectures_are_standard(name: str) -> None:
    config = json.loads((FOLDER / name / "config.json").read_text())
    assert config["model_type"] == "qwen2"
    assert config["hidden_size"] // config["num_attention_heads"] == 32  # CPU model servers take 32 and 64
    assert "auto_map" not in config


def test_one_tokenizer_for_all(
    draft: HuggingFaceGenerator, target: HuggingFaceGenerator, verifier: HuggingFaceVerifier
) -> None:
    assert draft.vocabulary.identity == target.vocabulary.identity == verifier.vocabulary.identity
    assert all(len(draft.vocabulary.encode(digit)) == 1 for digit in "0123456789")
    assert len(draft.vocabulary.encode("2026")) == 4
    assert len(draft.vocabulary.encode("<extra_0>")) == 1


def test_the_task_is_spelled_in_words(draft: HuggingFaceGenerator) -> None:
    """No text of the task falls back to single letters."""
    for problem in itertools.islice(problems("test", 2), 300):
        text = problem.question + "\n" + "".join(problem.solution())
        pieces = [draft.vocabulary.pieces[id_].strip() for id_ in draft.vocabulary.encode(text)]
        assert not [piece for piece in pieces if len(piece) == 1 and piece.isalpha() and piece != b"a"]


def accuracy(model: HuggingFaceGenerator, n: int) -> float:
    tokenizer: Any = model.vocabulary.tokenizer
    rollouts = roll_out(model.model, tokenizer, "test", 5, temperatures=(0.0,), batch=50)
    return sum(is_right(r.problem, "".join(r.steps)) for r in itertools.islice(rollouts, n)) / n


def test_the_target_is_strong_and_the_drafter_is_not(draft: HuggingFaceGenerator, target: HuggingFaceGenerator) -> None:
    strong, weak = accuracy(target, 100), accuracy(draft, 100)
    assert strong >= 0.9
    assert weak <= strong - 0.1


def test_the_verifier_tells_right_steps_from_wrong_ones(
    draft: HuggingFaceGenerator, verifier: HuggingFaceVerifier
) -> None:
    tokenizer: Any = draft.vocabulary.tokenizer
    rollouts = roll_out(draft.model, tokenizer, "test", 6, temperatures=(0.0,), batch=50)
    right: list[float] = []
    wrong: list[float] = []
    for rollout in itertools.islice(rollouts, 200):
        path = Path(as_prompt(rollout.problem.question))
        for text, verdict in zip(rollout.steps, judge(rollout.problem, rollout.steps), strict=False):
            step = Step(text + "\n\n", "delimiter")
            (reward,) = asyncio.run(verifier.score(path, [step])).rewards
            (right if verdict.right else wrong).append(reward or 0)
            path = path.extend(step)
    auc = stats.mannwhitneyu(right, wrong).statistic / (len(right) * len(wrong))
    assert auc >= 0.9


def test_rsd_improves_on_the_drafter_at_a_fraction_of_the_target(
    draft: HuggingFaceGenerator,
    target: HuggingFaceGenerator,
    verifier: HuggingFaceVerifier,
    questions: list[str],
    counted: Counter,
) -> None:
    """And every token on the ledger went through a model, and the other way round."""
    counted.watch("drafter", draft.model)
    counted.watch("verifier", verifier.body)
    counted.watch("target", target.model)
    decoder = RewardGuidedDecoder(drafter=draft, verifier=verifier, target=target, policy=BinaryStep(delta=0.7))
    results = decoder.run_many(questions[:60])
    for role in ("drafter", "verifier", "target"):
        assert counted.tokens[role] == sum(getattr(result.ledger, role).computed for result in results), role
    spent = sum(result.ledger.total.flops_paper or 0 for result in results)
    alone = sum(result.ledger.target_only_flops_paper or 0 for result in results)
    assert spent < alone / 2
    assert 0 < sum(result.target_share for result in results) / 60 < 0.5


def test_batches_of_real_models_change_nothing(
    draft: HuggingFaceGenerator, target: HuggingFaceGenerator, verifier: HuggingFaceVerifier, questions: list[str]
) -> None:
    decoder = RewardGuidedDecoder(
        drafter=draft, verifier=verifier, target=target, settings=Settings(temperature=0.8, seed=4)
    )
    alone = [decoder.run(question) for question in questions[:12]]
    together = decoder.run_many(questions[11::-1])[::-1]
    assert [result.text for result in together] == [result.text for result in alone]
    for one, other in zip(together, alone, strict=True):
        for mine, its in zip(one.steps, other.steps, strict=True):
            # Sums of other sizes are rounded otherwise.
            assert mine.reward == pytest.approx(its.reward, abs=1e-5)
            assert replace(mine, reward=None) == replace(its, reward=None)


def test_target_only_solves_held_out_problems(target: HuggingFaceGenerator) -> None:
    decoder = TargetOnly(target=target)
    drawn = list(itertools.islice(problems("test", 8), 20))
    assert sum(is_right(problem, decoder.run(problem.question).text) for problem in drawn) >= 17


def test_the_default_verifier_is_what_measures_best(questions: list[str]) -> None:
    """The likelihood verifier, under the name of its role; the trained reward model is another spec."""
    default, trained = load("embedded:verifier"), load("embedded:prm")
    assert isinstance(default, HuggingFaceLikelihood)
    assert isinstance(trained, HuggingFaceVerifier)
    decoder = RewardGuidedDecoder(drafter=load("embedded:draft"), verifier=default, target=load("embedded:target"))
    results = decoder.run_many(questions[:30])
    assert sum(result.target_share for result in results) / 30 < 0.2


def test_the_card_ships_with_the_models() -> None:
    card = (Folder(FOLDER).parent / "MODEL_CARD.md").read_text()
    assert "verifier" in card


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("embedded,exists=true:prm", r"unknown option of embedded:prm 'exists', did you mean 'exits'\? known are"),
        ("embedded,dtyp=int8:draft", r"unknown option of embedded:draft 'dtyp', did you mean 'dtype'\?"),
        ("embedded,exits=true:verifier", "unknown option of embedded:verifier 'exits'.*exits are for embedded:prm"),
    ],
)
def test_an_option_of_another_model_is_refused_with_those_there_are(spec: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load(spec)
