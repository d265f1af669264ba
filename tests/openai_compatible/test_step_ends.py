"""The end of a step is verified before the first one: an answer is complete or refused, never silently cut."""

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rsd_core import ConfigurationError, Delimiter, DraftOnly, Path, Step, StepRequest, as_prompt, load
from rsd_core.blocking import wait_for
from rsd_core.splitting import splitter
from rsd_integrations.huggingface import HuggingFaceGenerator
from rsd_integrations.openai_compatible import OpenAIGenerator, trials
from rsd_integrations.openai_compatible.answers import read_answer
from rsd_integrations.openai_compatible.profiles import PROFILES
from tests.openai_compatible.gateways import PLAIN_FIELDS, TRIMMED, without
from tests.openai_compatible.scripted_texts import PROMPT, Scripted, Stops, behind
from tests.openai_compatible.server import Gateway, Habits

Connect = Callable[..., OpenAIGenerator]
BLANK = Delimiter()
ASKED = StepRequest((0,), max_tokens=60)


def choice(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"text": "So it is.\n\n", **fields}], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}


def test_a_text_that_ends_in_the_delimiter_was_ended_by_it() -> None:
    """A server looks for stop strings after each token, so that nothing else can have ended such a text."""
    vllm = PROFILES["vllm"]
    told = read_answer(choice(finish_reason="stop", stop_reason="\n\n"), BLANK, vllm)
    assert (told.ending, told.read, told.wrote) == ("delimiter", 3, 4)
    for dropped in ({}, {"stop_reason": None}, {"stop_reason": 151643}):
        assert read_answer(choice(finish_reason="stop", **dropped), BLANK, vllm) == told
    assert read_answer(choice(finish_reason="length"), BLANK, vllm).ending == "delimiter"
    whole = choice(text="So it is.", finish_reason="stop", stop_reason=None)
    assert read_answer(whole, BLANK, vllm).ending == "end"
    assert read_answer(choice(finish_reason="stop"), None, PROFILES["generic"]).ending == "end"
    stripped = read_answer(choice(text="So it is.", finish_reason="stop", stop_reason="\n\n"), BLANK, vllm)
    assert (stripped.text, stripped.ending) == ("So it is.\n\n", "delimiter")
    left = read_answer(choice(text="So.\n\n\nNo", finish_reason="stop"), BLANK, PROFILES["transformers"])
    assert (left.text, left.ending) == ("So.\n\n\n", "delimiter")


@pytest.mark.parametrize("text", ["\n\n", "", "\n\n\n", " \n\n"])
def test_a_blank_line_that_begins_a_step_does_not_end_the_answer(text: str) -> None:
    named = read_answer(choice(text=text, finish_reason="stop", stop_reason="\n\n"), BLANK, PROFILES["vllm"])
    assert named.goes_on
    dropped = read_answer(choice(text=text, finish_reason="stop"), BLANK, PROFILES["vllm"])
    assert dropped.goes_on == bool(text)  # an empty text tells nothing


def written(model: OpenAIGenerator, delimiter: str) -> list[Step]:
    """All steps of an answer."""
    path, steps = Path(as_prompt(PROMPT)), list[Step]()
    while not steps or steps[-1].ending != "end":
        assert len(steps) < 100
        steps += wait_for(model.generate(path, StepRequest((0,), 200, delimiter))).steps
        path = path.extend(steps[-1])
    return steps


@settings(max_examples=60, deadline=None)
@given(
    st.text("ab \n.", max_size=30),
    st.sampled_from(["\n\n", "\n", ".", "ab", " "]),
    st.sampled_from(Stops.__args__),  # type: ignore[attr-defined]
    st.sampled_from(["vllm", "sglang", "transformers", "generic"]),
    st.sampled_from(["One, two, three.", "Eins", "ab", "", "a\n\nb\n\nc", "\n\nab ab"]),
    st.integers(1, 4),
)
@example("a\n\nb", "\n\n", "stripped", "vllm", "One, two, three.", 1)
@example("\n\na\n\nb", "\n\n", "kept", "vllm", "One, two, three.", 2)
@example("a\n\nb", "\n\n", "trimmed", "transformers", "One, two, three.", 2)
def test_no_answer_is_cut_without_a_word(
    text: str, delimiter: str, stops: Stops, profile: str, trial: str, token: int
) -> None:
    """Either the steps are the whole text, each with its end, or nothing is written at all."""
    trials.STEP_ENDS.clear()
    server = Scripted(text, stops, trial, token)
    model = behind(server, profile)
    logging.disable(logging.WARNING)
    refused = ""
    try:
        steps = written(model, delimiter)
    except ConfigurationError as error:
        refused = str(error)
        steps = written(behind(server, None), delimiter)
    finally:
        logging.disable(logging.NOTSET)
    if refused:
        assert stops in ("stripped", "named", "trimmed")
        assert (stops, profile) != ("named", "vllm")
        assert refused.endswith("Remedy: openai,mode=completions:m@http://scripted/v1")
        assert not any("stop" in request for request in server.asked if request["prompt"].startswith(PROMPT))
    assert "".join(step.text for step in steps) == text
    ends = splitter(delimiter)
    assert ends is not None
    for step in steps[:-1]:
        assert step.ending == "delimiter"
        assert ends.end(step.text) is not None


