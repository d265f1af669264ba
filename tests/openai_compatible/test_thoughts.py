"""Thoughts of models behind servers: separate or in the text, whole or streamed, cut or closed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rsd_core import (
    ConfigurationError,
    Delimiter,
    DraftOnly,
    Limits,
    Markers,
    Path,
    Sentence,
    Settings,
    Step,
    StepRequest,
    TargetOnly,
    Thinking,
    Words,
    as_prompt,
)
from rsd_core.blocking import wait_for
from rsd_core.splitting import Splitter, splitter
from rsd_core.thoughts.markers import MARKERS
from rsd_integrations.openai_compatible import OpenAIGenerator
from rsd_integrations.openai_compatible.answers import StepReader, StreamedSteps, read_answer
from rsd_integrations.openai_compatible.profiles import PROFILES
from rsd_integrations.openai_compatible.written import Written
from tests.openai_compatible.profile_table import table
from tests.openai_compatible.server import Habits

Connect = Callable[..., OpenAIGenerator]
VLLM, GENERIC = PROFILES["vllm"], PROFILES["generic"]
HM, SO = [{"type": "text", "text": "Hm."}], [{"type": "text", "text": "So."}]
IN_THOUGHT = splitter("\n\n", "</think>")


def body(reason: str = "stop", stop: Any = None, **message: Any) -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": reason, "stop_reason": stop}]}


class Pieces:
    """A vocabulary of some pieces; the last one is the token that ends an answer, which is not text."""

    pieces = (b"a", b"b", b"\n", b"\n\n", b"</think>", b"Wait", b". ", b"")
    tokenizer: Any = type("Tokenizer", (), {"added_tokens_decoder": {}})


VOCABULARY: Any = Pieces()


def ids_of(text: str) -> list[int]:
    ids = []
    while text:
        at = max(
            (i for i, piece in enumerate(Pieces.pieces) if piece and text.startswith(piece.decode())),
            key=lambda i: len(Pieces.pieces[i]),
        )
        ids.append(at)
        text = text[len(Pieces.pieces[at].decode()) :]
    return ids


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "So.", "reasoning": "Hm."}, "<think>\nHm.\n</think>\n\nSo."),
        ({"content": "\n\nSo.", "reasoning": "\nHm.\n"}, "<think>\nHm.\n</think>\n\nSo."),
        ({"content": "So.", "reasoning": "Hm.", "reasoning_content": "Hm."}, "<think>\nHm.\n</think>\n\nSo."),
        ({"content": None, "reasoning_content": "Hm."}, "<think>\nHm."),
        ({"content": "", "reasoning": None}, ""),
        ({"content": "<think>\nHm.\n</think>\n\nSo."}, "<think>\nHm.\n</think>\n\nSo."),
        ({"content": [{"type": "thinking", "thinking": HM}, *SO]}, "<think>\nHm.\n</think>\n\nSo."),
    ],
)  # fmt: skip
def test_a_message_has_one_raw_text(message: dict[str, Any], text: str) -> None:
    assert read_answer(body(**message), None, GENERIC).text == text


def test_the_markers_of_the_response_stand_around_a_thought_that_came_without() -> None:
    told = read_answer(body(content="So.", reasoning="Hm."), None, GENERIC, markers=MARKERS["mistral"])
    assert told.text == MARKERS["mistral"].wrap("Hm.") + "So."


def test_a_stop_inside_of_the_thought_is_what_it_is() -> None:
    """A stop string that was stripped is put back; where nothing is shown, nothing is made up."""
    stopped = read_answer(body("stop", "\n\n", content=None, reasoning="Hm."), Delimiter(), VLLM)
    assert stopped.text == "<think>\nHm.\n\n"
    empty = read_answer(body("stop", "\n\n", content=None), Delimiter(), VLLM)
    assert (empty.text, empty.ending) == ("", "delimiter")
    cut = read_answer(body("length", content=None, reasoning="Hm."), None, VLLM)
    assert (cut.text, cut.ending) == ("<think>\nHm.", "length")


def test_a_stream_without_a_text_in_its_last_event_is_whole() -> None:
    reader = StepReader(GENERIC)
    reader.take({"choices": [{"index": 0, "text": "So."}]})
    reader.take({"choices": [{"finish_reason": "stop", "index": 0}]})  # as LiteLLM ends it
    assert reader.complete
    assert reader.answer.text == "So."


@pytest.mark.parametrize(
    ("ends", "text", "first"),
    [
        (IN_THOUGHT, "ab\n\nab", "ab\n\n"),
        (IN_THOUGHT, "ab\n</think>\n\nab", "ab\n</think>\n\n"),
        (IN_THOUGHT, "ab\n</think>\nab\n\nb", "ab\n</think>\n"),
        (Words(), "ab\n\nab\n\nWait. ab", "ab\n\nab\n\n"),
        (Words(), "\n\nWait. ab\n\nWait", "\n\nWait. ab\n\n"),
        (Sentence(), "ab. ab. ", "ab."),
    ],
)
def test_a_step_ends_where_its_splitter_says(ends: Splitter, text: str, first: str) -> None:
    """At the first token boundary from there on where ids are told, else there."""
    by_text = StepReader(GENERIC, ends)
    assert any(by_text.take({"choices": [{"text": char}]}) for char in text)
    assert (by_text.answer.text, by_text.answer.ending) == (first, "delimiter")

    ids, by_ids = ids_of(text), StepReader(VLLM, ends, VOCABULARY)
    for id_ in ids:
        if by_ids.take({"choices": [{"text": Pieces.pieces[id_].decode(), "token_ids": [id_]}]}):
            break
    answer = by_ids.answer
    kept = b"".join(Pieces.pieces[id_] for id_ in answer.ids).decode()
    assert kept.startswith(first)
    assert len(kept) - len(first) < 2
    assert answer.dropped == len(by_ids._ids.ids) - len(answer.ids)  # type: ignore[union-attr]

    steps: list[tuple[int, ...]] = []
    stream = StreamedSteps(ends, VOCABULARY, 100, lambda one: bool(steps.append(one.ids)))  # type: ignore[func-returns-value]
    stream.take({"choices": [{"text": text, "token_ids": ids, "finish_reason": None}]})
    stream.take({"choices": [{"text": "", "token_ids": [7], "finish_reason": "stop"}]})
    assert steps[0] == answer.ids
    assert [id_ for step in steps for id_ in step] == [*ids, 7]  # nothing is lost between the steps


def test_a_stop_string_at_which_no_step_ends_is_written_past(
    vllm: Habits, connect: Connect, questions: list[str]
) -> None:
    model, path = connect(vllm), Path(as_prompt(questions[0]))
    plain = wait_for(model.generate(path, StepRequest((0,), 60, "\n\n"))).steps[0]
    word = plain.text[:1]

    class Odd(Splitter):
        """Stops at an invalid end."""

        def end(self, text: str) -> int | None:
            at = text.find("\n\n")
            return None if at < 0 else at + 2

        @property
        def stops(self) -> tuple[str, ...]:
            return (word,)

    before = len(vllm.requests)
    step = wait_for(model.generate(path, StepRequest((0,), 60, Odd()))).steps[0]
    assert (step.text, step.tokens) == (plain.text, plain.tokens)
    assert len(vllm.requests) == before + 2


@pytest.mark.usefixtures("untried")
def test_steps_of_a_model_that_thinks_behind_a_parser_are_refused_before_the_first_one(
    vllm: Habits, connect: Connect, questions: list[str]
) -> None:
    vllm.thinks_apart = True
    told = r"thoughts in a separate field.*tokenizer=.*template\.enable_thinking=false.*granularity='turn'"
    with pytest.raises(ConfigurationError, match=told):
        DraftOnly(drafter=connect(vllm, None)).run(questions[0])
    assert len(vllm.requests) == 1
    turn = TargetOnly(target=connect(vllm, None), settings=Settings(granularity="turn")).run(questions[0])
    assert (turn.text, turn.answer) == ("", None)
    assert turn.thought.strip()


@pytest.mark.usefixtures("untried")
def test_a_template_that_drops_thoughts_is_refused_for_steps(
    vllm: Habits, connect: Connect, questions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids_of = vllm.ids_of

    def forgetful(body: dict[str, Any]) -> list[int]:
        messages = [
            {**message, "content": message["content"].rpartition("</think>\n\n")[2]} for message in body["messages"]
        ]
        return ids_of({**body, "messages": messages})

    monkeypatch.setattr(vllm, "ids_of", forgetful)
    with pytest.raises(ConfigurationError, match="drops a begun thought"):
        DraftOnly(drafter=connect(vllm, None)).run(questions[0])


def test_a_chat_begins_after_what_the_response_is_agreed_to_begin_with(
    vllm: Habits, connect: Connect, questions: list[str]
) -> None:
    model, asked = connect(vllm, None), StepRequest((0,), 60, None)
    plain = wait_for(model.generate(Path(as_prompt(questions[0])), asked)).steps[0].text
    open_, closed = Thinking(MARKERS["think"], "<think>\n"), Thinking(MARKERS["think"], "<think>\n\n</think>\n\n")

    def text(thinking: Thinking) -> str:
        return wait_for(model.generate(Path(as_prompt(questions[0]), thinking=thinking), asked)).steps[0].text

    assert text(closed) == plain
    assert text(open_) == f"</think>\n\n{plain}"  # it answered without a thought
    vllm.thinks_apart = True
    assert text(open_) == plain  # all of it is the thought that the opening began
    path = Path(as_prompt(questions[0]), thinking=closed).extend(Step("So\n\n", "delimiter"))
    vllm.thinks_apart = False
    wait_for(model.generate(path, StepRequest((0,), 8, "\n\n")))
    assert vllm.requests[-1]["messages"][-1]["content"] == "So\n\n"  # the server's template opens it itself


def test_marks_that_a_server_leaves_out_of_its_text_are_refused(
    servers: dict[str, Habits], connect: Connect, questions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    special = Thinking(Markers(name="own", open="<|im_start|>", close="<extra_0>"))
    for kind, refused in (("llama_cpp_python", True), ("sglang", True), ("vllm", False), ("llamacpp", False)):
        model = connect(servers[kind])
        monkeypatch.setattr(model.prompts, "thinking", lambda prompt: special)
        if refused:
            with pytest.raises(ConfigurationError, match=r"'<\|im_start\|>' as a special token, which this server"):
                DraftOnly(drafter=model).run(questions[0])
        else:
            assert DraftOnly(drafter=model).run(questions[0]).text


def test_a_turn_of_the_default_limits_fits_every_window(
    servers: dict[str, Habits], connect: Connect, questions: list[str]
) -> None:
    for kind in ("vllm", "sglang", "llamacpp"):
        model = connect(servers[kind], None)
        settings = Settings(granularity="turn", limits=Limits(max_tokens=32768))
        assert TargetOnly(target=model, settings=settings).run(questions[0]).finish_reason == "stop"
        assert servers[kind].requests[-1]["max_tokens"] < servers[kind].context == 512


def test_a_cap_below_the_limit_ends_a_turn_as_used_up_tokens(
    servers: dict[str, Habits], connect: Connect, questions: list[str]
) -> None:
    for kind in ("generic", "vllm"):
        servers[kind].most = 5
        used_up = TargetOnly(target=connect(servers[kind], None), settings=Settings(granularity="turn"))
        assert used_up.run(questions[0]).finish_reason == "max_tokens"
    result = TargetOnly(target=connect(servers["generic"], None), settings=Settings(granularity="turn")).run(
        questions[0]
    )
    assert (result.finish_reason, bool(result.text)) == ("max_tokens", True)


def test_tokens_that_only_the_total_counts_are_paid() -> None:
    reply = body(content="So.") | {"usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 25}}
    assert read_answer(reply, None, GENERIC).wrote == 22
    hit = body(content="So.") | {"usage": {"prompt_tokens": 3, "completion_tokens": 2, "prompt_cache_hit_tokens": 1}}
    assert (read_answer(hit, None, GENERIC).wrote, read_answer(hit, None, GENERIC).cached) == (2, 1)


def test_what_may_be_a_repetition_is_held_back_until_it_is_none() -> None:
    written = Written(begun="Well: ")
    shown = []
    for part in ("We", "ll", ": ", "So."):
        written.add({"delta": {"content": part}})
        shown.append(written.text(complete=False))
    assert shown == ["", "", "", "So."]
    other = Written(begun="Well: ")
    other.add({"delta": {"content": "We"}})
    assert other.text() == "We"


def test_the_guide_has_every_profile_of_a_hosted_api() -> None:
    from pathlib import Path as Folder

    assert table() in (Folder(__file__).parents[2] / "docs" / "guides" / "hosted.md").read_text()
