"""The shipped models as they are loaded, without the transformers library, against transformers' own loading."""

import asyncio
import json
import shutil
from pathlib import Path as Folder
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from rsd_core import (
    ConfigurationError,
    Message,
    RewardGuidedDecoder,
    Settings,
    SpeculativeDecoding,
    Step,
    as_prompt,
    load,
)
from rsd_core import Path as StepPath
from rsd_integrations.embedded.models import FOLDER
from rsd_integrations.embedded.task import problems
from rsd_integrations.huggingface import bare_model, load_generator, load_likelihood
from rsd_integrations.huggingface.bare_tokenizer import BareTokenizer

NAMES = ("draft", "target", "verifier", "thinking-draft", "thinking-target")
QUESTIONS = [problem.question for problem, _ in zip(problems("test", 6), range(8), strict=False)]
TEXTS = (
    "",
    "Mia has 45 apples.\n\nHow many?",
    "  spaces\tand\r\nlines ",
    "naïve café ﬁ 数学 🙂 e\u0301",
    "<|im_start|>user\n<extra_0><|im_end|>",
)
CHATS = (
    [("user", "How many apples?")],
    [("system", "Be brief.\n"), ("user", " 1+1? "), ("assistant", "2. \n"), ("user", "{{ 3 }} <b>&</b>")],
    [("user", "How many?"), ("assistant", "On Monday she buys 12 more")],
    [("user", "What does ⟦end⟧ mean?"), ("assistant", "By ⟦end⟧ she means")],
)


@pytest.mark.parametrize("name", NAMES)
def test_a_tokenizer_is_transformers_own(name: str) -> None:
    bare, own = BareTokenizer(FOLDER / name), AutoTokenizer.from_pretrained(FOLDER / name)
    assert bare.get_vocab() == own.get_vocab()
    assert bare.chat_template == own.chat_template
    assert (bare.bos_token, bare.eos_token, bare.bos_token_id, bare.eos_token_id) == (
        *(own.bos_token, own.eos_token),
        *(own.bos_token_id, own.eos_token_id),
    )
    assert set(bare.all_special_ids) == set(own.all_special_ids)
    assert {i: str(token) for i, token in bare.added_tokens_decoder.items()} == {
        i: str(token) for i, token in own.added_tokens_decoder.items()
    }
    for text in (*TEXTS, *QUESTIONS):
        for special in (True, False):
            ids = own(text, add_special_tokens=special)["input_ids"]
            assert bare(text, add_special_tokens=special)["input_ids"] == ids
        assert bare.decode(ids) == own.decode(ids)
        assert bare.decode(ids, skip_special_tokens=True) == own.decode(ids, skip_special_tokens=True)
        assert bare.convert_ids_to_tokens(ids) == own.convert_ids_to_tokens(ids)
    batch = {"return_tensors": "pt", "padding": True}
    assert torch.equal(bare(QUESTIONS, **batch)["input_ids"], own(QUESTIONS, **batch)["input_ids"])


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("options", [{}, {"add_generation_prompt": True}, {"continue_final_message": True}])
def test_a_chat_is_rendered_as_by_transformers(chat: list[tuple[str, str]], options: dict[str, Any]) -> None:
    bare, own = BareTokenizer(FOLDER / "draft"), AutoTokenizer.from_pretrained(FOLDER / "draft")
    messages = [{"role": role, "content": content} for role, content in chat]
    for tokenize in (False, True):
        wanted: Any = own.apply_chat_template(messages, tokenize=tokenize, tools=None, **options)
        assert bare.apply_chat_template(messages, tokenize=tokenize, tools=None, **options) == wanted
    assert messages == [{"role": role, "content": content} for role, content in chat]


def test_messages_that_follow_an_answer_are_tokenised_alike() -> None:
    bare, own = load("embedded:target").vocabulary, load_generator(str(FOLDER / "target")).vocabulary
    after = [Message("user", "Is that right?"), Message("assistant", "It is ")]
    for prompt in map(as_prompt, QUESTIONS):
        assert bare.prompt(prompt) == own.prompt(prompt)
        assert bare.asked(StepPath(prompt), after) == own.asked(StepPath(prompt), after)
    assert bare.identity == own.identity
    assert bare.pieces == own.pieces


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_models_write_and_score_the_same_to_the_bit(dtype: str) -> None:
    def results(models: dict[str, Any]) -> list[Any]:
        decoder = RewardGuidedDecoder(**models, settings=Settings(temperature=0.7, seed=3))
        return [decoder.run(question) for question in QUESTIONS]

    own: dict[str, Any] = {
        "drafter": load_generator(str(FOLDER / "draft"), dtype=dtype),
        "target": load_generator(str(FOLDER / "target"), dtype=dtype),
        "verifier": load_likelihood(str(FOLDER / "verifier"), dtype=dtype),
    }
    bare: dict[str, Any] = {
        role: load(f"embedded:{name}", dtype=dtype)
        for role, name in (("drafter", "draft"), ("target", "target"), ("verifier", "verifier"))
    }
    for role, model in bare.items():
        assert model.flops_per_token == own[role].flops_per_token
        assert model.context == own[role].context
    assert bare["target"].eos_ids == own["target"].eos_ids
    for mine, its in zip(results(bare), results(own), strict=True):
        assert [(s.text, s.author, s.reward) for s in mine.steps] == [(s.text, s.author, s.reward) for s in its.steps]
        assert any(step.author == "target" for step in its.steps) or len(its.steps) > 1


def test_what_only_transformers_does_is_done_by_its_model() -> None:
    target, draft = load("embedded:target"), load("embedded:draft")
    ids = target.vocabulary.prompt(as_prompt(QUESTIONS[0]))
    own = load_generator(str(FOLDER / "target")).model
    with torch.inference_mode():
        logits, wanted = (model(torch.tensor([ids])).logits for model in (target.model, own))
    assert torch.equal(logits, wanted)
    result = SpeculativeDecoding(drafter=draft, target=target).run(QUESTIONS[0])
    assert result.ledger.target.computed > 0
    assert result.answer is not None


def test_models_are_shared_by_all_who_load_them() -> None:
    first, second = load("embedded:draft"), load("embedded:draft")
    assert first.runner is second.runner
    assert load("embedded:draft", dtype="bfloat16").runner is not first.runner
    path = StepPath(as_prompt(QUESTIONS[0]))
    scorer = load("embedded:verifier", how="mean")
    (reward,) = asyncio.run(scorer.score(path, [Step("She buys 12 more", "length")])).rewards
    assert 0 < reward < 1


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "qwen3"},
        {"use_sliding_window": True},
        {"hidden_act": "gelu"},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}},
        {"quantization_config": {"bits": 4}},
    ],
)
def test_another_model_is_refused(change: dict[str, Any], tmp_path: Folder) -> None:
    folder = Folder(shutil.copytree(FOLDER / "draft", tmp_path / "draft"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ConfigurationError, match="load it as hf:"):
        bare_model.load(folder, torch.float32, torch.device("cpu"))
