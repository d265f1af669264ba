"""Hostile and unlucky clients: invalid requests are refused by name, and interrupted ones leave nothing behind."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import logging
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.middleware.base import BaseHTTPMiddleware

from rsd_core import Cancellation, ConfigurationError, RSDConfig
from rsd_integrations.serve import ServeConfig, Serving, create_app
from rsd_integrations.serve.admission import Admission
from rsd_integrations.serve.answers import Answer, usage_of
from tests.serve.running import QUESTION, Running, running, scripted, wait_until

SCRIPTS = {"drafter": "scripted:draft", "verifier": "scripted:verifier", "target": "scripted:target"}
BODY = {"model": "rsd", "messages": [{"role": "user", "content": "Go on"}]}


def endless(**settings: Any) -> Any:
    """A decoder whose answers end by a limit alone, after a few seconds."""
    return scripted(lambda path, _: f"on, {path.depth} times\n\n", [0.9], [""], delay=0.02, max_steps=200, **settings)


def nested(depth: int) -> str:
    """JSON with the given number of nested objects."""
    return '{"a":' * depth + "1" + "}" * depth


@pytest.mark.parametrize("policy", ["first_steps:then=p.json,n=1", "retry:then=p.json ", "first_steps:1,then=p.json "])
def test_no_spelling_of_a_policy_names_a_file_of_the_server(
    policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "p.json").write_text('{"kind": "always_draft"}')
    monkeypatch.chdir(tmp_path)
    with running(ServeConfig(models={"rsd": RSDConfig.parse({**SCRIPTS})})) as server:
        refused = server.chat(rsd={"policy": policy})
    assert refused.status_code == 400
    assert "not as a file" in refused.json()["error"]["message"]


def test_a_policy_of_a_request_keeps_what_the_configured_one_may_spend() -> None:
    config = RSDConfig.parse({**SCRIPTS, "policy": "request_budget:calls=1"})
    with running(ServeConfig(models={"rsd": config})) as server:
        told = server.chat(rsd={"policy": "always_target", "trace": True}).json()["choices"][0]["rsd"]
    assert told["trace"]["ledger"]["target"]["calls"] == 1


@pytest.mark.parametrize("method", ["target", {"kind": "rsd", "policy": "always_draft"}])
def test_a_policy_that_would_never_be_asked_is_refused(method: Any) -> None:
    with running(ServeConfig(models={"rsd": RSDConfig.parse({**SCRIPTS, "method": method})})) as server:
        refused = server.chat(rsd={"policy": "always_target"})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "rsd.policy")
        assert server.chat().status_code == 200


def test_no_body_is_a_fault_of_the_server_or_a_text_of_its_log(caplog: pytest.LogCaptureFixture) -> None:
    user = '"messages": [{"role": "user", "content": "my secret plan"}]'
    call = '"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": %s}}]}]'
    bodies = [
        '"messages": [{"role": "user", "content": "my secret plan \\ud800"}]',
        '"messages": [{"role": "user", "content": [{"type": [], "text": "x"}]}]',
        call % json.dumps(nested(3000)),
        call % json.dumps('{"a": "\\ud800"}'),
        '"\\ud800": 1, ' + user,
        *(f'"{name}": {nested(500)}, {user}' for name in ("user", "chat_template_kwargs", "logit_bias")),
        f'"rsd": {{"policy": {nested(500)}}}, {user}',
        f'"rsd": {{"policy": "{"retry/" * 900}sigmoid"}}, {user}',
        '"stop": ["x"' + ', "y"' * 64 + "], " + user,
    ]
    config = ServeConfig(models={"rsd": RSDConfig.parse(SCRIPTS)})
    with caplog.at_level(logging.DEBUG), running(config) as server:
        for body in bodies:
            told = server.client.post(
                "/v1/chat/completions",
                content='{"model": "rsd", ' + body + "}",
                headers={"content-type": "application/json"},
            )
            assert told.status_code == 400, body[:100]
        assert server.chat().status_code == 200
    assert "secret" not in caplog.text


def test_a_body_of_nothing_but_faults_does_not_hold_the_others_up() -> None:
    unknown = {f"max_step{i}": 1 for i in range(10_000)}
    with running(decoders={"rsd": scripted()}) as server:
        began = time.monotonic()
        for body in (BODY | {"messages": [1] * 200_000}, BODY | {"rsd": {"limits": unknown}}):
            assert server.client.post("/v1/chat/completions", json=body).status_code == 400
        assert time.monotonic() - began < 1.5  # 3 s before, all of it on the event loop


def test_an_unexpected_error_has_its_requests_id_and_leaves_the_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(name: str) -> None:
        raise KeyError(name)

    with running(decoders={"rsd": scripted()}) as server:
        with monkeypatch.context() as patch:
            patch.setattr(server.serving.models, "get", broken)
            response = server.client.post("/v1/chat/completions", json=BODY, headers={"x-request-id": "trace-1"})
        assert response.status_code == 500
        assert response.headers["x-request-id"] == "trace-1"
        assert server.chat().status_code == 200  # on the same connection
        assert server.metric("rsd_http_requests_total", status="500") == 1
    assert [one.name for one in caplog.records if one.exc_info] == ["rsd_integrations.serve.errors"]


def test_what_is_written_is_sent_where_a_drain_ends_answers_that_still_wait() -> None:
    config = ServeConfig(concurrency=1, queue=9, drain=0.2)
    with running(config, {"rsd": endless()}) as server, concurrent.futures.ThreadPoolExecutor() as pool:
        asked = [pool.submit(server.chat, n=3, stream=stream) for stream in (False, True)]
        wait_until(lambda: server.serving.admission.waiting == 5)
        server.loop.call_soon_threadsafe(server.serving.drain)
        told = sorted((one.result() for one in asked), key=lambda one: one.status_code)
    assert [one.status_code for one in told] == [200, 503]  # the other one had not begun
    assert "on, 0 times" in told[0].text
    assert "error" not in told[0].text
    assert told[0].text.count('"finish_reason":"cancelled"') == 3
    assert (server.serving.admission.in_flight, server.serving.admission.waiting) == (0, 0)


def test_a_server_that_ends_at_once_says_so() -> None:
    async def run() -> list[Any]:
        serving, sent = Serving(ServeConfig(), {"rsd": endless()}), []

        async def receive() -> Any:
            if not sent_body:
                sent_body.append(True)
                return {"type": "http.request", "body": json.dumps(BODY).encode()}
            return await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        sent_body: list[bool] = []
        scope = _scope("/v1/chat/completions")
        request = asyncio.ensure_future(create_app(serving=serving)(scope, receive, send))
        while not serving.admission.in_flight:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)
        serving.drain()
        request.cancel()
        await request
        assert (serving.admission.in_flight, serving.admission.waiting) == (0, 0)
        return sent

    start, body = asyncio.run(run())
    assert start["status"] == 503
    assert b"the server is shutting down" in body["body"]


def test_a_server_that_tells_by_an_error_that_the_client_went_away_is_understood(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As the ASGI specification has it from 2.4 on; uvicorn says nothing."""

    async def run() -> Serving:
        serving, sent = Serving(ServeConfig(), {"rsd": endless()}), []
        bodies = [{"type": "http.request", "body": json.dumps(BODY | {"stream": True, "n": 3}).encode()}]

        async def receive() -> Any:
            return bodies.pop() if bodies else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)
            if len(sent) > 5:
                raise OSError("gone")

        await asyncio.wait_for(create_app(serving=serving)(_scope("/v1/chat/completions"), receive, send), 5)
        return serving

    serving = asyncio.run(run())
    assert (serving.admission.in_flight, serving.admission.waiting) == (0, 0)
    text = serving.metrics.text().decode()
    assert 'rsd_requests_total{finish_reason="cancelled",model="rsd"} 3.0' in text
    assert 'status="499"' in text
    assert not [one for one in caplog.records if one.exc_info]


