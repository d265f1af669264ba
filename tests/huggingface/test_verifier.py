"""Process reward models in process: incremental equals full, and nothing else changes a score."""

import asyncio
import math
import random
from pathlib import Path as Folder

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Qwen2ForCausalLM

from rsd_core import ConfigurationError, Path, Step, VerifierError, as_prompt
from rsd_integrations.huggingface import HuggingFaceVerifier, load_likelihood, load_verifier
from tests.conftest import Counter
from tests.huggingface.tiny import copied, make_causal_lm, make_prm, tokenizer

QUESTION = "Mia has 45 apples. On Monday she buys 12 more. How many apples does Mia have now?"
WORDS = ["On Monday she buys 12 more: 45+12=57.\n\n", "She has 57.\n\n", "The answer is \\boxed{57}.", "No.\n\n"]
SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."


def step(text: str) -> Step:
    return Step(text, "delimiter" if text.endswith("\n\n") else "end")


def full(folder: Folder, texts: list[str]) -> list[float]:
    """Rewards after each step by one pass over the whole text, as the model card writes it, on raw tensors."""
    tensors = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
    head = {name: tensor for name, tensor in tensors.items() if name.startswith("score.")}
    body = Qwen2ForCausalLM.from_pretrained(
        None, config=load_verifier(str(folder)).body.config, state_dict=tensors
    ).model.float()
    messages = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": "<extra_0>".join(text.strip("\n") for text in texts) + "<extra_0>"},
    ]
    text = tokenizer().apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
    ids = torch.tensor(tokenizer()(text, add_special_tokens=False)["input_ids"])
    with torch.inference_mode():
        hidden = body(ids[None]).last_hidden_state[0]
        inner = torch.relu(hidden @ head["score.0.weight"].T + head["score.0.bias"])
        logits = inner @ head["score.2.weight"].T + head["score.2.bias"]
    at = ids == tokenizer().get_vocab()["<extra_0>"]
    return [float(p) for p in torch.softmax(logits, -1)[at, 1]]


@pytest.fixture
def prm(tmp_path: Folder) -> Folder:
    return make_prm(tmp_path / "prm")


@pytest.mark.filterwarnings("ignore:.*not initialized.*")
def test_incremental_rewards_equal_a_full_pass(prm: Folder) -> None:
    model = load_verifier(str(prm))
    path, rewards = Path(as_prompt(QUESTION)), []
    for text in WORDS:
        (reward,) = asyncio.run(model.score(path, [step(text)])).rewards
        rewards.append(reward or 0)
        path = path.extend(step(text))
    assert rewards == pytest.approx(full(prm, WORDS), abs=1e-5)
    assert max(rewards) - min(rewards) > 1e-3


@pytest.mark.parametrize("seed", range(5))
def test_order_rollback_and_later_text_never_change_a_reward(prm: Folder, seed: int, counted: Counter) -> None:
    model = load_verifier(str(prm))
    counted.watch("model", model.body)
    rng = random.Random(seed)
    path, computed = Path(as_prompt(QUESTION)), 0
    for _ in range(15):
        candidates = [step(rng.choice(WORDS)) for _ in range(rng.randint(1, 3))]
        scores = asyncio.run(model.score(path, candidates))
        computed += scores.usage.computed
        for candidate, reward in zip(candidates, scores.rewards, strict=True):
            (fresh,) = asyncio.run(load_once(prm).score(copied(path), [candidate])).rewards
            assert reward == pytest.approx(fresh, abs=1e-5)
        move = rng.random()
        if move < 0.6 and path.depth < 8:
            path = path.extend(rng.choice([*candidates, step(WORDS[1])]))
        elif path.parent is not None:
            path = path.parent
    assert counted.tokens["model"] == computed


_loaded: dict[Folder, HuggingFaceVerifier] = {}


def load_once(folder: Folder) -> HuggingFaceVerifier:
    if folder not in _loaded:
        _loaded[folder] = load_verifier(str(folder))
    return _loaded[folder]


def test_only_what_is_new_is_read(prm: Folder) -> None:
    model = load_verifier(str(prm))
    path = Path(as_prompt(QUESTION))
    first = asyncio.run(model.score(path, [step(WORDS[0])])).usage
    second = asyncio.run(model.score(path.extend(step(WORDS[0])), [step(WORDS[1])])).usage
    assert second.reused == first.prefix
    assert second.computed == second.scored == second.prefix - first.prefix
    assert first.scored < first.computed  # the prompt is computed once and is not part of the answer


def test_the_embedded_verifier_reads_incrementally(verifier: HuggingFaceVerifier, questions: list[str]) -> None:
    for question in questions[:20]:
        path = Path(as_prompt(question))
        for text in WORDS:
            (reward,) = asyncio.run(verifier.score(path, [step(text)])).rewards
            (fresh,) = asyncio.run(verifier.score(copied(path), [step(text)])).rewards
            assert reward == pytest.approx(fresh, abs=1e-4)
            path = path.extend(step(text))


def test_a_missing_head_is_an_error_and_never_a_random_head(tmp_path: Folder) -> None:
    with pytest.raises(ConfigurationError, match="contains no known reward head"):
        load_verifier(str(make_prm(tmp_path / "headless", head=False)))
    named = make_prm(tmp_path / "named", head=False, prm_format="qwen2.5-math-prm")
    with pytest.raises(ConfigurationError, match=r"score\.0.*missing"):
        load_verifier(str(named))


def test_a_language_model_is_not_a_reward_model(tmp_path: Folder) -> None:
    with pytest.raises(ConfigurationError, match="plain language model"):
        load_verifier(str(make_causal_lm(tmp_path / "lm")))


def test_a_tokenizer_without_the_separator_is_refused(prm: Folder) -> None:
    text = (prm / "tokenizer.json").read_text().replace("<extra_0>", "<extra_1>")
    (prm / "tokenizer.json").write_text(text)
    config = (prm / "tokenizer_config.json").read_text().replace("<extra_0>", "<extra_1>")
    (prm / "tokenizer_config.json").write_text(config)
    with pytest.raises(ConfigurationError, match="<extra_0>"):
        load_verifier(str(prm))


def test_an_overlong_solution_is_a_fault_of_the_verifier(prm: Folder) -> None:
    with pytest.raises(VerifierError, match="context"):
        asyncio.run(load_verifier(str(prm)).score(Path(as_prompt(QUESTION)), [step("apples " * 300)]))


def test_the_likelihood_verifier_equals_a_full_pass(tmp_path: Folder) -> None:
    folder = make_causal_lm(tmp_path / "lm", initializer_range=0.05)
    model = load_likelihood(str(folder))
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    path = Path(as_prompt(QUESTION))
    for text in WORDS:
        (reward,) = asyncio.run(model.score(path, [step(WORDS[3]), step(text)])).rewards[1:]
        before = model.vocabulary.ids(path)[0]
        ids = [*before, *model.vocabulary.encode(text)]
        with torch.inference_mode():
            logits = reference(torch.tensor([ids])).logits[0].log_softmax(-1)
        wanted = min(float(logits[i - 1, ids[i]]) for i in range(len(before), len(ids)))
        assert reward == pytest.approx(math.exp(wanted), rel=1e-4)
        path = path.extend(step(text))
