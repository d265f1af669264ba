"""Tool calls in the text of a model, whatever asks for them."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsd_integrations.tool_calls import ToolCallStream

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'


def parsed(pieces: list[str]) -> tuple[str, list[tuple[str | None, str]]]:
    stream = ToolCallStream()
    made = [stream.feed(piece) for piece in pieces[:-1]] + [stream.feed(pieces[-1], last=True)]
    content = "".join(text for text, _ in made)
    calls = [(call.name, call.arguments) for _, settled in made for call in settled]
    assert stream.called == bool(calls)
    return content, calls


texts = st.lists(
    st.sampled_from(["word", " ", "\n\n", "<", "<tool_", CALL, "<tool_call>{no json}</tool_call>"]), max_size=8
)


@settings(max_examples=500)
@given(texts.map("".join), st.data())
def test_calls_are_found_however_the_text_is_cut(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = parsed([text])
    assert parsed(pieces) == whole
    assert len(whole[1]) == text.count("</tool_call>")
    if "</tool_call>" not in text:
        assert whole[0] == text


def test_blanks_after_a_call_are_not_content_however_the_text_is_cut() -> None:
    assert parsed([CALL + " ", "\n", " word"])[0] == parsed([CALL, "  \n word"])[0] == "word"


def test_a_call_that_the_end_of_the_text_cuts_is_one_if_it_is_whole() -> None:
    assert parsed(["Well. " + CALL.removesuffix("\n</tool_call>")]) == ("Well.", [("add", '{"a": 1, "b": 2}')])
    assert parsed(['<tool_call>{"name": "a'])[1] == [(None, '<tool_call>{"name": "a')]


def test_arguments_are_json_of_the_text_or_none() -> None:
    accents = '<tool_call>{"name": "say", "arguments": {"text": "é"}}</tool_call>'
    written = '<tool_call>{"name": "say", "arguments": "{\\"a\\": 1}"}</tool_call>'
    assert parsed([accents, written, '<tool_call>{"name": "say"}</tool_call>'])[1] == [
        ("say", '{"text": "é"}'),
        ("say", '{"a": 1}'),
        ("say", "{}"),
    ]


@pytest.mark.parametrize("body", ["{'name': add}", '{"name": 5}', '{"name": ""}', "[]", "", "[" * 100_000])
def test_a_call_of_nothing_keeps_its_whole_text(body: str) -> None:
    assert parsed([f"<tool_call>{body}</tool_call>"]) == ("", [(None, f"<tool_call>{body}</tool_call>")])


def test_every_call_has_an_id_of_its_own() -> None:
    _, calls = ToolCallStream().feed(CALL * 3, last=True)
    assert len({call.id for call in calls}) == 3
    assert all(call.id.startswith("call_") and json.loads(call.arguments) == {"a": 1, "b": 2} for call in calls)
