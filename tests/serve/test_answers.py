"""Answers to clients: the decoder's own texts, step by step, without rejected drafts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsd_core import RSDConfig, parse_method, parse_policy
from rsd_core.testing import ScriptedDrafter
from rsd_core.thoughts.markers import MARKERS, Thinking
from rsd_integrations.embedded.task import problems
from rsd_integrations.serve import ServeConfig
from rsd_integrations.serve.answers import usage_of
from tests.serve.running import QUESTION, Running, events, running, scripted

ASKED = [problem.question for _, problem in zip(range(4), problems("test", 3), strict=False)]


@pytest.fixture(scope="module")
def served() -> Iterator[Running]:
    scripts = RSDConfig(drafter="scripted:draft", verifier="scripted:verifier", target="scripted:target")
    models = {"rsd": RSDConfig(), "target": RSDConfig(method=parse_method("target")), "scripted": scripts}
    with running(ServeConfig(models=models)) as server:
        yield server


def streamed(response: Any) -> list[str]:
    """The texts of the choices of a stream."""
    texts: dict[int, str] = {}
    for event in events(response)[:-1]:
        for choice in event["choices"]:
            added = choice.get("text", choice.get("delta", {}).get("content", ""))
            texts[choice["index"]] = texts.get(choice["index"], "") + added
    return [texts[i] for i in range(len(texts))]


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_texts_are_the_decoders_own_for_the_same_seed(served: Running, temperature: float) -> None:
    config = RSDConfig.parse({"settings": {"temperature": temperature}})
    with config.build() as decoder:
        for question in ASKED:
            wanted = [decoder.run(question, seed=7, repeat=i).text for i in range(2)]
            fields: dict[str, Any] = {"seed": 7, "n": 2, "temperature": temperature}
            whole = served.chat(question, **fields).json()
            assert [choice["message"]["content"] for choice in whole["choices"]] == wanted
            assert streamed(served.chat(question, stream=True, **fields)) == wanted
    body = {"model": "rsd", "prompt": ASKED, "seed": 7, "temperature": temperature}
    together = served.client.post("/v1/completions", json=body).json()["choices"]
    with config.build() as decoder:
        assert [choice["text"] for choice in together] == [decoder.run(one, seed=7).text for one in ASKED]
    assert streamed(served.client.post("/v1/completions", json=body | {"stream": True})) == [
        choice["text"] for choice in together
    ]


def test_a_stream_has_a_chunk_for_each_step_and_ends_as_clients_expect(served: Running) -> None:
    whole = served.chat(model="scripted", rsd={"trace": True}).json()
    told = events(served.chat(model="scripted", stream=True, stream_options={"include_usage": True}))
    assert told[-1] == "[DONE]"
    *chunks, last, usage = told[:-1]
    assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks] == [
        step["text"] for step in whole["choices"][0]["rsd"]["trace"]["steps"]
    ]
    assert [chunk["choices"][0]["delta"].get("role") for chunk in chunks] == ["assistant", None, None]
    assert all(chunk["usage"] is None for chunk in (*chunks, last))
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["choices"][0]["delta"] == {}
    assert usage["choices"] == []
    same = {key: value for key, value in usage["usage"].items() if key != "rsd"}
    assert same == {key: value for key, value in whole["usage"].items() if key != "rsd"}
    assert {chunk["id"] for chunk in told[:-1]} == {told[0]["id"]}


def test_nothing_that_was_rejected_reaches_a_client() -> None:
    decoder = scripted(["WRONG\n\n", "two\n\n", "three"], [0.1, 0.9, 0.9], ["RIGHT\n\n"])
    with running(decoders={"rsd": decoder}) as server:
        for fields in ({}, {"stream": True}, {"rsd": {"trace": True}}, {"stream": True, "rsd": {"trace": True}}):
            response = server.chat(**fields)
            assert "RIGHT" in response.text
            assert "WRONG" not in response.text


def test_a_thought_is_reasoning_and_no_content() -> None:
    thinking = Thinking(MARKERS["think"])
    decoder = scripted(["<think>first\n\n", "second</think>\n\n", "answer"], thinking=thinking)
    with running(decoders={"rsd": decoder}) as server:
        message = server.chat().json()["choices"][0]["message"]
        chunks = [event["choices"][0]["delta"] for event in events(server.chat(stream=True))[:-1]]
    result = decoder.run(QUESTION)
    assert (message["reasoning"], message["content"]) == (result.thought, result.text)
    assert "".join(chunk.get("reasoning", "") for chunk in chunks).strip() == result.thought
    assert "".join(chunk.get("content", "") for chunk in chunks) == result.text


def test_a_stop_string_ends_the_answer_also_where_it_straddles_steps() -> None:
    decoder = scripted(["one\n\n", "two\n\n", "three"])
    with running(decoders={"rsd": decoder}) as server:
        for stop, text in (("\n\ntw", "one"), (["nothing", "thr"], "one\n\ntwo\n\n"), ([], "one\n\ntwo\n\nthree")):
            whole = server.chat(stop=stop).json()["choices"][0]
            assert (whole["message"]["content"], whole["finish_reason"]) == (text, "stop")
            assert streamed(server.chat(stop=stop, stream=True)) == [text]


def test_usage_counts_the_answers_own_tokens_and_the_bill_is_that_of_the_ledger() -> None:
    decoder = scripted(["one two\n\n", "wrong\n\n", "three"], [0.9, 0.1, 0.9], ["x", "right one here\n\n"])
    result = decoder.run(QUESTION)
    with running(decoders={"rsd": decoder}) as server:
        usage = server.chat(n=2).json()["usage"]
    own = sum(step.size for step in result.steps)
    assert usage["prompt_tokens"] == result.prompt_tokens == len(QUESTION.split())
    assert usage["completion_tokens"] == 2 * own
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    for role in ("drafter", "verifier", "target"):
        account = result.ledger.account(role)
        assert usage["rsd"][role]["generated"] == 2 * account.generated
        assert usage["rsd"][role]["computed"] == 2 * account.computed
    assert usage["rsd"]["drafter"]["generated"] > own - result.ledger.target.generated  # the rejected draft


def test_usage_counts_each_prompt_of_a_request_even_if_two_are_equal() -> None:
    body = {"model": "rsd", "prompt": [QUESTION, QUESTION], "n": 2}
    with running(decoders={"rsd": scripted(["one"])}) as server:
        usage = server.client.post("/v1/completions", json=body).json()["usage"]
    assert usage["prompt_tokens"] == 2 * len(QUESTION.split())


def test_finish_reason_and_handled_faults_are_reported() -> None:
    decoder = scripted([RuntimeError("out of memory"), "two\n\n", "three"])
    with running(decoders={"rsd": decoder}) as server:
        choice = server.chat(max_tokens=3).json()["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["rsd"]["finish_reason"] == "max_tokens"
    assert [one["kind"] for one in choice["rsd"]["degradations"]] == ["drafter_error"]


def test_a_requests_policy_and_limits_are_its_own(served: Running) -> None:
    by_target = served.chat(rsd={"policy": "always_target", "trace": True}).json()["choices"][0]["rsd"]
    assert {step["author"] for step in by_target["trace"]["steps"]} == {"target"}
    as_data = served.chat(rsd={"policy": parse_policy("always_draft").model_dump(mode="json")}).json()
    assert as_data["choices"][0]["rsd"]["target_share"] == 0
    short = served.chat(rsd={"limits": {"max_steps": 1}}).json()["choices"][0]
    assert (short["rsd"]["steps"], short["rsd"]["finish_reason"]) == (1, "max_steps")
    assert served.chat().json()["choices"][0]["rsd"]["finish_reason"] == "stop"


@given(served_most=st.integers(1, 9), asked=st.integers(1, 9))
def test_limits_of_a_request_tighten_and_never_widen(served_most: int, asked: int) -> None:
    from rsd_core import Limits
    from rsd_integrations.serve.models import ReadyModel

    model = ReadyModel("rsd", scripted(max_steps=served_most, max_tokens=20))
    own = model.decoder({}, Limits(max_steps=asked, max_tokens=30)).limits
    assert (own.max_steps, own.max_tokens) == (min(served_most, asked), 20)


def test_what_the_models_have_in_common_is_loaded_once() -> None:
    from rsd_integrations.serve.models import ServedModels

    embedded = ServeConfig.embedded()
    models = ServedModels(embedded.models, {})
    rsd, target = models.get("rsd").decoder({}), models.get("target").decoder({})
    assert rsd.target is target.target is not None


def test_a_tool_call_in_a_text_is_a_tool_call() -> None:
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": [2]}}\n</tool_call>'
    drafter = ScriptedDrafter(["I look.\n\n", call])
    decoder = scripted()
    decoder.drafter = drafter
    for model in (drafter, decoder.target):
        model.renders_tools = True
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    with running(decoders={"rsd": decoder}) as server:
        whole = server.chat(tools=tools).json()["choices"][0]
        chunks = [event["choices"][0] for event in events(server.chat(tools=tools, stream=True))[:-1]]
        plain = server.chat().json()["choices"][0]
        none = server.chat(tools=tools, tool_choice="none").json()["choices"][0]
    assert whole["finish_reason"] == chunks[-1]["finish_reason"] == "tool_calls"
    assert whole["message"]["content"] == "".join(chunk["delta"].get("content", "") for chunk in chunks) == "I look."
    (called,) = whole["message"]["tool_calls"]
    (part,) = [part for chunk in chunks for part in chunk["delta"].get("tool_calls", ())]
    for one in (called, part):
        assert one["function"]["name"] == "add"
        assert json.loads(one["function"]["arguments"]) == {"a": 1, "b": [2]}
    assert part["index"] == 0
    assert plain["finish_reason"] == "stop"
    assert call in plain["message"]["content"]  # without tools in the request it is text
    assert none["message"] == plain["message"]


def test_usage_of_nothing_is_zero() -> None:
    assert usage_of([])["total_tokens"] == 0
