"""Stop strings: the text ends before them wherever they fall, at once or streamed."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsd_core import ConfigurationError, Finished, Result, RewardGuidedDecoder, TargetOnly, TextStream
from rsd_core.stopping import stops_at
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier

pieces = st.lists(st.text("ab.", min_size=1, max_size=4), min_size=1, max_size=6)
marks = st.lists(st.text("ab.\n", min_size=1, max_size=6), max_size=3)


@given(pieces, marks)
def test_the_text_ends_before_the_first_stop_string_streamed_or_not(texts: list[str], stop: list[str]) -> None:
    decoder = TargetOnly(target=ScriptedTarget([text + "\n\n" for text in texts[:-1]] + texts[-1:]))
    whole = decoder.run("q").text
    stream, given_out = TextStream(stop), ""
    for event in decoder.stream("q", stop=stop):
        given_out += stream.feed(event)
        if isinstance(event, Finished):
            result = event.result
    # The first step that completes a stop string ends the answer; a string that would complete later never does.
    steps = [text + "\n\n" for text in texts[:-1]] + texts[-1:]
    reached = (whole[:n] for n in itertools.accumulate(len(step) for step in steps))
    at = next((found for text in reached if (found := stops_at(text, stop)) is not None), None)
    assert result.text == whole[:at]
    assert given_out == result.text == "".join(step.text for step in result.steps)
    if at is not None:
        assert result.finish_reason == "stop"


def test_nothing_is_generated_after_a_stop_string() -> None:
    target = ScriptedTarget(["one\n\n", "two STOP\n\n", "three"])
    result = TargetOnly(target=target).run("q", stop=["STOP"])
    assert (result.text, len(target.calls)) == ("one\n\ntwo ", 2)


@pytest.mark.parametrize("stop", ["abc", [""], ["a", 3]])
def test_an_invalid_stop_list_is_refused(stop: object) -> None:
    with pytest.raises(ConfigurationError, match="stop takes a list"):
        TargetOnly(target=ScriptedTarget(["x"])).run("q", stop=stop)  # type: ignore[arg-type]


def test_a_result_survives_json() -> None:
    decoder = RewardGuidedDecoder(
        drafter=ScriptedDrafter(["a\n\n", "b"]),
        verifier=ScriptedVerifier([0.2, 0.9]),
        target=ScriptedTarget(["A\n\n", RuntimeError("gone")]),
    )
    result = decoder.run("q")
    again = Result.from_dict(json.loads(json.dumps(result.to_dict())))
    assert (again.text, again.steps, again.ledger) == (result.text, result.steps, result.ledger)
    assert Result.from_dict({**result.to_dict(), "prompt": result.prompt}) == result
    told = json.dumps(result.to_dict(rejected=False))
    assert [step.discarded_draft for step in Result.from_dict(json.loads(told)).steps] == ["", None]