def test_behind_a_middleware_of_somebody_elses_a_client_that_goes_away_is_not_a_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def wrap(app: Any) -> FastAPI:
        async def passed(request: Any, call_next: Any) -> Any:
            return await call_next(request)

        outer = FastAPI()
        outer.add_middleware(BaseHTTPMiddleware, dispatch=passed)
        outer.mount("/mine", app)
        return outer

    with running(decoders={"rsd": endless()}, wrap=wrap) as server:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(server.url + "/mine/v1/chat/completions", json=BODY, timeout=0.2, trust_env=False)
        wait_until(lambda: _http(server, "499") == 1, 3)
    assert not [one for one in caplog.records if one.exc_info]


def test_who_is_cancelled_before_it_waits_leaves_the_queue_at_once() -> None:
    async def run() -> None:
        admission, cancel = Admission(1, 9), Cancellation()
        admission.enter(3)
        async with admission.place(cancel):
            leaving = asyncio.ensure_future(_take(admission, other := Cancellation()))
            await asyncio.sleep(0)
            other.cancel()
            assert not await asyncio.wait_for(leaving, 1)
            assert not await asyncio.wait_for(_take(admission, other), 1)
            assert not admission._line  # clients that left are forgotten
        assert (admission.in_flight, admission.waiting) == (0, 0)

    asyncio.run(run())


