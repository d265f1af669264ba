"""A character belongs to the step that completes it, wherever a step is cut."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path as Folder
from typing import Any

import pytest

from rsd_core import DraftOnly, Finished, Limits, Path, Settings, Step, StepRequest, TargetOnly, as_prompt, load
from rsd_core.blocking import wait_for
from rsd_core.stopping import TextStream
from rsd_integrations.huggingface import load_generator, to_gguf
from rsd_integrations.inprocess.vocabulary import Vocabulary
from rsd_integrations.llamacpp import load_generator as load_gguf
from tests.huggingface.tiny import make_causal_lm, tokenizer
from tests.openai_compatible.server import Habits, listening

TEXTS = [" 🧮 equals", "日本語です。\n\n", "é ½ “so”\n\n", "👩‍👩‍👧", "plain. ", "x² + ½"]
QUESTIONS = ["Mia has 45 apples.", "é"]
TOTAL = 48


@pytest.fixture(scope="module")
def wild(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A random model, which writes bytes of all sorts."""
    return make_causal_lm(tmp_path_factory.mktemp("wild") / "model", 3)


def words() -> Vocabulary:
    return Vocabulary(tokenizer(), len(tokenizer()))


def test_texts_of_steps_cut_anywhere_are_the_text_of_all_their_ids() -> None:
    rng, vocabulary, inside, start = random.Random(0), words(), 0, Path(as_prompt("Go on."))
    prompt = vocabulary.ids(start)[0]
    for _ in range(200):
        text = "".join(rng.choices(TEXTS, k=3))
        ids = vocabulary.encode(text) if rng.random() < 0.7 else rng.choices(range(3, 260), k=20)
        whole = b"".join(vocabulary.pieces[id_] for id_ in ids).decode(errors="replace")
        cuts = sorted({0, *rng.choices(range(1, len(ids)), k=6), len(ids)})
        path = start
        for begin, end in pairwise(cuts):
            ending: Any = "end" if end == len(ids) else "length"
            part = ids[begin:end]
            step = vocabulary.as_step(part, ending, len(part), before=vocabulary.ids.begun(path))
            inside += step.partial
            path = path.extend(step)
            assert vocabulary.ids(path)[0] == [*prompt, *ids[:end]]
            assert step.partial == bool(vocabulary.ids.begun(path)) or ending == "end"
        assert path.text == whole
    assert inside > 100


def test_what_was_begun_is_taken_back_where_somebody_else_goes_on() -> None:
    """Then nothing completes it: the others have read the text without it, and so does the model that continues."""
    vocabulary, path = words(), Path(as_prompt("Go on."))
    prompt = vocabulary.ids(path)[0]
    ids = vocabulary.encode("So 🧮")
    for count in range(1, len(ids)):
        first = vocabulary.as_step(ids[:count], "length", count)
        others = Step("9.\n\n", "delimiter")
        cut = path.extend(first)
        read = vocabulary.ids(cut.extend(others))[0]
        assert vocabulary.text(read[len(prompt) :]) == first.text + "9.\n\n"
        assert [*(both := vocabulary.ids.after(cut, [others])).prefix, *both.feeds[0]] == read
        # So it is with the ids of a model that was sent the text.
        sent = vocabulary.as_step(vocabulary.encode("9."), "length", 2)
        if first.partial:
            assert vocabulary.text(vocabulary.ids(cut.extend(sent))[0][len(prompt) :]) == first.text + "9."
    assert first.text == "So "
    assert first.partial


@pytest.mark.parametrize("library", ["transformers", "llama.cpp", "vllm", "vllm streamed", "llamacpp"])
def test_answers_do_not_depend_on_where_steps_are_cut(wild: Folder, library: str) -> None:
    with opened(wild, library) as model:
        for question in QUESTIONS:
            texts = set()
            for cap in (1, 2, 3, 7, TOTAL):
                settings = Settings(
                    max_step_tokens=cap,
                    lookahead=2 if library == "vllm streamed" else 0,
                    limits=Limits(max_tokens=TOTAL, max_repeats=None),
                )
                if library.startswith(("vllm", "llamacpp")) and cap not in (3, TOTAL):
                    continue
                stream, pieces = TextStream(), list[str]()
                for event in DraftOnly(drafter=model, settings=settings).stream(question):
                    pieces.append(stream.feed(event))
                assert isinstance(event, Finished)
                result = event.result
                assert "".join(pieces) == result.text == "".join(step.text for step in result.steps)
                assert result.finish_reason == "max_tokens"
                assert sum(step.size for step in result.steps) == TOTAL
                texts.add(result.text)
            assert len(texts) == 1
    assert "\ufffd" in texts.pop()  # of bytes that no character holds


class opened:  # noqa: N801
    """The random model in one library, or behind a server."""

    def __init__(self, folder: Folder, library: str) -> None:
        self._folder, self._library = folder, library
        self._server: Any = None

    def __enter__(self) -> Any:
        if self._library == "transformers":
            return load_generator(str(self._folder))
        if self._library == "llama.cpp":
            return load_gguf(str(to_gguf.export(str(self._folder), self._folder.with_suffix(".gguf"))))
        habits = Habits(str(self._folder), self._library.split()[0])
        habits.name = "draft"
        self._server = listening(habits)
        self._model = load(f"openai:draft@{self._server.__enter__().url}", tokenizer=str(self._folder))
        return self._model

    def __exit__(self, *exc: object) -> None:
        if self._server is not None:
            wait_for(self._model.aclose())
            self._server.__exit__(*exc)


def test_an_answer_that_ends_inside_a_character_says_so_once(wild: Folder) -> None:
    model = load_generator(str(wild))
    whole = TargetOnly(target=model, settings=Settings(limits=Limits(max_tokens=TOTAL))).run(QUESTIONS[0])
    ends = 0
    for most in range(1, 24):
        path = Path(as_prompt(QUESTIONS[0]))
        (step,) = wait_for(model.generate(path, StepRequest((0,), most, None))).steps
        settings = Settings(granularity="turn", limits=Limits(max_tokens=most))
        made = TargetOnly(target=model, settings=settings).run(QUESTIONS[0])
        assert made.text == step.text + "\ufffd" * step.partial
        assert made.text == model.vocabulary.text(list(step.tokens))
        assert made.raw_text == made.text
        ends += step.partial
    assert ends
    assert whole.text


def test_a_text_that_a_server_cut_inside_a_character_is_written_again_from_there() -> None:
    from rsd_integrations.openai_compatible.answers import Answer
    from rsd_integrations.openai_compatible.prompts import Prompts
    from rsd_integrations.openai_compatible.request_fields import RequestFields

    prompts = Prompts(None, "chat", RequestFields())
    cut = prompts.step(Answer("So \ufffd\ufffd", "length", wrote=3), None)
    assert (cut.text, cut.partial, cut.size) == ("So ", True, 3)
    for text, ending in (("So \ufffd", "end"), ("\ufffd", "length"), ("So", "length")):
        kept = prompts.step(Answer(text, ending, wrote=2), None)  # type: ignore[arg-type]
        assert (kept.text, kept.partial) == (text, False)
