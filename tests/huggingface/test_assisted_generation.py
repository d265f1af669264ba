"""Standard speculative decoding: the target's own answers, and nothing that goes on after its caller is gone."""

import itertools
from pathlib import Path as File

import pytest

from rsd_core import ConfigurationError, Limits, Settings, SpeculativeDecoding, TargetOnly
from rsd_integrations.embedded.task import problems
from rsd_integrations.huggingface import HuggingFaceGenerator, load_generator


def test_speculative_decoding_writes_what_the_target_writes(
    draft: HuggingFaceGenerator, target: HuggingFaceGenerator
) -> None:
    questions = [problem.question for problem in itertools.islice(problems("test", 5), 6)]
    fast, alone = SpeculativeDecoding(drafter=draft, target=target), TargetOnly(target=target)
    for question in questions:
        mine, theirs = fast.run(question), alone.run(question)
        assert mine.text == theirs.text
        assert mine.finish_reason == "stop"
        generated = mine.ledger.target.generated
        assert generated == theirs.ledger.target.generated
        assert generated <= mine.ledger.target.generated + mine.ledger.target.scored
        assert mine.ledger.drafter.computed > generated  # the guesses are charged
    sampled = SpeculativeDecoding(drafter=draft, target=target, settings=Settings(temperature=1, seed=4))
    assert sampled.run(questions[0]).text == sampled.run(questions[0]).text
    short = SpeculativeDecoding(drafter=draft, target=target, settings=Settings(limits=Limits(max_tokens=7)))
    assert short.run(questions[0]).ledger.target.generated == 7
    assert short.run(questions[0]).finish_reason == "max_tokens"


def test_an_assistant_of_another_vocabulary_is_refused(target: HuggingFaceGenerator, tmp_path: File) -> None:
    from tests.huggingface.tiny import make_causal_lm

    folder = make_causal_lm(tmp_path / "tiny")
    other = load_generator(str(folder))
    other.vocabulary.identity = "another"
    with pytest.raises(ConfigurationError, match="one vocabulary"):
        SpeculativeDecoding(drafter=other, target=target).run("question")
