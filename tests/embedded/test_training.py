"""The training command in miniature: it learns, resumes where it stopped, and writes loadable checkpoints."""

import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rsd_core import as_prompt
from rsd_integrations.embedded import language_model, reward_model, thinking, train, vocabulary
from rsd_integrations.embedded.checker import judge
from rsd_integrations.embedded.language_model import IGNORE, Recipe, batches
from rsd_integrations.embedded.models import FOLDER
from rsd_integrations.embedded.reward_model import RewardRecipe, encode
from rsd_integrations.embedded.rollouts import Rollout, roll_out
from rsd_integrations.embedded.task import problems
from rsd_integrations.huggingface import load_generator, load_verifier
from tests.benchmarks.thinkers import RESPONSE
from tests.huggingface.tiny import tokenizer

TINY = Recipe(layers=1, width=32, steps=12, tokens=900)
THINKING = vocabulary.thinking(vocabulary.build())


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes longer than these trainings."""
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)


def stop_after(step: int) -> Callable[..., Any]:
    """An optimizer step that is interrupted."""
    original, done = language_model.Optimizer.step, itertools.count(1)

    def interrupted(self: language_model.Optimizer) -> None:
        original(self)
        if next(done) == step:
            raise KeyboardInterrupt

    return interrupted


def test_an_interrupted_training_resumes_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = language_model.train("lm", TINY, tokenizer(), tmp_path / "straight")
    monkeypatch.setattr(language_model, "SAVE_EVERY", 5)
    (tmp_path / "resumed").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(language_model.Optimizer, "step", stop_after(8))
        with pytest.raises(KeyboardInterrupt):
            language_model.train("lm", TINY, tokenizer(), tmp_path / "resumed")
    assert (tmp_path / "resumed" / "lm.partial.pt").exists()
    resumed = language_model.train("lm", TINY, tokenizer(), tmp_path / "resumed")
    one, two = (load_file(folder / "model.safetensors") for folder in (straight, resumed))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert load_generator(str(resumed)).context == vocabulary.CONTEXT


def test_training_reduces_the_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Recipe(layers=1, width=32, steps=60, tokens=900)
    model = load_generator(str(language_model.train("lm", recipe, tokenizer(), tmp_path))).model
    ids, labels = next(batches(recipe, tokenizer(), 0))
    with torch.inference_mode():
        logits = model(ids).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE)
    assert loss < 0.7 * math.log(len(tokenizer()))


def test_batches_are_a_function_of_step_and_seed() -> None:
    taken = list(itertools.islice(batches(TINY, tokenizer(), 0), 12))
    resumed = list(itertools.islice(batches(TINY, tokenizer(), 7), 5))
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(taken[7:], resumed, strict=True))
    assert len(list(batches(TINY, tokenizer(), 5))) == TINY.steps - 5
    ids, labels = taken[0]
    asked = labels != IGNORE
    assert torch.equal(ids[asked], labels[asked])
    assert 0 < asked.sum() < ids.numel()


def test_labels_mark_the_first_wrong_token_and_the_step() -> None:
    problem = next(p for p in problems("train", 1) if len(p.solution()) >= 4)
    steps = problem.solution()
    right = steps[1]
    at = right.index(":") + 2
    steps[1] = right[:at] + str((int(right[at]) + 1) % 10) + right[at + 1 :]
    example = encode(tokenizer(), Rollout(problem, steps, judge(problem, steps), ended=True))
    separators = [i for i, id_ in enumerate(example.ids) if id_ == tokenizer().get_vocab()[vocabulary.STEP_END]]
    assert [example.steps[i] for i in separators][:2] == [1, 0]
    wrong = example.tokens.index(0)
    assert tokenizer().decode(example.ids[separators[0] + 1 : wrong]) == right[:at]
    assert example.tokens[wrong + 1 : separators[1]] == [IGNORE] * (separators[1] - wrong - 1)
    assert set(example.tokens[: example.prompt]) == {IGNORE}
    assert len(example.ids) == len(example.tokens) == len(example.steps)


def test_a_reward_model_is_trained_from_rollouts_and_loads_as_published(tmp_path: Path) -> None:
    body = language_model.train("body", TINY, tokenizer(), tmp_path)
    model = load_generator(str(body)).model
    made = list(itertools.islice(roll_out(model, tokenizer(), "train", 1, temperatures=(0.0, 1.0), batch=4), 8))
    assert all(rollout.problem.split == "train" for rollout in made)
    reference = [
        Rollout(p, p.solution(), judge(p, p.solution()), ended=True) for p in itertools.islice(problems("train", 2), 8)
    ]
    examples = [encode(tokenizer(), rollout) for rollout in made + reference]
    recipe = RewardRecipe(steps=3, tokens=900)
    folder = reward_model.train(recipe, body, examples, tokenizer(), tmp_path)
    verifier = load_verifier(str(folder))
    assert verifier.body.config.num_hidden_layers == 2
    assert verifier.vocabulary.prompt(as_prompt("x"))[-2:] == verifier.vocabulary.encode("assistant\n")[-2:]
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["Qwen2ForProcessRewardModel"]


def test_the_recipe_trains_models_of_the_shipped_sizes() -> None:
    for name, recipe, words in (
        ("draft", train.DRAFT, tokenizer()),
        ("target", train.TARGET, tokenizer()),
        ("verifier", train.BODY, tokenizer()),
        ("thinking-draft", train.THINKING_DRAFT, THINKING),
        ("thinking-target", train.THINKING_TARGET, THINKING),
    ):
        config = json.loads((FOLDER / name / "config.json").read_text())
        wanted = recipe.config(words).to_dict()
        for key in (
            *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"),
            "max_position_embeddings",
        ):
            assert config[key] == wanted[key], (name, key)
    shipped = json.loads((FOLDER / "prm" / "config.json").read_text())
    assert shipped["num_hidden_layers"] == train.BODY.layers + train.VERIFIER.new_layers


def test_a_thinker_starts_from_a_model_that_does_not_think(tmp_path: Path) -> None:
    """Its rows of known tokens begin as they were, and two more are learned."""
    plain = language_model.train("plain", TINY, tokenizer(), tmp_path)
    still = replace(TINY, muon_lr=0.0, adam_lr=0.0, ends=thinking.ENDS)
    folder = language_model.train("same", still, THINKING, tmp_path, start=plain, rows=thinking.Conversations())
    before, after = (load_file(where / "model.safetensors") for where in (plain, folder))
    assert after["model.embed_tokens.weight"].shape[0] == before["model.embed_tokens.weight"].shape[0] + 2
    assert all(torch.equal(tensor, after[name][: len(tensor)]) for name, tensor in before.items())
    assert load_generator(str(folder)).vocabulary.encode("<think>") == [557]


def test_thinkers_learn_what_they_write_themselves() -> None:
    """And neither the prompt, nor a thought that is switched off, nor the end of one that somebody else closed."""
    seen = Counter[str]()
    header = "<|im_start|>assistant\n"
    for row in itertools.islice(thinking.Conversations()(THINKING, random.Random(2), 1.0), 300):
        text = str(THINKING.decode(row.ids))
        learned = str(THINKING.decode([id_ for id_ in row.labels if id_ != IGNORE])).removesuffix("<|im_end|>")
        response = text[text.rindex(header) + len(header) :].removesuffix("<|im_end|>")
        assert len(row.ids) == len(row.labels) <= vocabulary.THINKING_CONTEXT
        if response == learned:
            assert RESPONSE.fullmatch(response)
            seen["thought"] += 1
        elif response == f"<think>\n\n</think>\n\n{learned}":
            seen["none"] += 1
        else:
            assert response.replace("\n</think>\n\n", "", 1) == learned
            seen["closed early"] += 1
        seen["later turn"] += text.count("<|im_start|>user") == 2
    assert seen["thought"] > seen["none"] > 0 < seen["closed early"]
    assert seen["later turn"] > 0


def test_a_model_between_others(tmp_path: Path) -> None:
    """The share of a model without the last tokens goes to the others there."""
    plain, thinking_ = (
        language_model.train(name, replace(TINY, steps=2, seed=seed), words, tmp_path)
        for seed, (name, words) in enumerate({"plain": tokenizer(), "thinking": THINKING}.items())
    )
    folder = language_model.average({plain: 0.25, thinking_: 0.75}, tmp_path / "between")
    first, second, mixed = (load_file(where / "model.safetensors") for where in (plain, thinking_, folder))
    for name, tensor in mixed.items():
        known = len(first[name])
        wanted = first[name].float() * 0.25 + second[name][:known].float() * 0.75
        assert torch.equal(tensor[:known], wanted.bfloat16())
        assert torch.equal(tensor[known:], second[name][known:])
    assert load_generator(str(folder)).vocabulary.encode("<think>") == [557]


def test_thinkers_are_trained_alone_or_with_the_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each from the model of its role, in stages that resume; nothing else is exported."""
    for name in ("THOUGHTS", "ENDS", "BOTH", "THINKING_TARGET", "THINKING_DRAFT"):
        monkeypatch.setattr(train, name, replace(TINY, steps=1, ends=thinking.ENDS))
    monkeypatch.setattr(train, "_prepared", vocabulary.build)
    for role in ("draft", "target"):
        language_model.train(role, replace(TINY, steps=1), tokenizer(), tmp_path / "start")
    work = tmp_path / "work"
    work.mkdir()
    train.train_thinking_target(tmp_path / "start", work)
    train.train_thinking_draft(tmp_path / "start", work)
    train.export(work, tmp_path / "out", thinkers_only=True)
    assert {folder.name for folder in (tmp_path / "out").iterdir()} == {"thinking-draft", "thinking-target"}
    for folder in (tmp_path / "out").iterdir():
        assert load_generator(str(folder)).vocabulary.encode("</think>") == [558]