@pytest.mark.parametrize(("trial", "told"), [("", "too short"), ("Well.", "too short")])
def test_where_nothing_can_be_proved_steps_are_cut_here(
    trial: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    trials.STEP_ENDS.clear()
    server = Scripted("One.\n\nTwo.\n\nThree.", "kept", trial)
    steps = written(behind(server, "vllm"), "\n\n")
    assert [step.text for step in steps] == ["One.\n\n", "Two.\n\n", "Three."]
    assert told in caplog.text
    assert sum("steps are streamed and cut here" in record.message for record in caplog.records) == 1
    assert all(request.get("stream") for request in server.asked if request["prompt"].startswith(PROMPT))


@pytest.mark.usefixtures("untried")
@pytest.mark.parametrize("tokenizer", [True, False])
def test_a_server_that_strips_stop_strings_is_refused_with_the_spec_that_works(
    servers: dict[str, Habits], connect: Connect, draft: HuggingFaceGenerator, questions: list[str], tokenizer: bool
) -> None:
    options = {} if tokenizer else {"tokenizer": None}
    with pytest.raises(ConfigurationError, match="end of a step cannot be distinguished") as caught:
        DraftOnly(drafter=connect(servers["llamacpp"], profile="vllm", **options)).run(questions[0])
    assert servers["llamacpp"].url in str(caught.value)
    spec = re.search(r"Remedy: (openai.*)", str(caught.value))
    assert spec is not None
    assert "profile" not in spec[1]  # it is recognised
    assert DraftOnly(drafter=load(spec[1])).run(questions[0]).text == DraftOnly(drafter=draft).run(questions[0]).text


@pytest.mark.usefixtures("untried")
@pytest.mark.parametrize(
    "gateway", [PLAIN_FIELDS, Gateway(PLAIN_FIELDS.request, without("stop_reason").reply), TRIMMED]
)
@pytest.mark.parametrize("named", [True, False])
def test_a_gateway_that_hides_the_ends_of_steps_is_found_out(
    vllm: Habits,
    connect: Connect,
    draft: HuggingFaceGenerator,
    questions: list[str],
    gateway: Gateway,
    named: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Who named the profile is told; else steps are cut here. Where the stop string is named, all is well."""
    vllm.gateway = gateway
    if gateway is TRIMMED:
        vllm.gateway = Gateway(reply=lambda data: without("stop_reason").reply(TRIMMED.reply(data)))
    model = connect(vllm, mode="completions", **({"profile": "vllm"} if named else {}))
    if named and gateway is not PLAIN_FIELDS:
        with pytest.raises(ConfigurationError, match=r"Remedy: openai,tokenizer=\S+:draft@http"):
            DraftOnly(drafter=model).run(questions[0])
        return
    assert DraftOnly(drafter=model).run(questions[0]).text == DraftOnly(drafter=draft).run(questions[0]).text
    assert ("steps are streamed and cut here" in caplog.text) == (gateway is not PLAIN_FIELDS)


class Thinking(Scripted):
    """Thinks first, and tells the thought apart."""

    async def post(self, path: str, body: dict[str, Any], read: Any, charge: Any) -> Any:
        thought = "Well, one\nby one."
        for stop in body.get("stop") or []:
            before, found, _ = thought.partition(stop)
            thought = before + (found if self.stops == "kept" else "")
        reply = {"choices": [{"message": {"reasoning_content": thought}, "finish_reason": "stop"}]}
        result = read(reply)
        charge(reply, result, 0.0)
        return result


@pytest.mark.parametrize("way", ["kept", "stripped"])
def test_what_is_put_around_a_thought_here_proves_nothing(way: Stops) -> None:
    """A line break follows the mark that opens it."""
    trials.STEP_ENDS.clear()
    model = load("openai:m@http://127.0.0.1:9", profile="vllm")
    assert isinstance(model, OpenAIGenerator)
    model.endpoint = Thinking("", way)  # type: ignore[assignment]
    assert wait_for(model.step_ends()).way == way


@pytest.mark.usefixtures("untried")
def test_servers_are_tried_out_once_and_the_first_call_pays(
    vllm: Habits, connect: Connect, questions: list[str]
) -> None:
    """Callers that come at once share it, and models of the same place after them."""
    model, path = connect(vllm), Path(as_prompt(questions[0]))

    async def together() -> list[int]:
        made = await asyncio.gather(*(model.generate(path, ASKED) for _ in range(4)))
        return sorted(one.usage.generated for one in made)

    wrote = asyncio.run(together())
    stops = [request.get("stop") for request in vllm.requests]
    assert stops[0] is None
    assert stops[1] not in (None, ["\n\n"])
    assert stops[2:] == [["\n\n"]] * 4
    assert wrote[0] == wrote[2] < wrote[3]
    tries = wrote[3] - wrote[0]
    assert 0 < tries <= 32
    again = wait_for(connect(vllm).generate(path, ASKED))
    assert (again.usage.generated, len(vllm.requests)) == (wrote[0], 7)
    found = wait_for(model.step_ends())
    assert (found.way, found.told, len(vllm.requests)) == ("kept", True, 7)


@pytest.mark.usefixtures("untried")
def test_a_refused_request_is_retried(vllm: Habits, connect: Connect, questions: list[str]) -> None:
    """Somebody may put it right while the program runs."""
    vllm.gateway = Gateway(PLAIN_FIELDS.request, without("stop_reason").reply)
    model, path = connect(vllm, profile="vllm"), Path(as_prompt(questions[0]))
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="end of a step"):
            wait_for(model.generate(path, ASKED))
    vllm.gateway = Gateway()
    assert wait_for(model.generate(path, ASKED)).steps[0].ending == "delimiter"