def test_an_invalid_call_stays_where_it_was_written() -> None:
    text = "I say <tool_call>add 1</tool_call> and go on."
    decoder, answer = scripted([text]), Answer(0, tools=True)
    for event in decoder.stream(QUESTION):
        answer.feed(event)
    assert (answer.whole.content, answer.whole.calls) == (text, [])


def test_the_prompt_is_counted_also_where_the_last_answer_never_read_it() -> None:
    decoder, gone = scripted(), Cancellation()
    gone.cancel()
    results = [decoder.run(QUESTION), decoder.run(QUESTION, repeat=1, cancel=gone)]
    assert usage_of([results])["prompt_tokens"] == len(QUESTION.split())


def test_mounted_the_models_are_loaded_once_and_why_they_cannot_be_is_for_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[int] = []

    def failing(self: object, *_: object) -> None:
        loads.append(1)
        time.sleep(0.1)
        raise ConfigurationError("there is no folder /srv/models/secret")

    monkeypatch.setattr("rsd_integrations.serve.models.ConfiguredModel.decoder", failing)
    outer = FastAPI()
    config = ServeConfig(models={"rsd": RSDConfig.parse(SCRIPTS)})

    def wrap(app: Any) -> FastAPI:
        outer.mount("/mine", app)
        return outer

    with running(config, wrap=wrap) as server, concurrent.futures.ThreadPoolExecutor() as pool:
        asked = [pool.submit(server.client.post, "/mine/v1/chat/completions", json=BODY) for _ in range(3)]
        wait_until(lambda: bool(loads))
        assert len(loads) == 1  # one thread at a time
        told = [one.result() for one in asked]
    assert {one.status_code for one in told} == {503}
    assert "secret" not in told[0].text
    assert "/srv/models/secret" in caplog.text


def _http(server: Running, status: str) -> float:
    return sum(
        sample.value
        for family in server.serving.metrics._http.collect()
        for sample in family.samples
        if sample.name.endswith("_total") and sample.labels["status"] == status
    )


async def _take(admission: Admission, cancel: Cancellation) -> bool:
    from rsd_integrations.serve.admission import NoPlaceError

    try:
        async with admission.place(cancel):
            return True
    except NoPlaceError:
        return False


def _scope(path: str) -> dict[str, Any]:
    headers = [(b"content-type", b"application/json")]
    return {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
        "http_version": "1.1",
        "scheme": "http",
        "asgi": {"version": "3.0"},
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "root_path": "",
    }
