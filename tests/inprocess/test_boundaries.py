"""Every token that holds the delimiter ends its step, in the vocabularies of published models."""

from __future__ import annotations

import pytest

from rsd_core import Delimiter, Path, Step, as_prompt
from rsd_integrations.inprocess.step_end import OpenStep, StepEnd
from tests.inprocess.test_path_ids import ALL

COUNTS = {
    "Qwen2.5": (565, 1),
    "Llama 3": (588, 1),
    "Llama 4": (428, 64),
    "Mistral tekken": (464, 24),
    "DeepSeek V3": (400, 0),
    "Gemma 3": (30, 0),
    "SmolLM2": (18, 14),
    "Mistral 7B": (0, 0),
}
"""Tokens that hold a blank line, and in how many of them more than newlines follows: a comment, or spaces."""
START = Path(as_prompt("Hi"))


@pytest.mark.parametrize("name", COUNTS)
def test_each_token_with_a_blank_line_ends_its_step(name: str) -> None:
    vocabulary = ALL[name]()
    end = StepEnd(vocabulary, frozenset(), Delimiter())
    pieces = [vocabulary.pieces[id_] for id_ in range(vocabulary.size)]
    holding = [id_ for id_, piece in enumerate(pieces) if b"\n\n" in piece]
    after = [id_ for id_ in holding if pieces[id_].partition(b"\n\n")[2].strip(b"\n")]
    assert (len(holding), len(after)) == COUNTS[name]
    word, newline = vocabulary.encode("So"), vocabulary.encode("\n")
    for id_ in holding:
        step = OpenStep(end, 100)
        assert [step.append(one, 0.0) for one in (*word, id_)] == [False] * len(word) + [True]
        assert (step.ending, step.tokens) == ("delimiter", [*word, id_])
    # Two tokens that make a blank line between them end it as well.
    step = OpenStep(end, 100)
    ended = [step.append(one, 0.0) for one in (*word, newline[-1], newline[-1])]
    assert ended == [False] * (len(word) + 1) + [True]


@pytest.mark.parametrize("name", ["Llama 4", "Mistral tekken", "Qwen2.5"])
def test_text_behind_the_blank_line_stays_with_the_step_that_was_sampled(name: str) -> None:
    """It belongs to the token: the next step continues after it, and no text is read twice or lost."""
    vocabulary = ALL[name]()
    word, more = vocabulary.encode("So"), vocabulary.encode(" it is")
    for id_ in range(vocabulary.size):
        piece = vocabulary.pieces[id_]
        if not piece.partition(b"\n\n")[2].strip(b"\n"):
            continue
        open_step = OpenStep(StepEnd(vocabulary, frozenset(), Delimiter()), 100)
        for token in (*word, id_):
            open_step.append(token, 0.0)
        step = vocabulary.as_step(open_step.tokens, open_step.ending, open_step.size)
        assert step.text == f"So{piece.decode()}"
        assert Delimiter().end(step.text) is not None
        path = START.extend(step).extend(vocabulary.as_step(more, "end", len(more)))
        assert vocabulary.ids(path)[0][-len(word) - 1 - len(more) :] == [*word, id_, *more]
        assert path.text == f"So{piece.decode()} it is"
        # To a model of another vocabulary it is the text of the step.
        foreign = START.extend(Step(step.text, step.ending)).extend(Step(" it is", "end"))
        assert vocabulary.ids(foreign)[0] == [*vocabulary.ids(START)[0], *vocabulary.following(path.text)]
