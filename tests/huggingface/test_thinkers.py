"""RSD in steps over thinking models in process: one text, read as the same tokens, thoughts on and off."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path as Folder

import pytest

from rsd_core import (
    ConfigurationError,
    Constant,
    DraftOnly,
    Path,
    RewardGuidedDecoder,
    Settings,
    Step,
    TargetOnly,
    as_prompt,
    load,
    split,
)
from rsd_core.testing import ScriptedVerifier
from rsd_integrations.embedded.models import FOLDER
from rsd_integrations.embedded.task import problems
from rsd_integrations.huggingface import HuggingFaceGenerator, load_generator

QUESTIONS = [problem.question for problem in itertools.islice(problems("test", 5), 4)]
OFF = {"enable_thinking": False}


@pytest.fixture
def opening_target(tmp_path: Folder) -> HuggingFaceGenerator:
    """The thinking target with a template that opens the thought itself, as DeepSeek-R1's does."""
    folder = tmp_path / "target"
    shutil.copytree(FOLDER / "thinking-target", folder)
    file = folder / "chat_template.jinja"
    template = file.read_text()
    switch = "{%- if enable_thinking is defined"
    opened = template.replace(switch, "{{- '<think>\\n' if enable_thinking is not defined }}" + switch)
    assert opened != template
    file.write_text(opened)
    return load_generator(str(folder))


def halves() -> RewardGuidedDecoder:
    """Half of the drafts are accepted, whatever they are."""
    return RewardGuidedDecoder(
        drafter=load("embedded:thinking-draft"),
        verifier=ScriptedVerifier([0.5] * 400),
        target=load("embedded:thinking-target"),
        policy=Constant(p=0.5),
        settings=Settings(seed=2, temperature=0.6),
    )


def test_thought_and_answer_are_distinguished_and_follow_each_other_as_one_text() -> None:
    for question in QUESTIONS:
        result = halves().run(question)
        assert {record.author for record in result.steps} >= {"draft", "target"}
        parts = split(result.raw_text)
        assert (result.text, result.thought) == (parts.answer, parts.thought)
        assert "<think>" not in result.text + result.thought
        assert result.raw_text == "".join(record.text for record in result.steps)
        kinds = [record.kind for record in result.steps]
        assert kinds == sorted(kinds, key=["thought", "answer"].index)


def test_without_thoughts_nothing_of_them_is_written() -> None:
    models = {"drafter": "draft", "target": "target"}
    loaded = {role: load(f"embedded,template.enable_thinking=false:thinking-{name}") for role, name in models.items()}
    decoder = RewardGuidedDecoder(
        **loaded, verifier=ScriptedVerifier([0.5] * 400), policy=Constant(p=0.5), settings=Settings(seed=2)
    )
    for question in QUESTIONS:
        result = decoder.run(question)
        assert (result.thought, result.raw_text) == ("", result.text)
        assert "think>" not in result.text


def test_models_that_open_thoughts_differently_agree_on_one_text(opening_target: HuggingFaceGenerator) -> None:
    drafter: HuggingFaceGenerator = load("embedded:thinking-draft")
    prompt = as_prompt(QUESTIONS[0])
    openings = [model.thinking(prompt).opening for model in (drafter, opening_target)]  # type: ignore[union-attr]
    assert openings == ["", "<think>\n"]
    decoder = RewardGuidedDecoder(
        drafter=drafter,
        verifier=ScriptedVerifier([0.5] * 400),
        target=opening_target,
        policy=Constant(p=0.5),
        settings=Settings(seed=2, temperature=0.6),
    )
    for question in QUESTIONS:
        result = decoder.run(question)
        assert result.raw_text.startswith("<think>\n")
        assert result.raw_text.count("<think>") == 1
        thinking = opening_target.thinking(as_prompt(question))
        path = Path(as_prompt(question), thinking=thinking)
        for record in result.steps:
            path = path.extend(Step(record.text, "delimiter"))
        assert drafter.vocabulary.ids(path) == opening_target.vocabulary.ids(path)
        bare = drafter.vocabulary.prompt_text(as_prompt(question))
        assert drafter.vocabulary.path_text(path) == bare + result.raw_text


def test_a_model_alone_writes_in_steps_what_it_writes_in_one(opening_target: HuggingFaceGenerator) -> None:
    for decoder in (TargetOnly(target=opening_target), DraftOnly(drafter=load("embedded:thinking-draft"))):
        for question in QUESTIONS[:2]:
            by_step = decoder.run(question)
            turn = decoder.with_settings(Settings(granularity="turn"))
            assert turn.run(question).raw_text == by_step.raw_text


def test_a_thinker_and_one_that_is_switched_off_are_refused_with_the_remedy() -> None:
    decoder = RewardGuidedDecoder(
        drafter=load("embedded:thinking-draft"),
        verifier=ScriptedVerifier([1.0]),
        target=load("embedded:thinking-target", template=OFF),
    )
    with pytest.raises(ConfigurationError, match=r"template\.enable_thinking=false"):
        decoder.run(QUESTIONS[0])


def test_splitters_cut_thoughts_of_the_same_text() -> None:
    target = load("embedded:thinking-target")
    plain = TargetOnly(target=target)
    for question in QUESTIONS[:2]:
        wanted = plain.run(question).raw_text
        for delimiter in ("line", "sentence", "words"):
            settings = Settings().updated(thoughts={"delimiter": delimiter})
            assert plain.with_settings(settings).run(question).raw_text == wanted
