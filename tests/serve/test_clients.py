"""Third-party clients: OpenAI's package and curl get the texts of the bare decoder from `rsd serve`."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionUserMessageParam

from rsd_core import Decoder, RewardGuidedDecoder, RSDConfig
from rsd_core.testing import ScriptedVerifier
from rsd_integrations.embedded.task import problems
from rsd_integrations.serve import ServeConfig
from tests.serve.running import running, scripted, wait_until
from tests.thinkers import Shown, ShownTarget

ASKED = [problem.question for _, problem in zip(range(6), problems("test", 5), strict=False)]
KEY = "sk-of-this-server"


def said(question: str) -> list[ChatCompletionUserMessageParam]:
    return [{"role": "user", "content": question}]


@pytest.fixture
def client(served: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_models_are_listed_and_told_of_by_openais_package(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names == ["rsd", "draft", "target"]
    assert [client.models.retrieve(name).owned_by for name in names] == ["rsd"] * 3


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_chats_and_completions_are_the_texts_of_the_bare_decoder(
    client: openai.OpenAI, bare: Decoder, temperature: float
) -> None:
    decoder = bare.with_settings(bare.settings.updated(temperature=temperature))
    for question in ASKED[:3]:
        wanted = [decoder.run(question, seed=11, repeat=i) for i in range(2)]
        asked: dict[str, Any] = {"model": "rsd", "seed": 11, "n": 2, "temperature": temperature}
        chat = client.chat.completions.create(messages=said(question), **asked)
        assert [choice.message.content for choice in chat.choices] == [result.text for result in wanted]
        assert [choice.finish_reason for choice in chat.choices] == ["stop", "stop"]
        assert chat.usage is not None
        assert chat.usage.prompt_tokens == wanted[0].prompt_tokens
        assert chat.usage.completion_tokens == sum(step.size for result in wanted for step in result.steps)
        chunks = list(client.chat.completions.create(messages=said(question), stream=True, **asked))
        completion = client.completions.create(prompt=question, **asked)
        pieces = list(client.completions.create(prompt=question, stream=True, **asked))
        for i, result in enumerate(wanted):
            own = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices if choice.index == i]
            texts = [choice.text for piece in pieces for choice in piece.choices if choice.index == i]
            assert "".join(own) == completion.choices[i].text == "".join(texts) == result.text


async def test_many_asynchronous_calls_side_by_side_get_each_their_own(served: str, bare: Decoder) -> None:
    async with openai.AsyncOpenAI(base_url=f"{served}/v1", api_key="none", max_retries=0) as client:

        async def whole(question: str) -> str | None:
            chat = await client.chat.completions.create(model="rsd", messages=said(question), seed=3)
            return chat.choices[0].message.content

        async def streamed(question: str) -> str | None:
            stream = await client.chat.completions.create(model="rsd", messages=said(question), seed=3, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        answers = await asyncio.gather(*map(whole, ASKED), *map(streamed, ASKED))
    assert answers == [bare.run(question, seed=3).text for question in ASKED] * 2


def test_openais_accumulating_stream_ends_in_the_whole_answer(client: openai.OpenAI, bare: Decoder) -> None:
    asked: dict[str, Any] = {"model": "rsd", "messages": said(ASKED[0]), "stream_options": {"include_usage": True}}
    with client.chat.completions.stream(**asked) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
    told = stream.get_final_completion()
    wanted = bare.run(ASKED[0])
    assert told.choices[0].message.content == "".join(deltas) == wanted.text
    assert len(deltas) == len(wanted.steps)
    assert told.usage is not None
    assert told.usage.total_tokens == wanted.prompt_tokens + sum(step.size for step in wanted.steps)


def test_what_is_this_projects_own_goes_through_extra_body(client: openai.OpenAI) -> None:
    own = {"rsd": {"policy": "always_target", "trace": True}}
    chat = client.chat.completions.create(model="rsd", messages=said(ASKED[0]), extra_body=own)
    told = (chat.choices[0].model_extra or {})["rsd"]
    assert {step["author"] for step in told["trace"]["steps"]} == {"target"}
    with RSDConfig.parse({"policy": "always_target"}).build() as decoder:
        assert chat.choices[0].message.content == decoder.run(ASKED[0]).text
    assert chat.usage is not None
    assert (chat.usage.model_extra or {})["rsd"]["target"]["generated"] == chat.usage.completion_tokens
    assert (chat._request_id or "").startswith("req_")


def test_what_is_wrong_has_the_classes_of_openais_package(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="this server has rsd, draft, target") as missing:
        client.chat.completions.create(model="gpt-4", messages=said("Hi"))
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError, match="mixture") as refused:
        client.chat.completions.create(model="rsd", messages=said("Hi"), logprobs=True)
    assert refused.value.param == "logprobs"
    with pytest.raises(openai.BadRequestError, match="context") as long:
        client.completions.create(model="rsd", prompt="Zoe has 30 pens. " * 200)
    assert long.value.code == "context_length_exceeded"
    for ids in ([1, 2, 3], [[1, 2], [3]]):
        with pytest.raises(openai.BadRequestError, match="a prompt must be text, not token ids"):
            client.completions.create(model="rsd", prompt=ids)


def test_another_key_is_refused_and_who_finds_the_queue_full_comes_back() -> None:
    config = ServeConfig(concurrency=1, queue=0)
    with (
        running(config, {"rsd": scripted(delay=0.2)}, keys=(KEY,)) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="sk-another", max_retries=0) as stranger,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=5) as known,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list()
        first = pool.submit(server.chat)
        wait_until(lambda: server.serving.admission.in_flight == 1)
        second = known.chat.completions.create(model="rsd", messages=said("Hi"))
        assert second.choices[0].message.content == first.result().json()["choices"][0]["message"]["content"]
        assert server.metric("rsd_http_requests_total", status="429") >= 1


def test_a_stream_that_is_closed_early_ends_the_work() -> None:
    endless = scripted(lambda path, _: f"{path.depth}\n\n", [0.9], delay=0.02, max_steps=500)
    with (
        running(decoders={"rsd": endless}) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client,
    ):
        with client.chat.completions.create(model="rsd", messages=said("Go on"), stream=True) as stream:
            assert next(stream).choices[0].delta.content == "0\n\n"
        wait_until(lambda: server.serving.admission.in_flight == 0, 3)
        assert server.metric("rsd_requests_total", finish_reason="cancelled") == 1


def test_tools_are_called_also_with_the_fields_that_frameworks_send_along() -> None:
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'
    decoder = RewardGuidedDecoder(
        drafter=Shown(["I add.\n\n", call]), verifier=ScriptedVerifier([0.9]), target=ShownTarget(["x"])
    )
    tool: Any = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}, "strict": False}}
    with (
        running(decoders={"rsd": decoder}) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client,
    ):
        asked: dict[str, Any] = {"model": "rsd", "messages": said("What is 1+2?"), "tools": [tool]}
        asked |= {"tool_choice": "auto", "parallel_tool_calls": True, "response_format": {"type": "text"}}
        whole = client.chat.completions.create(**asked)
        with client.chat.completions.stream(**asked) as stream:
            final = stream.get_final_completion()
        for chat in (whole, final):
            (called,) = chat.choices[0].message.tool_calls or [None]
            assert called is not None
            assert called.type == "function"
            assert (called.function.name, json.loads(called.function.arguments)) == ("add", {"a": 1, "b": 2})
            assert (chat.choices[0].message.content, chat.choices[0].finish_reason) == ("I add.", "tool_calls")
        with pytest.raises(
            openai.BadRequestError, match=r"a forced call of a tool cannot be honoured: .*does not accept resp"
        ):
            client.chat.completions.create(**asked | {"tool_choice": "required"})


needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def curl(url: str, *options: str) -> str:
    """What curl prints."""
    command = ["curl", "--silent", "--show-error", "--max-time", "60", *options, url]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True).stdout


@needs_curl
def test_curl_gets_an_answer_and_sees_a_stream_as_events(served: str, bare: Decoder) -> None:
    body = {"model": "rsd", "messages": said(ASKED[0]), "seed": 5}
    wanted = bare.run(ASKED[0], seed=5)
    url = f"{served}/v1/chat/completions"
    told = json.loads(curl(url, "--json", json.dumps(body)))
    assert told["choices"][0]["message"]["content"] == wanted.text
    lines = curl(url, "--no-buffer", "--include", "--json", json.dumps(body | {"stream": True})).splitlines()
    assert "content-type: text/event-stream; charset=utf-8" in lines
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert data.pop() == "[DONE]"
    assert "".join(json.loads(one)["choices"][0]["delta"].get("content", "") for one in data) == wanted.text


@needs_curl
def test_curl_gets_an_error_for_a_body_that_is_not_json_and_for_a_form(served: str) -> None:
    code = ("--write-out", "\n%{http_code}", "--data", "{bad")
    for kind, status in (("application/json", "400"), ("application/x-www-form-urlencoded", "415")):
        told, _, answered = curl(
            f"{served}/v1/chat/completions", "--header", f"content-type: {kind}", *code
        ).rpartition("\n")
        assert answered == status
        assert json.loads(told)["error"]["type"] == "invalid_request_error"


def test_the_health_and_the_metrics_of_a_process_are_there(served: str) -> None:
    assert httpx.get(f"{served}/health", trust_env=False).json() == {"status": "ok"}
    assert "rsd_requests_total" in httpx.get(f"{served}/metrics", trust_env=False).text
